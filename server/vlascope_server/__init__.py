"""Pi0 and Pi0.5 in JAX with capture taps; as it grows, checkpoints, training and the policy server.

Knows nothing of simulations or of what becomes of captured latents once they are stored.
"""
