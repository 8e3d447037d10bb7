"""`python -m vlascope_client --version` says which client is installed; there is nothing else to run."""

import argparse

from vlascope_client import __version__

parser = argparse.ArgumentParser(
    prog="python -m vlascope_client",
    description="The client is a library: `from vlascope_client import PolicyClient` is its beginning.",
)
parser.add_argument("--version", action="version", version=f"vlascope-client {__version__}")
parser.parse_args()
parser.print_help()
