"""Linear maps from features to label embeddings: trained, and in closed form."""

from vlascope_analysis.probes.linear import train_probes
from vlascope_analysis.probes.ridge import ridge_cells
from vlascope_analysis.probes.standardise import Standardiser

__all__ = ["Standardiser", "ridge_cells", "train_probes"]
