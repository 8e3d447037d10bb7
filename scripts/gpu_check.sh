#!/usr/bin/env bash
# What a GPU has to show, on a machine that may have nothing but Python, JAX and a checkout: no installation, no network.
#
#   scripts/gpu_check.sh --output DIR [--only PART]... [--size full|small] [--minutes 8] [--wheels FOLDER]
#
# Without the serving and training parts it needs jax, numpy, jaxtyping, ml-dtypes and pytest; the store's part needs zarr too.
# --wheels names a folder of wheels for what the machine lacks; they are unpacked into a temporary folder. PYTHON chooses
# the interpreter.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
given=()
wheels=
while [ $# -gt 0 ]; do
  case "$1" in
    --wheels) wheels=${2:?--wheels names a folder}; shift 2 ;;
    *) given+=("$1"); shift ;;
  esac
done
paths=$root:$root/base:$root/client:$root/latents:$root/datasets:$root/server:$root/sim_eval:$root/analysis
if [ -n "$wheels" ]; then
  unpacked=$(mktemp -d)
  trap 'rm -rf "$unpacked"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --target "$unpacked" "$wheels"/*.whl
  paths=$paths:$unpacked
fi
export PYTHONPATH=$paths${PYTHONPATH:+:$PYTHONPATH}
"$python" "$root/benchmarks/gpu_check.py" "${given[@]}"
