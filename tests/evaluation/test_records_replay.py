"""Routers replayed over records: what is exact is that of a run, the rest is refused by name."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from steer_decode import (
    AlwaysSmall,
    BothSides,
    FirstTokenEntropy,
    Pair,
    Policy,
    Router,
    Steer,
    SteerError,
)
from steer_decode.core.signals import SIGNALS
from steer_decode.evaluation.records.record import AnswerRecord, Records
from steer_decode.evaluation.records.replayed import refused, replay_records, to_dict
from steer_decode.evaluation.records.scores import scores
from steer_decode.evaluation.records.signals import Signals, told_by_signals
from steer_decode.evaluation.records.tables import markdown
from steer_decode.policies import POLICIES
from steer_decode.util.numbers import auroc, weighted_auroc
from support.commands import steer
from support.recorded import answer, header, recorded, saved, shaken_pair, view
from support.tiny import prompt_text


@pytest.fixture(scope="module")
def pair() -> Pair:
    return shaken_pair()


NUMBER = 14


@pytest.fixture(scope="module")
def of_the_small_model(pair: Pair) -> tuple[Records, Signals]:
    """Answers of the small model, and what each number of theirs tells of them."""
    records = recorded(pair, {"small": AlwaysSmall()}, n=NUMBER)
    assert len({a.closed for a in records.answers}) == 2, "some are cut off"
    return records, told_by_signals(records.answers, None, 100)


def stays(pair: Pair, policy: Policy, prompt: str) -> bool:
    """Whether a router leaves the whole answer to the small model."""
    trace = Router(pair, policy).generate(prompt, max_new_tokens=24).trace
    return all(step.writer == "small" and not step.discarded for step in trace.steps)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("kind", "signal"),
    [
        ("first-token", "entropy"),
        ("steer", "max-logit"),
        ("both-sides:sure=1", ""),
        ("both-sides:sure=1:fix=step", ""),
        *(
            pytest.param(kind, signal, marks=pytest.mark.slow)
            for kind, signal in itertools.product(("first-token", "steer"), SIGNALS)
            if (kind, signal) not in (("first-token", "entropy"), ("steer", "max-logit"))
        ),
    ],
)
def test_an_answer_stays_with_the_small_model_where_its_number_says_so(
    pair: Pair, of_the_small_model: tuple[Records, Signals], kind: str, signal: str
) -> None:
    """At a threshold in the midst of the answers, as the router itself decides."""
    records, by_answers = of_the_small_model
    name = kind if kind.startswith("both-sides") else f"{kind}:signal={signal}"
    (found,) = [each for each in scores() if each.name == name]
    values = {a.problem: found.of(a) for a in records.answers}
    (told,) = [one for one in by_answers.answers if one.name == name]
    _, (own, share, right), _ = told.thresholds
    policy: Policy = {
        "first-token": lambda: FirstTokenEntropy(own, signal),
        "steer": lambda: Steer(threshold=own, signal=signal),
        "both-sides:sure=1": lambda: BothSides(sure=1.0, keep=own),
        "both-sides:sure=1:fix=step": lambda: BothSides(sure=1.0, keep=own, fix="step"),
    }[kind]()
    least = SIGNALS[signal].confidence(own) if found.signal else own
    kept = []
    for record in records.answers:
        i = int(record.problem)
        left = stays(pair, policy, prompt_text(i, 5 + i))
        assert left == (values[str(i)] >= least), (i, values[str(i)], least)
        kept += [record.correct] if left else []
    assert 0 < len(kept) < NUMBER
    assert share == len(kept) / NUMBER
    assert right == sum(map(bool, kept)) / len(kept)


def test_weighted_auroc_is_auroc_of_items_that_count_more_than_once() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 6, 30).astype(float)  # with ties
    right = rng.random(30) < 0.5
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    for row, found in zip(weights, weighted_auroc(values, right, weights), strict=True):
        often = np.repeat(np.arange(30), row.astype(int))
        good, bad = ([values[i] for i in often if right[i] == side] for side in (True, False))
        assert found == pytest.approx(auroc(good, bad))
    assert np.isnan(weighted_auroc(values, np.ones(30, dtype=bool), weights)).all()


def small_answers() -> list[AnswerRecord]:
    """Twenty answers of two steps; the surer the first token, the likelier is the answer right."""
    found = []
    for i in range(20):
        entropy = np.array([0.1 * i, 0.3, 0.2, 0.3])
        seen = view([-0.7] * 4, [[1, 2]] * 4, max_logit=-entropy, entropy=entropy)
        more = {"writers": "SSSS", "steps": [2, 2], "problem": str(i), "correct": i < 12}
        more |= {"router": "small", "spec": "small", "right": (i < 12, None)}
        found.append(answer(seen, seen, [1, 1, 1, 1], **more))
    return found


def test_signals_are_ranked_by_what_they_tell() -> None:
    found = told_by_signals(small_answers(), None, 200)
    by_name = {one.name: one for one in found.answers}
    best = by_name["first-token:signal=entropy"]
    assert found.answers[0].auroc.value == 1.0
    assert best.auroc.value == 1.0
    assert 0.5 < best.auroc.low < 1.0, "eight wrong answers do not make a certainty"
    assert best.surest == (1.0, 0.2)
    # In nats of entropy: five, ten and fifteen of the twenty are below, that is surer.
    expected = [(0.45, 0.25, 1.0), (0.95, 0.5, 1.0), (1.45, 0.75, 0.8)]
    for point, values in zip(best.thresholds, expected, strict=True):
        assert tuple(point) == pytest.approx(values)
    assert by_name["steer:signal=max-prob"].auroc.value == 0.5
    assert (best.right, best.wrong) == (12, 8)
    assert found.steps[0].name.startswith(("entropy", "max-logit"))
    assert (found.steps[0].right, found.steps[0].wrong) == (12, 8)


def test_half_sent_is_the_cascade() -> None:
    """The less sure half is answered by the large model, but for what was cut off."""
    small = small_answers()
    large = {(a.domain, a.problem, a.seed): True for a in small}
    one = {o.name: o for o in told_by_signals(small, large, 200).answers}
    name = "corea:signal=entropy:over=first"
    # Ten are sent: eight wrong ones and two right ones, all right behind it.
    assert one[name].half_sent is not None
    assert one[name].half_sent.value == 1.0
    assert one["first-token:signal=entropy"].half_sent is None
    worst = {key: int(key[1]) < 10 for key in large}  # the large model fails where they are sent
    one = {o.name: o for o in told_by_signals(small, worst, 200).answers}
    assert one[name].half_sent is not None
    assert one[name].half_sent.value == 0.5
    assert told_by_signals(small, {}, 200).answers[0].half_sent is None


def test_every_router_is_replayed_or_refused_with_a_reason() -> None:
    told = refused()
    exact = {"small", "large", "speculative", "corea"}
    for name in set(POLICIES) - exact:
        assert len(told[name]) > 40, name
    shown = markdown(replay_records(Records(header(), small_answers()), 100))
    for name in told:
        assert name in shown


def test_a_replay_needs_a_text_of_one_model(pair: Pair) -> None:
    mixed = recorded(pair, {"mixed": BothSides(sure=1.0)}, n=2)
    with pytest.raises(SteerError, match="no text that the small or the large model wrote alone"):
        replay_records(mixed)
    # Also where such a router's answer happens to be of one model: that is a selection.
    lazy = recorded(pair, {"first-token": FirstTokenEntropy(1e9)}, n=2)
    assert all(set(a.writers) == {"S"} for a in lazy.answers)
    with pytest.raises(SteerError, match="wrote alone"):
        replay_records(lazy)


@pytest.mark.slow
def test_the_command_replays_a_file(pair: Pair, tmp_path: Path) -> None:
    path = saved(tmp_path / "r.jsonl.gz", recorded(pair, n=8))
    out = tmp_path / "replayed"
    shown = steer("eval", "--replay", path, "--out", out)
    assert shown.exit_code == 0, shown.output
    assert "| speculative:k=4 |" in shown.stdout
    assert "Not replayed, as they need a run" in shown.stdout
    data: dict[str, Any] = json.loads((out / "r.replay.json").read_text())
    assert (out / "r.replay.md").read_text().strip() == shown.stdout.strip()
    assert [one["k"] for one in data["speculation"]] == [*range(1, 17), "auto"]
    assert set(data["speculation"][0]["beside_large_alone"]) == {
        "flops_paper",
        "flops_processed",
        "bytes_read",
    }
    assert len(data["answers"]) == 4 * 7 + 2
    assert data["routers"]["large"]["answers"] == 8
    assert to_dict(replay_records(recorded(pair, n=8)))["agreement"] == data["agreement"]
