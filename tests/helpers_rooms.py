"""`bench` and `calibration` belong to the repository, not the package: to import them its root must be on the path."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
