"""Capture without a robot: recorded observations go through a policy, and what is inside of it into a latent store.

Its modules are imported one by one, so that the command line can read `options.py` without JAX.
"""
