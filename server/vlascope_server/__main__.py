"""`python -m vlascope_server` is `vlascope-server`."""

import sys

from vlascope_server.commands import main

sys.exit(main())
