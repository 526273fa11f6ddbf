"""The publish stage: publish the contents of the catalogue as an index and a site (`pipeline.catalogue.publishing`)."""

from __future__ import annotations

import logging

from pipeline.catalogue.copies import PAGE
from pipeline.catalogue.publishing import publish
from pipeline.stages.context import RunContext

log = logging.getLogger(__name__)


def run(context: RunContext) -> None:
    """Publish the current contents of the catalogue, unless they are published already."""
    # Another run may publish meanwhile, and the last publication has to contain everything.
    while publish(context.store):
        log.info("publish: %s/%s", context.settings.catalogue.rstrip("/"), PAGE)
