"""Whether the caches will fit, reckoned before anything runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import psutil
import torch

from ...core.shape import ModelShape
from ...core.transcript import Writer
from ...errors import OutOfMemoryError


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on ``device``."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserved)
    return int(psutil.virtual_memory().available)


def cache_needs(
    shapes: Mapping[Writer, ModelShape],
    tokens: int,
    rows: int = 1,
    held: Mapping[Writer, int] | None = None,
) -> dict[Writer, int]:
    """Bytes of keys and values still to be allocated.

    By model.

    Args:
        shapes: sizes of the models.
        tokens: most tokens of one transcript.
        rows: transcripts at a time.
        held: bytes that each model's cache has taken already; none by default.
    """
    needs = {w: rows * shape.cache_bytes(tokens) for w, shape in shapes.items()}
    return {w: max(0, need - (held[w] if held else 0)) for w, need in needs.items()}


def check_memory(
    shapes: Mapping[Writer, ModelShape],
    devices: Mapping[Writer, torch.device],
    tokens: int,
    rows: int = 1,
    held: Mapping[Writer, int] | None = None,
) -> None:
    """Refuse answers whose keys and values cannot fit.

    Args:
        shapes, tokens, rows, held: as in :func:`cache_needs`.
        devices: that the models are on.

    Raises:
        OutOfMemoryError: with the bytes that are needed and those that are there.
    """
    sizes = {w: size for w, size in cache_needs(shapes, tokens, rows, held).items() if size}
    needed: dict[torch.device, int] = defaultdict(int)
    for writer, size in sizes.items():
        needed[devices[writer]] += size
    for device, size in needed.items():
        room = available_bytes(device)
        if size > room:
            shares = " and ".join(
                f"{share:,} bytes for the {w} model"
                for w, share in sizes.items()
                if devices[w] == device
            )
            raise OutOfMemoryError(
                f"the KV caches of {tokens} tokens times {rows} "
                f"{'row' if rows == 1 else 'rows'} need {size:,} bytes on {device} ({shares}), and "
                f"{room:,} are available: lower max_new_tokens or the number of prompts"
            )


def out_of_memory(
    cause: Exception, writer: Writer, device: torch.device, tokens: int, rows: int
) -> OutOfMemoryError:
    """The error of a model that ran out of memory."""
    found = OutOfMemoryError(
        f"the {writer} model ran out of memory on {device} at a "
        f"context of {tokens} tokens over {rows} rows: lower max_new_tokens or the "
        "number of prompts, or load the models in bfloat16"
    )
    found.__cause__ = cause
    return found
