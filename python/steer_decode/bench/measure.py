"""Rows out of cases."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .plan import Case
from .timer import medians
from .workload import OURS, Workload, backend, workload


@dataclass(frozen=True)
class Row:
    """Our op beside one peer, in the same run.

    `median_us` and `gbps` are ours: microseconds a call, and the bytes that one read of the input
    moves (kv_append_: read and written) over that time. `ratio` is `peer_us / median_us`: how many
    times faster ours is; below 1 the peer is faster.
    """

    op: str
    backend: str
    device: str
    dtype: str
    batch: int
    vocab: int | None
    k: int | None
    threads: int
    median_us: float
    gbps: float
    peer: str
    peer_us: float
    ratio: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    case: Case,
    seconds: float,
    *,
    compiled: bool = True,
    cold_l2: bool = False,
    left_out: Callable[[str, str], None] = lambda peer, reason: None,
) -> list[Row]:
    """One row a peer.

    Args:
        case: what to measure.
        seconds: time for all contenders together; compiling is not counted.
        compiled: whether torch.compile is a peer.
        cold_l2: on CUDA, empty the L2 cache before every call.
        left_out: told the name of each peer that raised, and the reason.
    """
    with threads_set_to(case.threads), torch.inference_mode():
        work = workload(case, compiled=compiled)
        calls = _that_run(work, left_out)
        us = medians(calls, seconds, reset=work.reset, device=case.device, cold_l2=cold_l2)
    ours = us.pop(OURS)
    settings = asdict(case) | {"backend": backend(case)}
    return [
        Row(
            **settings,
            median_us=ours,
            gbps=work.bytes / ours / 1e3,
            peer=peer,
            peer_us=peer_us,
            ratio=peer_us / ours,
        )
        for peer, peer_us in us.items()
    ]


def machine(device: str) -> str:
    """Name of the processor or the card, and the version of torch."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return f"{name}, torch {torch.__version__}"


def _that_run(work: Workload, left_out: Callable[[str, str], None]) -> dict[str, Any]:
    """Calls every contender once, which compiles what compiles, and keeps those that can."""
    calls = {}
    for name, call in work.calls.items():
        if work.reset:
            work.reset()
        try:
            call()
        except Exception as error:  # whatever a foreign library or a missing compiler may raise
            if name == OURS:
                raise
            first_line = str(error).strip().partition("\n")[0]
            left_out(name, f"{type(error).__name__}: {first_line}")
        else:
            calls[name] = call
    return calls


@contextlib.contextmanager
def threads_set_to(number: int) -> Iterator[None]:
    """Has torch use ``number`` CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
