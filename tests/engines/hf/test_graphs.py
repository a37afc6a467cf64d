"""Captured passes: how many are kept, which one makes room, and where their memory is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from steer_decode import AlwaysLarge, Router
from steer_decode.core.events import Done
from steer_decode.decode.pool import Pool
from steer_decode.engines.hf import multi_step
from steer_decode.engines.hf.graphs import MOST, Graphs
from steer_decode.engines.hf.lane import Lane
from steer_decode.engines.hf.multi_step import MultiStep
from support.tiny import make_pair, prompt_ids


class Graph:
    """Counts replays."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


def kept(graphs: Graphs, keys: range) -> list[int]:
    return [key for key in keys if (key, 0) in graphs]


def test_the_one_that_was_not_replayed_for_longest_makes_room() -> None:
    graphs = Graphs(most=3)
    made: list[Any] = [Graph() for _ in range(5)]
    for key in range(3):
        graphs.put((key, 0), made[key])
    graphs.replay((0, 0))
    graphs.put((3, 0), made[3])
    assert kept(graphs, range(5)) == [0, 2, 3]
    graphs.replay((2, 0))
    graphs.put((4, 0), made[4])
    assert kept(graphs, range(5)) == [2, 3, 4]
    assert [graph.replays for graph in made] == [1, 0, 1, 0, 0]
    with pytest.raises(KeyError):
        graphs.replay((0, 0))


def test_no_more_than_that_over_any_number_of_answers() -> None:
    graphs = Graphs()
    for key in range(10 * MOST):
        graphs.put((key, key // 40), Graph())  # type: ignore[arg-type]
    assert len(graphs) == MOST
    graphs.keep(lambda key: key[-1] == 3)
    assert len(graphs) == MOST
    graphs.keep(lambda key: key[-1] == 4)
    assert len(graphs) == 0


def test_all_captures_take_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = iter(range(9))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    graphs = Graphs()
    assert [graphs.pool(), graphs.pool()] == [0, 0]
    assert Graphs().pool() == 1  # of another lane, which may run at the same time


def test_a_capture_is_of_its_lane_and_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model may lie on the second card while the first is the current one."""
    current, given = ["first card"], []

    @contextlib.contextmanager
    def device(index: str) -> Iterator[None]:
        current.append(index)
        yield
        current.pop()

    def stream() -> SimpleNamespace:
        return SimpleNamespace(of=current[-1], wait_stream=lambda other: None)

    def captured(graph: object, **how: Any) -> contextlib.nullcontext[None]:
        given.append((current[-1], how.pop("stream").of, how))
        return contextlib.nullcontext()

    for name, value in (
        ("Stream", stream), ("current_stream", stream), ("CUDAGraph", Graph), ("graph", captured),
        ("device", device), ("stream", lambda s: contextlib.nullcontext()),
        ("graph_pool_handle", lambda: "the pool"),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(multi_step, "host_reads", lambda call: [])
    passes = object.__new__(MultiStep)
    monkeypatch.setattr(passes, "_graphs", Graphs(), raising=False)
    monkeypatch.setattr(passes, "_device", "second card", raising=False)
    monkeypatch.setattr(passes, "_forward", lambda *a: None, raising=False)
    buffers: Any = SimpleNamespace(tensors=list)
    for _ in range(2):
        assert passes._capture([0], buffers, 8) is not None
    how = {"pool": "the pool", "capture_error_mode": "thread_local"}
    assert given == [("second card", "second card", how)] * 2


class Recorded:
    """What a graph is, without a card: the same kernels on the same memory, whatever has moved."""

    def __init__(self, passes: Any, rows: Any, buffers: Any, width: int) -> None:
        self.replays = 0
        self._passes, self._buffers, self._cache = passes, buffers, passes._lane.cache
        self._cache.reserve(width)
        at = buffers.places, buffers.starts, buffers.counts
        self._span = self._cache.begin_fixed(rows, *at, width)
        passes._lane.forward.logits(buffers.ids, self._span)  # buffers are made by a first pass
        self._memory = self._addresses()

    def _addresses(self) -> list[int]:
        return [b.data_ptr() for layer in self._cache.layers for b in (layer.keys, layer.values)]

    def replay(self) -> None:
        assert self._addresses() == self._memory, "a graph writes where the cache was"
        self.replays += 1
        buffers = self._buffers
        self._cache.state.span = self._span
        self._passes._take(buffers, self._passes._lane.forward.logits(buffers.ids, self._span))
        buffers.starts.add_(buffers.counts)
        buffers.active.copy_(buffers.running)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recorded]]:
    """Captures of the CPU, as they would be on a card."""
    made: list[Recorded] = []
    begin = MultiStep.__init__

    def capturing(self: Any, *args: Any) -> None:
        begin(self, *args)
        self._captures = True

    def capture(*args: Any) -> Recorded:
        made.append(Recorded(*args))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(MultiStep, "__init__", capturing)
        patch.setattr(MultiStep, "_capture", capture)
        yield made


def ended(pool: Pool) -> dict[int, list[int]]:
    return {k: e.output.token_ids for k, e in pool.iterate() if isinstance(e, Done)}


def test_no_graph_outlives_the_buffers_that_it_writes(recording: list[Recorded]) -> None:
    """Rows come, go and grow; a buffer of the same size may lie elsewhere."""
    router = Router(make_pair("llama", 0), AlwaysLarge(), ahead=4)
    prompts = [prompt_ids(i, 3 + 5 * i) for i in range(6)]
    pool, keys, found = Pool(router, max_rows=6), [], {}
    for i, prompt in enumerate(prompts):
        keys.append(pool.add(prompt, max_new_tokens=20 + 30 * (i % 3)))
        for _ in range(2 if i < 4 else 40):  # the last ones come when most have gone
            found |= ended(pool)
    while len(pool):
        found |= ended(pool)
    assert sum(graph.replays for graph in recording) > 60
    plain = Router(router.pair, AlwaysLarge())
    for i, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
        wanted = plain.generate(prompt, max_new_tokens=20 + 30 * (i % 3)).token_ids
        assert found[key] == wanted


def test_what_was_captured_serves_the_next_answer(
    recording: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card, whose buffers stay while nothing runs."""
    monkeypatch.setattr(Lane, "stays", True)
    router = Router(make_pair("llama", 0), AlwaysLarge(), ahead=4)
    pool, prompt = Pool(router, max_rows=4), prompt_ids(1, 9)
    found = []
    for _ in range(3):
        pool.add(prompt, max_new_tokens=30)
        while len(pool):
            found += ended(pool).values()
        captured = len(recording)
    assert captured == 1
    assert (
        found
        == [Router(router.pair, AlwaysLarge()).generate(prompt, max_new_tokens=30).token_ids] * 3
    )


@pytest.mark.parametrize(("held", "stays"), [(4.9e9, True), (5.1e9, False)])
def test_buffers_stay_on_a_card_up_to_a_share_of_it(
    held: float, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane: Any = object.__new__(Lane)
    lane._device, lane.cache = torch.device("cuda"), SimpleNamespace(held_bytes=held)
    card = SimpleNamespace(total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert lane.stays == stays
    lane._device = torch.device("cpu")
    assert not lane.stays
