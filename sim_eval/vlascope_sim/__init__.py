"""LIBERO environments and rollouts against a policy server.

Knows nothing of JAX, of checkpoints or of stores.
"""
