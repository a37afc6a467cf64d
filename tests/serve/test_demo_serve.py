"""`make demo-serve` asks, shows who wrote what, takes a picture, and ends the server in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.browser import CHROMIUM, MISSING

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "demo_serve.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCRIPT.exists(), reason="benchmarks/ is not here"),
]


def test_it_goes_from_start_to_end(tmp_path: Path) -> None:
    picture = tmp_path / "new" / "page.png"
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    found = subprocess.run(
        [sys.executable, str(SCRIPT), "--picture", str(picture)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    said = found.stdout
    assert "S 5 = 16 /8  (taken back)" in said
    assert "L 2 S  = 16 /8" in said
    assert "the server has ended with status 0" in said
    if CHROMIUM is None:
        assert MISSING in said
    else:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert 20_000 < picture.stat().st_size < 150_000
