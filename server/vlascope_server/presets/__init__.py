"""Policies by name: small trained ones, the published ones, and some with drawn weights."""

from vlascope_server.model import Pi0Config
from vlascope_server.presets.preset import Preset
from vlascope_server.presets.published import PUBLISHED
from vlascope_server.presets.tiny import BUNDLED, SIBLINGS, TINY, TINY_PI05

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (BUNDLED, *SIBLINGS, *PUBLISHED)}
"""Name -> trained checkpoint: those that come with the package, and the published ones."""

SEEDED: dict[str, Pi0Config] = {"tiny-drawn": TINY, "tiny-pi05": TINY_PI05}
"""Name -> architecture whose weights are drawn, not read."""

__all__ = ["PRESETS", "PUBLISHED", "SEEDED", "Preset"]
