"""What a server is told beside its models."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SteerError
from .log import log_to_stderr
from .models import Models

if TYPE_CHECKING:
    from ..models.pair import Pair

KEY = "STEER_API_KEY"


def read_key(file: Path | None) -> str:
    """The API key; "" for none.

    Raises:
        SteerError: a file without a key.
    """
    if file is None:
        return os.environ.get(KEY, "").strip()
    try:
        key = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise SteerError(f"--api-key-file {file} is no text") from error
    if not key or not key.isascii() or not key.isprintable():
        raise SteerError(f"--api-key-file {file} must hold one line of printable ASCII, the key")
    return key


@dataclass(frozen=True)
class Loading:
    """Loads a pair in the process of the engine."""

    models: Models

    def __call__(self) -> Pair:
        log_to_stderr()
        return self.models.load()


def address_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise SteerError(
            f"steer serve needs {error.name}: pip install 'steer-kernels[serve]'"
        ) from error
