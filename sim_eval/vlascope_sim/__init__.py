"""LIBERO environments, demonstrations, and rollouts against a policy server; JAX, checkpoints and stores are the server's."""
