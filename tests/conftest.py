"""Strict numerics for every test: mixing dtypes without saying so is an error."""

import os

# set before JAX is imported: tests run where it is fastest to start, and never on a GPU by accident
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
