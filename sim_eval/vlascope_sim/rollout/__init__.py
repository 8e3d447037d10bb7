"""Rollouts of a policy over campaigns of episodes."""
