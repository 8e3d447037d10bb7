"""`python -m vlascope_analysis` is `vlascope-analysis`."""

import sys

from vlascope_analysis.commands import main

sys.exit(main())
