import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from forked import base, group, packed, trained

__all__ = ["base", "group", "packed", "trained"]
