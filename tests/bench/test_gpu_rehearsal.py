"""`make gpu-check` from end to end without a card and without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.gpu_path import BENCHMARKS, ROOT, script

from gpu.stages import NAMES  # isort: skip

SETUP = [sys.executable, "setup.py", "--quiet", "--version"]
NO_NETWORK = """
import os, socket
def refuse(*args, **more):
    if not (args and isinstance(args[0], socket.socket) and args[0].family == socket.AF_UNIX):
        with open(os.environ["NETWORK_LOG"], "a") as file:
            print(args[1:] or args, more, file=file)
        raise OSError("there is no network")
    return connect(*args, **more)
connect = socket.socket.connect
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def there() -> list[Path]:
    """What lies in the folder of the benchmarks, but for what Python has compiled."""
    return sorted(p for p in BENCHMARKS.rglob("*") if "__pycache__" not in p.parts)


@pytest.mark.slow
def test_every_stage_without_a_card_and_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    script(tmp_path / "nvidia-smi", "echo NVIDIA H200")
    log, out = tmp_path / "network.log", tmp_path / "out"
    before = sorted((ROOT / "steer_kernels").glob("*.so")), there()
    names = [name for name in NAMES if name != "build" or shutil.which("nvcc")]
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--rehearse"]
    command += ["--only", ",".join(names), "--out", str(out), "--budget", "1200"]
    if shutil.which("unshare") and run("unshare", "--net", "true").returncode == 0:
        command = ["unshare", "--net", *command]
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    result = run(
        *command,
        PYTHONPATH=path,
        PATH=os.pathsep.join([str(tmp_path), os.environ["PATH"]]),
        NETWORK_LOG=str(log),
        PIP_NO_INDEX="1",
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert not log.exists(), log.read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rehearsal"]
    assert [(s["name"], s["status"]) for s in summary["stages"]] == [(n, "ok") for n in names]
    for name in set(names) - {"tests"}:
        written = json.loads((out / f"{name}.json").read_text())
        assert written["rehearsal"]
        assert "no figure here is of a GPU" in written["note"]
    if "build" in names:
        built = (out / "build.log").read_text()
        assert "-gencode=arch=compute_90,code=sm_90" in built
        assert "sm_80" not in built
        assert json.loads((out / "build.json").read_text())["built"] == ["_C_cuda.abi3.so"]
    assert "tests collected" in (out / "tests.log").read_text()
    assert before == (sorted((ROOT / "steer_kernels").glob("*.so")), there())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ("cpu,gpu", "STEER_BUILD must name some of cpu,fast,cuda, got 'gpu'"),
        ("fast", "STEER_BUILD leaves nothing to build: fast is for a build in the source tree"),
    ],
)
def test_parts_that_cannot_be_built_are_refused(parts: str, words: str) -> None:
    result = run(*SETUP, STEER_BUILD=parts)
    assert result.returncode == 1
    assert words in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_torch_without_cuda_is_refused_before_anything_runs(tmp_path: Path) -> None:
    script(tmp_path / "nvidia-smi", "echo NVIDIA H200")
    before = there()
    result = run(
        "make",
        "gpu-check",
        f"PYTHON={sys.executable}",
        PATH=os.pathsep.join([str(tmp_path), os.environ["PATH"]]),
    )
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert lines[0].startswith("gpu-check: needs a torch with CUDA, and that of ")
    assert len(lines) == 2  # and make's own
    assert before == there()
