"""The ground floor: what every member but the client uses, and what stands nowhere else."""

from vlascope_base.errors import OptionError, VlascopeError

__all__ = ["OptionError", "VlascopeError"]
