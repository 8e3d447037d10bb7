"""Where checkpoints of RoboVLMs-style policies and the expected numbers lie: any folder of this form.

`NOTES.md` in the folder says what each file is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

FOLDER = Path(os.environ.get("VLASCOPE_GOLDENS_ROBOVLMS") or Path(__file__).parents[1] / "goldens_robovlms")
CHECKPOINTS = FOLDER / "checkpoints"
INCOMPLETE = FOLDER / "incomplete"

INDEX = json.loads((FOLDER / "index.json").read_text())
