"""The card, and what is missing for a check; nothing heavy is imported in this process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST_TORCH = (2, 10)
TOOLKIT = Path("/usr/local/cuda")
# What the stages import beside torch; the test runner is for one stage alone.
MODULES = ("triton", "setuptools", "numpy", "transformers", "tokenizers", "typer", "rich")
PROBE = f"""
import importlib.util, json, torch
gone = [name for name in {MODULES!r} if importlib.util.find_spec(name) is None]
print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.is_available(), gone]))
"""


class Missing(Exception):
    """What this machine lacks for a check, in words that follow "gpu-check: "."""


def card() -> str:
    """The name of the first card, as nvidia-smi gives it.

    Raises:
        Missing: there is none.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise Missing("needs an NVIDIA card, and this machine has no nvidia-smi")
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    names = result.stdout.strip().splitlines()
    if result.returncode or not names:
        raise Missing("needs an NVIDIA card, and nvidia-smi finds none")
    return names[0].strip()


def check_python(*, cuda: bool = True) -> None:
    """Whether this Python has what the stages import. Nothing is ever installed.

    Args:
        cuda: whether its torch must see a card, and there must be an nvcc.

    Raises:
        Missing: what it lacks.
    """
    python = sys.executable
    other = "name another Python, as in `make gpu-check PYTHON=python3.12`"
    command = [python, "-c", PROBE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise Missing(f"{python} cannot import torch ({reason}): {other}")
    version, built_with, sees, gone = json.loads(result.stdout.splitlines()[-1])
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TORCH:
        raise Missing(f"needs torch 2.10 or newer, and that of {python} is {version}: {other}")
    if cuda and built_with is None:
        raise Missing(f"needs a torch with CUDA, and that of {python} is {version}: {other}")
    if cuda and not sees:
        raise Missing(
            f"torch {version} of {python} finds no card (it wants a driver for CUDA {built_with}): "
            "`nvidia-smi` shows the driver's CUDA version"
        )
    if gone:
        raise Missing(f"{python} lacks {', '.join(gone)}: install that, or {other}")
    if cuda and nvcc() is None:
        raise Missing(
            "needs nvcc, which is neither on PATH nor under CUDA_HOME nor in /usr/local/cuda"
        )


def nvcc() -> str | None:
    """The CUDA compiler: under CUDA_HOME where that is set, as setup.py has it, or `tool`'s."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        path = Path(home) / "bin" / "nvcc"
        return str(path) if path.exists() else None
    return tool("nvcc")


def tool(name: str) -> str | None:
    """A program of the CUDA toolkit, on PATH or where the toolkit is put by default."""
    default = TOOLKIT / "bin" / name
    return shutil.which(name) or (str(default) if os.access(default, os.X_OK) else None)


def file_name(name: str, day: str) -> str:
    """`nvidia-h100-80gb-hbm3-2026-01-31`."""
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{day}"


def fresh_folder(parent: Path, name: str) -> Path:
    """A folder that no earlier check has written to: NAME, else NAME-2, and so on."""
    number, path = 1, parent / name
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path
