"""The query cascade, and answers that are taken back whole."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import (
    AlwaysLarge,
    AlwaysSmall,
    Done,
    HandOver,
    Policy,
    QueryCascade,
    Router,
    Session,
    SteerError,
    Step,
    StepClosed,
    TextDelta,
    Trace,
    parse_policy,
)
from steer_decode.core.transcript import WRITERS
from steer_decode.policies import REDO, RESTART, Mend
from steer_decode.policies.fitted.logistic import Logistic, LogisticMaps
from support import reference_loop as ref
from support.restarts import Impatient
from support.tiny import FAMILIES, make_pair, prompt_text

PAIR = make_pair("llama", 0)


@pytest.mark.few(1)
@pytest.mark.spread
@pytest.mark.parametrize("turns", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_restarted_answer_is_the_large_models_own(family: str, turns: int) -> None:
    pair, prompt = make_pair(family, 0), prompt_text(2)
    out = Router(pair, Impatient(1), ahead=turns).generate(prompt, max_new_tokens=50)
    ids = pair.encode(prompt)
    expected, _ = ref.generate(pair, ids, 50, lambda i, w, z: "large", lambda i, s: "large")
    draft, steps = ref.generate(pair, ids, 50, lambda i, w, z: w, lambda i, s: "small")
    assert len(steps) > 2, "the small model must have written two whole steps"
    assert out.token_ids == expected
    taken_back = [s for s in out.trace.steps if s.discarded]
    assert [s.index for s in taken_back] == [0, 1]
    assert [i for s in taken_back for i in s.token_ids] == draft[
        : sum(len(s.ids) for s in steps[:2])
    ]
    assert [s.index for s in out.trace.kept] == list(range(len(out.trace.kept)))
    # Every draft is counted, on the model that wrote it.
    assert out.cost.discarded_tokens == out.cost.small.discarded == out.cost.small.written
    assert out.cost.small.written == sum(len(s.token_ids) for s in taken_back)
    assert out.cost.large.written == len(expected)
    assert out.cost.large_token_share == 1.0
    paper = sum(2 * pair.shapes[w].parameters * getattr(out.cost, w).written for w in WRITERS)
    assert out.cost.flops_paper == paper
    # The large model never reads the draft; the small one has no more to read.
    read = out.cost.large.processed - (len(ids) + len(expected) - 1)
    assert read == 0 if turns == 1 else 0 <= read < turns * len(out.trace.kept)
    assert out.cost.hand_overs == 1


def test_a_reader_sees_no_draft_before_its_verdict() -> None:
    events = list(Router(PAIR, Impatient(1)).stream(prompt_text(2), max_new_tokens=50))
    done = [e for e in events if isinstance(e, Done)]
    assert len(done) == 1
    assert events[-1] is done[0]
    pieces, text = "", ""
    for event in events:
        if isinstance(event, TextDelta):
            pieces += event.text
        if isinstance(event, StepClosed):
            text += "" if event.step.discarded else pieces
            assert pieces == event.step.text
            pieces = ""
    assert text == done[0].output.text
    assert [e.writer for e in events if isinstance(e, HandOver)] == ["large"]
    # What stays is told whole as well, and once.
    kept = list(Router(PAIR, Impatient(99)).stream(prompt_text(2), max_new_tokens=50))
    plain = list(Router(PAIR, AlwaysSmall()).stream(prompt_text(2), max_new_tokens=50))
    assert [type(e) for e in kept] == [type(e) for e in plain]


@pytest.mark.parametrize("policy", [Impatient(0), Impatient(2)], ids=["first", "third"])
@pytest.mark.few(1)
def test_rows_of_a_cohort_restart_as_they_would_alone(policy: Policy) -> None:
    router = Router(PAIR, policy)
    prompts = [prompt_text(i, 3 + 2 * i) for i in range(5)]
    options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 1.0}
    together = router.cohort(prompts, seed=3, **options)
    for i, (prompt, output) in enumerate(zip(prompts, together, strict=True)):
        single = router.generate(prompt, seed=3 + i, **options)
        assert output.token_ids == single.token_ids
        for w in WRITERS:
            assert getattr(output.cost, w).written == getattr(single.cost, w).written
    assert any(o.cost.discarded_tokens for o in together)


def test_the_next_turn_of_a_session_goes_on_from_the_answer_that_stayed() -> None:
    session = Session(Router(PAIR, Impatient(1)))
    text = prompt_text(2)
    for more in ("w1", "w2"):
        out = session.stream(text, max_new_tokens=40).finish()
        fresh = Router(PAIR, Impatient(1)).generate(text, max_new_tokens=40, chat=False)
        assert out.token_ids == fresh.token_ids
        assert out.cost.discarded_tokens == fresh.cost.discarded_tokens > 0
        text += out.text + more


class Restless(Impatient):
    def judge(self, step: Step, trace: Trace) -> Any:
        return "restart"


def test_an_answer_may_be_restarted_once_and_by_those_who_say_so() -> None:
    with pytest.raises(SteerError, match="'impatient' answered 'restart' a second time after"):
        Router(PAIR, Restless(0)).generate(prompt_text(2), max_new_tokens=50)
    policy = Restless(0)
    policy.restarts = False
    with pytest.raises(SteerError, match="without saying that it restarts answers after step 0"):
        Router(PAIR, policy).generate(prompt_text(2), max_new_tokens=50)


def confidence(steps: Sequence[Step], over: str) -> float:
    scores = [statistics.fmean(s.values) for s in steps]
    return min(scores) if over == "min" else statistics.fmean(scores)


@pytest.mark.parametrize("over", ["mean", pytest.param("min", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_cascade_hands_over_what_is_below_the_threshold(over: str) -> None:
    pair = make_pair("llama", 0)
    with torch.no_grad():  # most answers are to end by themselves
        pair.small.get_output_embeddings().weight[1] *= 3
    prompts = [prompt_text(i) for i in range(12)]
    small = AlwaysSmall()
    small.signal = QueryCascade().signal
    drafts = Router(pair, small).cohort(prompts, max_new_tokens=80)
    larges = Router(pair, AlwaysLarge()).cohort(prompts, max_new_tokens=80)
    ended = [o for o in drafts if o.trace.stop_reason == "eos"]
    level = statistics.median(confidence(o.trace.kept, over) for o in ended)
    fit = LogisticMaps("corea", pair.fingerprint, {"answer": Logistic(3.0, -1.0)})
    # A rising map moves the threshold, not the verdict.
    for policy in (
        QueryCascade(level, over=over),
        _with(fit, Logistic(3.0, -1.0)(level), over),
    ):
        outs = Router(pair, policy).cohort(prompts, max_new_tokens=80)
        for large, draft, out in zip(larges, drafts, outs, strict=True):
            stays = draft.trace.stop_reason != "eos" or confidence(draft.trace.kept, over) >= level
            assert out.token_ids == (draft.token_ids if stays else large.token_ids)
            assert out.cost.discarded_tokens == (0 if stays else len(draft.token_ids))
        assert len({o.cost.large_token_share for o in outs}) == 2


def _with(parameters: LogisticMaps, threshold: float, over: str) -> QueryCascade:
    policy = QueryCascade(threshold, over=over)
    policy.parameters, policy._map = parameters, parameters.maps["answer"]
    return policy


def test_cascade_parameters_are_saved_loaded_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    made = LogisticMaps(
        "corea",
        PAIR.fingerprint,
        {"answer": Logistic(2.0, -1.0)},
        {"signal": "margin", "over": "min"},
    )
    made.save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert LogisticMaps.load(path, "corea") == made
    policy = parse_policy(f"corea:path={path}:threshold=0.6")
    assert policy.signal.name == "margin"
    assert str(policy) == f"corea:threshold=0.6:path={path}"
    with pytest.raises(SteerError, match="were fitted for another pair"):
        Router(make_pair("llama", 5), policy)
    with pytest.raises(SteerError, match="holds no parameters of router 'ecotab'"):
        LogisticMaps.load(path, "ecotab")
    path.write_text("[]")
    with pytest.raises(SteerError, match="holds no parameters of router 'corea'"):
        QueryCascade(path=str(path))
    with pytest.raises(SteerError, match=r"cannot read router parameters .*none\.json"):
        QueryCascade(path=str(tmp_path / "none.json"))


@pytest.mark.parametrize("verdict", [REDO, Mend(1)])
def test_a_reader_of_a_policy_that_also_takes_steps_back_sees_no_draft(verdict: Any) -> None:
    """Who drops the text of a step that was taken back has the answer in the end."""

    class Fickle(Policy):
        name = "fickle"
        restarts = True
        restarted = False

        def judge(self, step: Step, trace: Trace) -> Any:
            if step.index == 2 and not self.restarted:
                self.restarted = True
                return RESTART
            first = not any(s.discarded for s in trace.steps)
            return verdict if first else "small"

    stream = Router(PAIR, Fickle()).stream(prompt_text(3), max_new_tokens=60)
    shown, open_ = "", ""
    for event in stream:
        if isinstance(event, TextDelta):
            open_ += event.text
        elif isinstance(event, StepClosed):
            shown += "" if event.step.discarded else open_
            open_ = ""
    assert any(step.discarded and step.index == 2 for step in stream.trace.steps)
    assert shown == stream.output.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QueryCascade(over="most"), "one of mean, min, last, first, got 'most'"),
        (lambda: QueryCascade(float("nan")), "threshold must be a number, got nan"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        make()
