"""`python -m vlascope_server.commands` is `vlascope-server`. Knows nothing else."""

import sys

from vlascope_server.commands import main

sys.exit(main())
