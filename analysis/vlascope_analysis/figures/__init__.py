"""Figures from tables, without a display."""

from vlascope_analysis.figures.confusion import confusion_figure
from vlascope_analysis.figures.curve import curve_figure
from vlascope_analysis.figures.heatmap import heatmap_figure
from vlascope_analysis.figures.style import save

__all__ = ["confusion_figure", "curve_figure", "heatmap_figure", "save"]
