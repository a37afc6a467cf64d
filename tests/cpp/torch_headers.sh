#!/usr/bin/env bash
# Compiles csrc/bind/*.cpp, without code, against the headers of the torches that are named; of the
# oldest that setup.py promises and the newest that the tests know, where none is.
# PYTHON: an interpreter with pip and the headers of Python.
#
# The headers come out of torch's smallest wheel, that for macOS (80 to 140 MB; for Linux with CUDA
# it takes gigabytes). What the bindings include is the same on every platform.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
versions=("$@")
if [ $# = 0 ]; then
  ends=$("$python" -c '
import json
known = list(json.load(open("tests/support/torch_releases.json"))["torch"])
print(known[0], known[-1])')
  read -r -a versions <<<"$ends"
fi
python_include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
for version in "${versions[@]}"; do
  kept=build/torch-headers/$version
  if [ ! -d "$kept" ]; then
    rm -rf "$kept.part" && mkdir -p "$kept.part"
    # A cap or a wheel that the machine's own settings name must not get in the way.
    PIP_CONSTRAINT=/dev/null "$python" -m pip --disable-pip-version-check download --quiet \
      --no-deps --only-binary :all: --python-version 3.12 --platform macosx_11_0_arm64 \
      --platform macosx_12_0_arm64 --platform macosx_14_0_arm64 --dest "$kept.part" "torch==$version"
    "$python" - "$kept.part" <<'PY'
import sys, zipfile
from pathlib import Path

(wheel,) = Path(sys.argv[1]).glob("torch-*.whl")
with zipfile.ZipFile(wheel) as archive:
    members = [name for name in archive.namelist() if name.startswith("torch/include/")]
    archive.extractall(sys.argv[1], members)
wheel.unlink()
PY
    mv "$kept.part" "$kept"
  fi
  include=$kept/torch/include
  for source in csrc/bind/*.cpp; do
    target=(-DTORCH_TARGET_VERSION=0x020A000000000000)  # as in setup.py, which leaves it out of _fast
    case $source in */fast.cpp) target=() ;; esac
    c++ -fsyntax-only -std=c++17 -fvisibility=hidden -Wall -Wextra -Wno-missing-field-initializers \
      "${target[@]}" -I csrc -isystem "$include" -isystem "$python_include" "$source"
  done
  echo "torch $version: $(ls csrc/bind/*.cpp | wc -l) bindings compile against its headers"
done
