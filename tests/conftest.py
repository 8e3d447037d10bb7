"""What holds for every test: strict numerics, checked array shapes, and a cache of its own."""

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
from jaxtyping import install_import_hook

# mixing dtypes without saying so is an error
jax.config.update("jax_numpy_dtype_promotion", "strict")

# What a signature says of an array's shape and dtype is checked at each call, in the modules that compute with arrays.
# Modules that check what comes from outside are left out: their own errors are what tests expect.
_COMPUTING = (
    "server.model.embed", "server.model.gemma", "server.model.parameters", "server.model.pi0", "server.model.sites",
    "server.model.vision", "server.policies.pi0.policy", "server.prompts", "server.robots.arithmetic",
    "server.robots.images", "server.robots.pipeline", "server.training.augment", "server.training.frames",
    "server.training.grounding", "server.training.image_cache", "server.training.loader", "server.training.objective",
    "server.training.statistics", "analysis.data.encoders", "analysis.probes",
)  # fmt: skip
install_import_hook([f"vlascope_{module}" for module in _COMPUTING], "beartype.beartype")

_LONG = (
    "end_to_end", "test_documents.py", "server/test_taps.py", "server/test_reference_parity.py", "sim_eval/test_rollout.py",
)  # fmt: skip
"""What takes longest begins first, so that no worker is left alone with it at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files before the others; the order inside a file stays."""
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(_LONG))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Downloads, stand-in assets and resized images stay in the tests' own folder, also those of processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLASCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
