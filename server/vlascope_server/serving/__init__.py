"""The policy server: a websocket that speaks docs/protocol.md, batches, and captures into a store.

Knows nothing of how a policy computes.
"""
