"""Publish: an index and a site of all that is in the catalogue, for its readers.

They see it at once when it is complete, and what was published before until then (`pipeline.catalogue.publishing`).
"""

from __future__ import annotations

import logging

from pipeline.catalogue.copies import PAGE
from pipeline.catalogue.publishing import publish
from pipeline.stages.context import RunContext

log = logging.getLogger(__name__)


def run(context: RunContext) -> None:
    """Publish what is there, unless that was done already."""
    # Another run may publish meanwhile, and the last to write must have seen everything.
    while publish(context.store):
        log.info("publish: %s/%s", context.settings.catalogue.rstrip("/"), PAGE)
