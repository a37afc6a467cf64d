#!/usr/bin/env bash
# Builds the wheel, installs it into an empty virtual environment, and uses it there from outside
# the source tree. PYTHON: the interpreter that builds (it needs torch, setuptools and ninja).
# CONSTRAINTS, TORCH_INDEX: as in the Makefile. WHEELS: a folder that is to keep the wheel, for the
# test of what is in it, which otherwise builds another.
set -euo pipefail
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip --disable-pip-version-check wheel -q --no-deps --no-build-isolation -w "$work" "$root"
wheel=$(echo "$work"/*.whl)
echo "built $(basename "$wheel"), $(du -k "$wheel" | cut -f1) kB"
[ -z "${WHEELS:-}" ] || { mkdir -p "$WHEELS" && cp "$wheel" "$WHEELS"; }
case $wheel in *cp310-abi3*) ;; *) echo "not a cp310-abi3 wheel" >&2; exit 1 ;; esac

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q \
  ${CONSTRAINTS:+-c "$CONSTRAINTS"} ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$wheel"
cd "$work"
"$work/venv/bin/python" -W error::RuntimeWarning - <<'PY'
import steer_kernels
import torch

assert "site-packages" in steer_kernels.__file__, steer_kernels.__file__
stats = steer_kernels.logit_stats(torch.tensor([[0.0, 2.0, 1.0]]), k=2)
assert stats.topk_ids.tolist() == [[1, 2]], stats
from steer_kernels import fast

assert not fast.native()  # its native part is for one Python only
assert fast.logit_stats_(torch.tensor([[0.0, 2.0, 1.0]]), fast.empty_stats(1, 2)).topk_ids.tolist() == [[1, 2]]
print(steer_kernels.build_info())
from importlib.resources import files

for name in ("page.html", "page.css", "page.js"):
    assert (files("steer_decode.evaluation.report") / name).is_file(), name
PY
"$work/venv/bin/steer" generate --pair demo --problem math:31
"$work/venv/bin/steer" bench kernels --batches 1 --vocabs 1000 --seconds 0.01 --no-compile
echo "wheel smoke test passed"
