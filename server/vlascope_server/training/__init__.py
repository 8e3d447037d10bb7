"""Training: a policy on a LeRobot dataset, by flow matching.

`options.py` has what a person decides, and imports no JAX; `trainer.py` has `train`.
"""
