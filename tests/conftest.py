"""What holds for every test: strict numerics, for mixing dtypes without saying so is an error, and a cache of its own."""

import os

# set before JAX is imported: tests run where it is fastest to start, and never on a GPU by accident
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Downloads, stand-in assets and resized images stay in the tests' own folder, also those of processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLASCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
