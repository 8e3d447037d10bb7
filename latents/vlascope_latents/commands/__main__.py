"""`python -m vlascope_latents.commands` is `vlascope-latents`."""

import sys

from vlascope_latents.commands import main

sys.exit(main())
