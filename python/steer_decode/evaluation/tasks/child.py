"""Scripts of this folder as processes of their own.

They find what this process finds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def command(script: str) -> list[str]:
    """What starts ``script`` of this folder."""
    return [sys.executable, "-W", "ignore", str(Path(__file__).with_name(script))]


def environment(**more: str) -> dict[str, str]:
    """That of this process, its search path, and ``more``."""
    search = os.pathsep.join(part for part in sys.path if part)
    return {**os.environ, "PYTHONPATH": search, "PYTHONSAFEPATH": "1", **more}
