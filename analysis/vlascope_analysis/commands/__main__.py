"""`python -m vlascope_analysis.commands` is `vlascope-analysis`. Knows nothing else."""

import sys

from vlascope_analysis.commands import main

sys.exit(main())
