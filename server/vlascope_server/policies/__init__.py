"""Policies: a checkpoint, a robot and a tokenizer as one thing that turns observations into actions.

It does not depend on who asks or on where latents go. Its modules are imported one by one, so that the command line can read
`options.py` without JAX.
"""
