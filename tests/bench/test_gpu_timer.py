"""The timer of a GPU, against a card that keeps books of what it was given."""

from __future__ import annotations

import contextlib
import time
import types
from typing import Any

import pytest
import torch
from steer_decode.bench.kernels import timer


class FakeEvent:
    """A CUDA event whose clock is the number of calls made so far, in milliseconds."""

    calls = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = FakeEvent.calls

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.time - self.time


class FakeGraph:
    """A CUDA graph: calls made during its capture count when it is replayed, and not before."""

    def replay(self) -> None:
        FakeEvent.calls += self.captured


class FakeCuda:
    """What the timer needs of `torch.cuda`."""

    Event, CUDAGraph = FakeEvent, FakeGraph

    def __init__(self) -> None:
        self.waits: list[int] = []
        self._sleep = self.waits.append
        self.mode: object = 0
        self.synchronised = 0

    def synchronize(self) -> None:
        self.synchronised += 1

    def get_sync_debug_mode(self) -> object:
        return self.mode

    def set_sync_debug_mode(self, mode: object) -> None:
        self.mode = mode

    def Stream(self) -> Any:
        return types.SimpleNamespace(wait_stream=lambda other: None)

    current_stream = Stream

    def stream(self, stream: object) -> Any:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def graph(self, graph: FakeGraph) -> Any:
        before = FakeEvent.calls
        yield
        graph.captured, FakeEvent.calls = FakeEvent.calls - before, before


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    buffer = torch.ones(4)
    fake.buffer = buffer  # type: ignore[attr-defined]
    namespace = types.SimpleNamespace(cuda=fake, uint8=torch.uint8, empty=lambda *a, **k: buffer)
    monkeypatch.setattr(timer, "torch", namespace)
    return fake


def count() -> None:
    FakeEvent.calls += 1


@pytest.mark.parametrize("cold_l2", [False, True])
def test_timer_of_a_gpu_queues_behind_a_wait(cold_l2: bool, cuda: Any) -> None:
    us = timer.medians({"a": count}, 1e-9, device="cuda", cold_l2=cold_l2)
    assert us == {"a": pytest.approx(1000.0)}  # a call a millisecond
    assert len(cuda.waits) == 1  # a round, as there is no time for more
    assert min(cuda.waits) >= 1e-3 * timer.CYCLES_PER_SECOND
    assert cuda.buffer.any() != cold_l2


@pytest.mark.parametrize("cold_l2", [False, True])
def test_a_call_in_a_graph_is_a_part_of_its_replay(cold_l2: bool, cuda: Any) -> None:
    us = timer.medians({"a": count}, 1e-9, device="cuda", cold_l2=cold_l2, clock="graph")
    assert us == {"a": pytest.approx(1000.0)}  # of the twenty of a replay
    assert len(cuda.waits) == 1
    assert cuda.buffer.any() != cold_l2


def test_what_reads_on_the_host_is_not_captured(cuda: Any) -> None:
    def reads() -> None:
        if cuda.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nand more")

    told: list[tuple[str, str]] = []
    us = timer.medians(
        {"a": count, "b": reads},
        1e-9,
        device="cuda",
        clock="graph",
        left_out=lambda *words: told.append(words),
    )
    assert us == {"a": pytest.approx(1000.0)}
    assert told == [("b", "called a synchronizing CUDA operation")]
    assert cuda.mode == 0  # as it was
    with pytest.raises(timer.NotCapturable, match="a synchronizing CUDA operation"):
        timer.medians({"b": reads, "a": count}, 1e-9, device="cuda", clock="graph")


@pytest.mark.parametrize("cold_l2", [False, True])
def test_wall_clock_goes_on_to_the_end_of_the_synchronisation(cold_l2: bool, cuda: Any) -> None:
    queued: list[float] = []

    def synchronize() -> None:
        time.sleep(0.002 * len(queued))
        queued.clear()

    cuda.synchronize = synchronize
    us = timer.medians(
        {"a": lambda: queued.append(0)}, 1e-9, device="cuda", cold_l2=cold_l2, clock="wall"
    )
    assert us["a"] >= 2000
    assert cuda.buffer.any() != cold_l2
    assert not cuda.waits
