"""Probes and reports over captured latents, and arithmetic on the checkpoints that produced them.

Knows nothing of the wire or of simulations.
"""
