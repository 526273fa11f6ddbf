"""How much the tests of faults try: a short schedule, or with FAULTS=full, as `make test-faults` sets it, all."""

from __future__ import annotations

import os

FULL = os.environ.get("FAULTS") == "full"


SEED = int(os.environ.get("FAULTS_SEED", "0"))
