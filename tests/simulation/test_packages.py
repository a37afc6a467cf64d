"""What a newcomer is told who has not installed the extra."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
sys.modules["simpy"] = None  # as if it were not installed
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "simpy" else found(name, *more)
from steer_decode.cli import app
app(["simulate", "traces", "--small-ms", "5"])
"""


def test_without_simpy_the_way_out_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'steer-kernels[simulate]'" in done.stderr
    assert "ModuleNotFoundError" not in done.stderr
