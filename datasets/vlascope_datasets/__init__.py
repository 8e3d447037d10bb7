"""LeRobot datasets: read, write, split, statistics.

Knows nothing of models or of simulations.
"""
