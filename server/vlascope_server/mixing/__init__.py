"""Checkpoint arithmetic: several checkpoints of one architecture become one, by weights that are given or found.

The main function is `mix.mix`; `options.MixOptions` is everything that a person decides about it.
"""
