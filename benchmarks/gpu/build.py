"""Versions, and the extensions `_C` and `_C_cuda` in place, for the architecture of the card.

In a rehearsal the CUDA part alone is compiled, for sm_90, into a folder that goes away: the tree is
left as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .files import header, options, write_json
from .machine import TOOLKIT, nvcc, tool
from .stages import ROOT

PROBE = """
import json, steer_kernels
print(json.dumps(steer_kernels.build_info()))
"""


def main() -> int:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--arch", default="9.0", help="of a rehearsal; a card says its own")
    chosen = parser.parse_args()
    cuda = chosen.device == "cuda"
    for command in (["nvidia-smi"], ["nvidia-smi", "-q", "-d", "CLOCK,POWER,ECC"]):
        if tool(command[0]):
            subprocess.run(command, check=False)
    found: dict[str, Any] = header(
        chosen.device, kernels=False
    )  # a library in use must not be replaced
    print(json.dumps(found, indent=1), flush=True)
    write_json(chosen.out, found)
    begin = time.monotonic()
    arch = found["architecture"] = found["capability"] if cuda else chosen.arch
    with tempfile.TemporaryDirectory() as folder:
        if cuda:
            status = compile_(arch, "cpu,cuda", "--inplace")
        else:
            library, temporary = Path(folder, "lib"), Path(folder, "temp")
            where = ("--build-lib", str(library), "--build-temp", str(temporary))
            status = compile_(arch, "cuda", *where)
            found["built"] = sorted(path.name for path in library.rglob("*.so"))
    found["build_seconds"] = round(time.monotonic() - begin, 1)
    write_json(chosen.out, found)
    if status:
        print("the extensions do not build; the compiler's words are above")
        return 1
    if cuda:
        return probe(found, chosen.out)
    words = f"for {arch} in {found['build_seconds']} s"
    print(f"a rehearsal: compiled {', '.join(found['built']) or 'nothing'} {words}")
    return 0 if found["built"] else 1


def compile_(arch: str, parts: str, *where: str) -> int:
    """Exit status of setup.py."""
    compiler = nvcc()
    environment = {
        **os.environ,
        "STEER_FORCE_CUDA": "1",
        "STEER_BUILD": parts,
        "TORCH_CUDA_ARCH_LIST": arch,
    }
    if compiler is not None and Path(compiler).parent.parent == TOOLKIT:
        environment.setdefault("CUDA_HOME", str(TOOLKIT))
    command = [sys.executable, "setup.py", "build_ext", *where]
    print(*command, f"(STEER_BUILD={parts} TORCH_CUDA_ARCH_LIST={arch})", flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def probe(found: dict[str, Any], out: Path) -> int:
    """Whether what was built loads, in a process of its own, and sees the card."""
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PROBE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(result.stderr, end="")
    if result.returncode:
        print("steer_kernels does not import after the build")
        return 1
    found["build"] = info = json.loads(result.stdout.splitlines()[-1])
    write_json(out, found)
    cuda = info["cuda"]
    if info["backend"] != "extension" or cuda is None or "error" in cuda:
        print(f"the extensions do not load: {info['reason']} {cuda}")
        return 1
    print(f"built for {found['architecture']} in {found['build_seconds']} s; {cuda}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
