"""Procedural reasoning problems, and the pair trained on them.

They are of three domains.
"""

from __future__ import annotations

from pathlib import Path

from .problems.problem import Problem
from .problems.tasks import DOMAINS, grade, problems

__all__ = ["DOMAINS", "Problem", "grade", "pair_paths", "problems"]


def pair_paths() -> tuple[Path, Path]:
    """The folders (small, large) of the shipped weights.

    Raises:
        FileNotFoundError: one of them is missing.
    """
    weights = Path(__file__).parent / "weights"
    folders = (weights / "small", weights / "large")
    for folder in folders:
        if not (folder / "model.safetensors").is_file():
            raise FileNotFoundError(
                f"the demo pair has no weights in {folder}; reinstall the package, or train them "
                "with: python -m steer_decode.demo.training.train --model both"
            )
    return folders
