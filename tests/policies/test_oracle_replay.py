"""Oracle replay: writers that are given beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from steer_decode import (
    BothSides,
    RandomShare,
    Replay,
    Router,
    SteerError,
    parse_policy,
)
from support.restarts import Impatient
from support.tiny import make_pair, prompt_text

PAIR = make_pair("llama", 0)


def test_a_replay_writes_the_same_text() -> None:
    prompts = [prompt_text(i, 5 + i) for i in range(4)]
    router = Router(PAIR, RandomShare(0.5))
    outs = router.cohort(prompts, max_new_tokens=50, seed=1)
    again = Router(PAIR, Replay.of(o.trace for o in outs)).cohort(prompts, max_new_tokens=50)
    assert [o.token_ids for o in again] == [o.token_ids for o in outs]
    for a, b in zip(again, outs, strict=True):
        assert [s.writer for s in a.trace.kept] == [s.writer for s in b.trace.kept]
    assert len({o.cost.large_token_share for o in outs}) > 1


@pytest.mark.few(1)
@pytest.mark.parametrize("by_file", [False, True])
def test_mends_are_replayed(by_file: bool, tmp_path: Path) -> None:
    prompts = [prompt_text(i, 5 + i) for i in range(3)]
    ours = Router(PAIR, BothSides(sure=1.0, keep=-3.5)).cohort(prompts, max_new_tokens=50)
    assert any(s.others for o in ours for s in o.trace.kept)
    policy = Replay.of(o.trace for o in ours)
    if by_file:
        path = tmp_path / "t.json"
        path.write_text(json.dumps([{"trace": o.trace.to_dict()} for o in ours]))
        policy = Replay(path=str(path))
    again = Router(PAIR, policy).cohort(prompts, max_new_tokens=50)
    for a, b in zip(again, ours, strict=True):
        assert a.token_ids == b.token_ids
        assert [s.writers for s in a.trace.kept] == [s.writers for s in b.trace.kept]


def test_the_last_writer_of_a_replay_goes_on() -> None:
    out = Router(PAIR, Replay("LS")).generate(prompt_text(2), max_new_tokens=60)
    writers = [s.writer for s in out.trace.kept]
    assert len(writers) > 2
    assert writers == ["large"] + ["small"] * (len(writers) - 1)


def test_a_replay_of_a_trace_file(tmp_path: Path) -> None:
    out = Router(PAIR, Impatient(1)).generate(prompt_text(2), max_new_tokens=50)
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"trace": out.trace.to_dict()}))
    again = Router(PAIR, parse_policy(f"replay:path={path}")).generate(
        prompt_text(2), max_new_tokens=50
    )
    assert again.token_ids == out.token_ids
    assert again.cost.discarded_tokens == 0
    path.write_text("{}")
    with pytest.raises(SteerError, match="is not a trace"):
        Replay(path=str(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Replay, "needs either writers"),
        (lambda: Replay("SL", path="x"), "needs either writers"),
        (lambda: Replay("SXL"), "writers must be S or L, .* got 'X'"),
        (lambda: Replay([]), "writers must be S or L, .* got none"),
        (lambda: Replay(path="none.json"), "cannot read trace 'none.json'"),
        (
            lambda: Router(PAIR, Replay({(1, 2): "SL", (3,): "L"})).generate(prompt_text(2)),
            "replay has no writers for this prompt",
        ),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        make()
