"""Policies: what turns a robot's observations into actions, and the one contract through which all others see it.

A folder for each kind of policy keeps the contract (`contract.py`) and imports whatever it computes with; `loading.py` chooses
among them. It does not depend on who asks or on where latents go. Its modules are imported one by one, so that the command
line can read `options.py` without JAX, and a policy that needs no JAX is served without it.
"""
