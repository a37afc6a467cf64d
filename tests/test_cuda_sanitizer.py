"""The CUDA kernels under compute-sanitizer, on a few of their own tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SUBSET = {
    "test_kv_append.py": "cuda and (formula or interleaved or twice)",
    "test_step_update.py": "cuda and (frozen or room or stride)",
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not on PATH"
    ),
]


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("name", SUBSET)
def test_clean_under(tool: str, name: str) -> None:
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
    command += ["-m", "pytest", "-q", str(TESTS / name), "-k", SUBSET[name]]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS.parent)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
