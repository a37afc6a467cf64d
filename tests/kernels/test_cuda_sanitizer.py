"""Every kernel under compute-sanitizer: those that reduce through shared memory among them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SANITIZER = shutil.which("compute-sanitizer")
OPS = ("logit_stats", "sample_logits plain", "sample_logits greedy", "sample_logits top_p=0.95")
OPS += ("sample_logits top_k=50", "accept_drafts", "kv_append_", "step_update_")

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks" / "gpu").exists(), reason="benchmarks/ is not here"
)


def run(out: Path, *options: str, before: tuple[str, ...] = ()) -> list[str]:
    """Runs `gpu.sanitized`, under what `before` names; returns the calls that were right."""
    paths = [ROOT, ROOT / "python", ROOT / "benchmarks", ROOT / "tests"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    command = [*before, sys.executable, "-m", "gpu.sanitized", "--out", str(out), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    return json.loads(out.read_text())["ran"]


@pytest.mark.slow
def test_every_op_is_called_in_both_widths(tmp_path: Path) -> None:
    expected = [f"{op} {dtype}" for dtype in ("bfloat16", "float32") for op in OPS]
    assert run(tmp_path / "ran.json", "--device", "cpu") == expected


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not on PATH")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_clean_under(tool: str, tmp_path: Path) -> None:
    before = (str(SANITIZER), "--tool", tool, "--error-exitcode", "9")
    assert len(run(tmp_path / "ran.json", before=before)) == 2 * len(OPS)
