"""Client of the policy server: the wire protocol, a policy client, action chunking.

Knows nothing of models, of stores or of simulations.
"""
