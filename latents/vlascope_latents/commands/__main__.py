"""`python -m vlascope_latents.commands` is `vlascope-latents`. Knows nothing else."""

import sys

from vlascope_latents.commands import main

sys.exit(main())
