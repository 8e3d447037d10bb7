"""`python -m vlascope_sim.commands` is `vlascope-sim`. Knows nothing else."""

import sys

from vlascope_sim.commands import main

if __name__ == "__main__":  # worker processes import this module too
    sys.exit(main())
