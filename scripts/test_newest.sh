#!/usr/bin/env bash
# Tests of the model, the store and the client with the newest JAX, zarr and everything else that they may be installed with,
# whatever uv.lock says; about two minutes. On Python 3.12, or another: `NEWEST=3.13 make test-newest`.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(command -v uv || echo .tools/bin/uv)
version=${NEWEST:-3.12}
home=.venv-newest

# pyenv's own folders too: its commands on the path refuse to run a version that is not chosen
python=
for candidate in "$("$uv" python find --no-python-downloads "$version" 2>/dev/null)" \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version"*/bin/python; do
  if [ -x "$candidate" ] && "$candidate" -c pass 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "test-newest: there is no Python $version on this machine; nothing was tested"
  exit 0
fi

"$uv" venv --quiet --clear --python "$python" "$home"
"$uv" pip install --quiet --upgrade --python "$home" --editable ./base --editable ./client --editable "./latents[netcdf]" \
  --editable ./datasets --editable "./server[serve,train]" beartype pytest pytest-xdist tensorstore zarrs
"$home/bin/python" --version
"$uv" pip list --quiet --python "$home" | grep -E "^(jax|numpy|websockets|zarr) "

# The compact reference numbers, of plain pi0 and pi0.5. tests/server/test_taps.py is left out: it takes longer than all of these.
env -u VLASCOPE_GOLDENS "$home/bin/python" -m pytest -m "not slow" -q --numprocesses 2 --dist loadfile --no-loadscope-reorder \
  -k "not (test_reference_parity and (lora or masked or mixed))" \
  tests/latents tests/client tests/server/test_parameters.py tests/server/test_reference_parity.py
