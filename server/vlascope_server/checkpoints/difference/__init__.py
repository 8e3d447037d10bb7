"""The difference of two checkpoints: numbers, a report in words, figures, files."""

from vlascope_server.checkpoints.difference.compare import compare
from vlascope_server.checkpoints.difference.result import Difference, ParameterDifference, Side, group_of
from vlascope_server.checkpoints.difference.spectral import Spectrum
from vlascope_server.checkpoints.difference.sums import Sums, measure

__all__ = ["Difference", "ParameterDifference", "Side", "Spectrum", "Sums", "compare", "group_of", "measure"]
