"""Makes tests/fixtures importable: `from make_run import ...`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures"))
