"""Rollouts of a policy over campaigns of episodes. Knows nothing of command lines."""
