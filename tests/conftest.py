"""What holds for every test: strict numerics, for mixing dtypes without saying so is an error, and a cache of its own."""

import os
import tempfile

# set before JAX is imported: tests run where it is fastest to start, and never on a GPU by accident
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# half of what tests wait for is XLA: what one test has compiled, no other compiles again, in whatever process; gone at the end
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="vlascope-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ.setdefault("JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# a bound for every process alike: one that has a bound dates what it keeps, and stumbles over what others left undated
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(4 * 10**9))

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Downloads, stand-in assets and resized images stay in the tests' own folder, also those of processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLASCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
