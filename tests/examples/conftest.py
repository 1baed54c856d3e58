"""Makes the modules of the Countdown example importable, as they are when one of them runs as a script."""

import sys
from pathlib import Path

COUNTDOWN = Path(__file__).resolve().parents[2] / "examples" / "countdown"
sys.path.insert(0, str(COUNTDOWN))
