"""`python -m vlascope_sim` is `vlascope-sim`."""

import sys

from vlascope_sim.commands import main

if __name__ == "__main__":  # worker processes import this module too
    sys.exit(main())
