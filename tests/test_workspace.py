"""The house keeps its promises: members stand alone, and only those that compute import JAX."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import vlascope_client


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("vlascope_client", {"jax", "torch"}),
        ("vlascope_latents", {"jax", "torch"}),
        ("vlascope_datasets", {"jax", "torch"}),
        ("vlascope_sim", {"jax", "torch"}),
        ("vlascope_server.model", {"torch", "transformers"}),
        ("vlascope_analysis.data.encoders.minilm", {"jax", "torch"}),
        ("vlascope_analysis.data.labels", {"jax", "torch"}),
        ("vlascope_analysis.analyses.probe.compute", {"jax", "torch"}),
        ("vlascope_analysis.analyses.sweep.compute", {"jax", "torch"}),
    ],
)
def test_importing_a_member_leaves_alone(package, never):
    code = f"import sys, {package}; print(*sys.modules, sep='\\n')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not never & set(run.stdout.split())


@pytest.mark.parametrize("name", ["analysis", "datasets", "latents", "server", "sim"])
def test_a_command_and_its_module_say_their_version(name):
    script = Path(sys.executable).with_name(f"vlascope-{name}")
    said = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        for command in ([str(script)], [sys.executable, "-m", f"vlascope_{name}"])
    ]
    assert said[0] == said[1]
    version = importlib.metadata.version(f"vlascope-{name}")
    assert re.fullmatch(rf"vlascope-{name} {re.escape(version)}( \([0-9a-f]{{40}}(\+changes)?\))?\n", said[0])


def test_the_client_which_has_no_command_says_its_version_too():
    version = importlib.metadata.version("vlascope-client")
    command = [sys.executable, "-m", "vlascope_client", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"vlascope-client {version}\n"
    assert vlascope_client.__version__ == version
