"""Linear maps from features to label embeddings: trained, and in closed form. Knows nothing of stores or figures."""

from vlascope_analysis.probes.linear import TrainingConfig, train_probes
from vlascope_analysis.probes.ridge import ridge_cells
from vlascope_analysis.probes.standardise import Standardiser

__all__ = ["Standardiser", "TrainingConfig", "ridge_cells", "train_probes"]
