"""Captured passes: how many are kept, which one makes room, and where their memory is."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from steer_decode.engines.hf import multi_step
from steer_decode.engines.hf.graphs import MOST, Graphs


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


def test_a_capture_is_given_the_pool_of_its_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, given = SimpleNamespace(wait_stream=lambda other: None), []

    def captured(
        graph: object, pool: object, capture_error_mode: str
    ) -> contextlib.nullcontext[None]:
        given.append((pool, capture_error_mode))
        return contextlib.nullcontext()

    for name, value in (
        ("Stream", lambda: stream), ("current_stream", lambda: stream), ("CUDAGraph", Graph),
        ("stream", lambda s: contextlib.nullcontext()), ("graph", captured),
        ("graph_pool_handle", lambda: "the pool"),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(multi_step, "host_reads", lambda call: [])
    passes = object.__new__(multi_step.MultiStep)
    monkeypatch.setattr(passes, "_graphs", Graphs(), raising=False)
    monkeypatch.setattr(passes, "_forward", lambda *a: None, raising=False)
    buffers: Any = SimpleNamespace(tensors=list)
    for _ in range(2):
        assert passes._capture([0], buffers, 8) is not None
    assert given == [("the pool", "thread_local")] * 2
