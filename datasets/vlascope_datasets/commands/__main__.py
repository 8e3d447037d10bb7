"""`python -m vlascope_datasets.commands` is `vlascope-datasets`."""

import sys

from vlascope_datasets.commands import main

sys.exit(main())
