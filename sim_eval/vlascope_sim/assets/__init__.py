"""LIBERO's 3D assets: official ones where there are some, else stand-ins made on the spot."""

from vlascope_sim.assets.resolve import AssetSet, resolve_assets

__all__ = ["AssetSet", "resolve_assets"]
