"""`python -m workers.replay OUTPUT STEP`: trains a stored step of reinforcement learning again and compares.

    checkpoint of step c < STEP ──> steps c+1 … STEP from their stored rollouts ──> metrics beside the logged ones

c is the newest whole checkpoint before the step; without one, RL's beginning: what SFT ended with, or the base model.
Nothing is written to OUTPUT; what is not on this machine is copied to the folder for temporary files.

As many ranks as the run had, on the same kind of machine and with as many threads each, repeat it to the bit; others up
to rounding.
"""

from workers.replay.beginning import CannotReplay
from workers.replay.comparison import Replayed, replay

__all__ = ["CannotReplay", "Replayed", "replay"]
