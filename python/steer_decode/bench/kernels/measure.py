"""Rows out of cases."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .plan import Case
from .timer import GRAPH_CALLS, L2_BUFFER_BYTES, medians
from .workload import OURS, Workload, backend, workload


@dataclass(frozen=True)
class KernelRow:
    """Our op beside one peer, in the same run.

    `median_us` and `gbps` are ours: microseconds a call, and the bytes that one read of the input
    moves (kv_append_: read and written) over that time. `ratio` is `peer_us / median_us`: how many
    times faster ours is; below 1 the peer is faster. `sampling` is None but for sample_logits;
    `clock` is "host" on a CPU, else one of `CLOCKS`.
    """

    op: str
    backend: str
    device: str
    dtype: str
    batch: int
    vocab: int | None
    k: int | None
    sampling: str | None
    threads: int
    clock: str
    median_us: float
    gbps: float
    peer: str
    peer_us: float
    ratio: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


LeftOut = Callable[[str, str], None]


def measure(
    case: Case,
    seconds: float,
    *,
    compiled: bool = True,
    cold_l2: bool = False,
    clocks: Sequence[str] = ("events",),
    left_out: LeftOut = lambda peer, reason: None,
) -> list[KernelRow]:
    """One row a peer and clock.

    Args:
        case: what to measure.
        seconds: time for all contenders together, by each clock; compiling is not counted.
        compiled: whether torch.compile is a peer.
        cold_l2: on CUDA, empty the L2 cache before every call, and take other logits at each call
            of a graph.
        clocks: on CUDA, some of `CLOCKS`.
        left_out: told the name of each peer that raised, and the reason.

    Raises:
        RuntimeError: our op cannot be captured in a graph, and the clock is "graph".
    """
    found = by_clock(
        case, seconds, compiled=compiled, cold_l2=cold_l2, clocks=clocks, left_out=left_out
    )
    return [row for rows in found for row in rows]


def by_clock(
    case: Case,
    seconds: float,
    *,
    compiled: bool,
    cold_l2: bool,
    clocks: Sequence[str],
    left_out: LeftOut,
) -> Iterator[list[KernelRow]]:
    """Yield the rows of `measure`, clock by clock.

    They come as soon as a clock has made its own.
    """
    inputs = 1
    if cold_l2 and "graph" in clocks and case.vocab is not None:
        size = case.batch * case.vocab * getattr(torch, case.dtype).itemsize
        inputs = min(GRAPH_CALLS, math.ceil(L2_BUFFER_BYTES / size))
    with threads_set_to(case.threads), torch.inference_mode():
        work = workload(case, compiled=compiled, inputs=inputs)
        calls = _that_run(work, left_out)
        for clock in clocks if case.device == "cuda" else ("host",):
            us = medians(
                calls,
                seconds,
                reset=work.reset,
                device=case.device,
                cold_l2=cold_l2,
                clock=clock,
                left_out=left_out,
            )
            yield _rows(case, clock, work, us)


def _rows(case: Case, clock: str, work: Workload, us: dict[str, float]) -> list[KernelRow]:
    ours = us.pop(OURS)
    settings = asdict(case) | {"backend": backend(case), "clock": clock}
    return [
        KernelRow(
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
    """The processor or the card, and the version of torch."""
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
    """Let torch use ``number`` CPU threads for a while."""
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
