"""Which episodes of a dataset, and which frames of them, stand for it: a plan that another command works through."""

from vlascope_datasets.sampling.plan import PLAN, PlannedEpisode, SamplingPlan, read_plan

__all__ = ["PLAN", "PlannedEpisode", "SamplingPlan", "read_plan"]
