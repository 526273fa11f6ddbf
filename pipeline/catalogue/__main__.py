"""`python -m pipeline.catalogue`: the command line of consumers and publishers."""

from __future__ import annotations

import sys

from pipeline.cli.catalogue import main

if __name__ == "__main__":
    sys.exit(main())
