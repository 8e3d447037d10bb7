"""The house keeps its promises: members stand alone, and only those that compute import JAX."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("vlascope_client", {"jax", "torch"}),
        ("vlascope_latents", {"jax", "torch"}),
        ("vlascope_datasets", {"jax", "torch"}),
        ("vlascope_sim", {"jax", "torch"}),
        ("vlascope_server.model", {"torch", "transformers"}),
    ],
)
def test_importing_a_member_leaves_alone(package, never):
    code = f"import sys, {package}; print(*sys.modules, sep='\\n')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not never & set(run.stdout.split())
