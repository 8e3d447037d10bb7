"""What is in a dataset, and what is wrong with it: LeRobot datasets, folders of HDF5 or NPZ episodes."""

from vlascope_datasets.survey.episodes import Anomaly, EpisodeFacts, Facts, Summary
from vlascope_datasets.survey.report import gather, summarise

__all__ = ["Anomaly", "EpisodeFacts", "Facts", "Summary", "gather", "summarise"]
