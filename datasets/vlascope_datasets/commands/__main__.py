"""`python -m vlascope_datasets.commands` is `vlascope-datasets`. Knows nothing else."""

import sys

from vlascope_datasets.commands import main

sys.exit(main())
