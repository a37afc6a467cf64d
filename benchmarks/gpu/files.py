"""Files written whole, and the header that every JSON file of a check has."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "numpy", "flashinfer-python", "pytest")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1) + "\n")


def now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def header(device: str, *, kernels: bool = True) -> dict[str, Any]:
    """Where figures come from: rehearsal or not, card, date, versions.

    Args:
        kernels: load steer_kernels, and say what it was built with.
    """
    import torch

    cuda = device == "cuda"
    card: Mapping[str, Any] = {}
    if cuda:
        of = torch.cuda.get_device_properties(0)
        card = {
            "card": of.name,
            "capability": f"{of.major}.{of.minor}",
            "multiprocessors": of.multi_processor_count,
            "memory": of.total_memory,
            "l2": getattr(of, "L2_cache_size", None),
        }
    return {
        "rehearsal": not cuda,
        "note": "" if cuda else "a rehearsal on a CPU: no figure here is of a GPU",
        "device": device,
        "date": now(),
        **card,
        "versions": versions(),
        "torch_cuda": torch.version.cuda,
        **({"build": _build_info()} if kernels else {}),
    }


def _build_info() -> dict[str, Any]:
    import steer_kernels

    return steer_kernels.build_info()


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def options(about: str) -> argparse.ArgumentParser:
    """The options that every stage has."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: a rehearsal on small inputs, marked as one",
    )
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    return parser
