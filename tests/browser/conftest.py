"""A browser, and the site of a catalogue of invented datasets, for all tests of the site."""

from __future__ import annotations

from tests.helpers import browsing

browser, site, store, visit = browsing.browser, browsing.site, browsing.store, browsing.visit
