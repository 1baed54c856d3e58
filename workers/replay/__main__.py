"""`python -m workers.replay OUTPUT STEP`."""

import sys

from workers.replay.command import main

if __name__ == "__main__":
    sys.exit(main())
