"""The policy server: a websocket that speaks docs/protocol.md, batches, and captures into a store.

Everything about how a policy computes is behind `policies`.
"""
