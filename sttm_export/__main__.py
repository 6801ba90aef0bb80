"""`python -m sttm_export`."""

import sys

from sttm_export.cli import main

sys.exit(main())
