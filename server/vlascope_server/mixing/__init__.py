"""Checkpoint arithmetic: several checkpoints of one architecture made into one."""
