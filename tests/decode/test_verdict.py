"""What a policy answers after a step: a word, or a verdict whose reason the loop writes down."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from steer_decode import (
    BothSides,
    Calibration,
    FirstTokenEntropy,
    Percentile,
    Policy,
    Router,
    Signal,
    Steer,
    SteerCohort,
    SteerError,
    Step,
    StepStart,
    Trace,
)
from steer_decode.policies import REDO, Mend, Verdict
from steer_decode.policies.fitted.mixture import TwoGaussians
from support.tiny import Pairs, prompt_text
from torch import Tensor

PAIRS = Pairs()
PROMPTS = [prompt_text(i, 3 + i) for i in range(12)]


class Says(Policy):
    """Answers a step by what it is given; alone, or with others in a round."""

    name = "says"

    def __init__(self, answers: Sequence[Any], in_rounds: bool = False) -> None:
        self.answers, self.in_rounds = answers, in_rounds

    def after_step(self, step: Step) -> Any:
        return self.answers[min(step.index, len(self.answers) - 1)]


def written(policy: Policy) -> list[Step]:
    router, prompts = Router(PAIRS["llama"], policy), PROMPTS[1:3]
    if policy.in_rounds:
        return router.cohort(prompts, max_new_tokens=60)[0].trace.steps
    return router.generate(prompts[0], max_new_tokens=60).trace.steps


@pytest.mark.parametrize("in_rounds", [False, True])
def test_the_loop_writes_the_reason_into_the_step(in_rounds: bool) -> None:
    answers = [Verdict("large", 0.25), "small", Verdict("small", 1), Verdict("large"), "small"]
    steps = written(Says(answers, in_rounds))
    assert [s.writer for s in steps[:5]] == ["small", "large", "small", "small", "large"]
    assert [s.posterior for s in steps[:5]] == [0.25, None, 1.0, None, None]
    assert steps[0].to_dict()["posterior"] == 0.25
    words = written(Says([getattr(a, "what", a) for a in answers], in_rounds))
    assert [s.token_ids for s in steps] == [s.token_ids for s in words]


def test_a_step_that_does_not_stay_keeps_its_reason() -> None:
    class Once(Policy):
        def after_step(self, step: Step) -> Verdict:
            return Verdict(REDO, 0.1) if step.writer == "small" else Verdict("large", 0.9)

    assert [s.posterior for s in written(Once())][:3] == [0.1, 0.9, 0.9]


def test_a_mended_step_has_the_reason_of_the_draft_and_then_its_own() -> None:
    class Once(Policy):
        def after_step(self, step: Step) -> Verdict:
            return Verdict("small", 0.8) if step.others or step.index else Verdict(Mend(1), 0.2)

    draft, mended, *_ = written(Once())
    assert (draft.discarded, draft.posterior) == (True, 0.2)
    assert (mended.others, mended.posterior) == ([1], 0.8)


@pytest.mark.parametrize("in_rounds", [False, True])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Verdict("smal"), r"Verdict\(what='smal', posterior=None\) after step 0: it must"),  # type: ignore[arg-type]
        (Verdict(Verdict("small")), r"Verdict\(what=Verdict\(.*\) after step 0: it must"),  # type: ignore[arg-type]
        (Verdict("small", 1.5), r"posterior=1.5\) after step 0: posterior must lie in \[0, 1\]"),
        (Verdict("small", float("nan")), r"after step 0: posterior must lie in \[0, 1\], got nan"),
        (Verdict("small", "0.5"), "after step 0: posterior must be a number, got '0.5'"),  # type: ignore[arg-type]
        (Verdict("small", True), "after step 0: posterior must be a number, got True"),
        (["small"], r"\['small'\] after step 0: it must answer 'small', 'large', 'redo'"),
    ],
)
def test_a_verdict_is_checked(in_rounds: bool, answer: Any, message: str) -> None:
    with pytest.raises(SteerError, match=f"policy 'says' answered .*{message}"):
        written(Says([answer], in_rounds))


@pytest.mark.parametrize("in_rounds", [False, True])
@pytest.mark.parametrize("answer", [Verdict("small"), ["small"], REDO], ids=str)
def test_before_a_step_there_is_nothing_to_judge(in_rounds: bool, answer: Any) -> None:
    class Early(Says):
        def before_step(self, start: StepStart) -> Any:
            return answer

    with pytest.raises(SteerError, match=r"before step 0: it must answer 'small' or 'large'$"):
        written(Early(["small"], in_rounds))


MIXTURE = TwoGaussians(0.5, 6, 4, 12, 4)
FITS: Any = {writer: {-1: MIXTURE} for writer in ("small", "large")}
CALIBRATION = Calibration(PAIRS["llama"].fingerprint, "max-logit", FITS, FITS)


@pytest.mark.parametrize(
    "policy",
    [Steer(CALIBRATION), SteerCohort(give_up=0.9), Percentile(), BothSides(lost=0.3)],
    ids=lambda policy: policy.name,
)
@pytest.mark.few(2)
def test_a_router_writes_nothing_into_a_step(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = set()

    def noted(step: Step, name: str, value: object) -> None:
        writers.add(sys._getframe(1).f_globals["__name__"])
        object.__setattr__(step, name, value)

    monkeypatch.setattr(Step, "__setattr__", noted)
    outputs = Router(PAIRS["llama"], policy).cohort(PROMPTS, max_new_tokens=40)
    assert "steer_decode.decode.answer" in writers
    assert not {name for name in writers if name.startswith("steer_decode.policies")}
    judged = [s.posterior is not None for o in outputs for s in o.trace.steps if s.closed]
    assert any(judged) == policy.has_posterior


def test_a_cohort_knows_the_posteriors_of_the_steps_before() -> None:
    known: list[list[float | None]] = []

    class Watched(SteerCohort):
        def start(self) -> SteerCohort:
            return self

        def before_step(self, start: StepStart) -> Any:
            assert isinstance(start.trace, Trace)
            known.append([step.posterior for step in start.trace.steps])
            return super().before_step(start)

    Router(PAIRS["llama"], Watched()).cohort(PROMPTS, max_new_tokens=60)
    later = [posteriors for posteriors in known if len(posteriors) > 1]
    assert later
    assert all(posteriors[0] is not None for posteriors in later)


@pytest.mark.parametrize("router", [FirstTokenEntropy, BothSides])
def test_a_look_is_read_once(router: type[Policy]) -> None:
    calls: list[int] = []

    def read(stats: Any) -> Tensor:
        calls.append(len(stats.max_logit))
        margin: Tensor = stats.margin
        return margin

    policy = router()
    policy.signal = Signal("counted", read)
    policy.looks_ahead = True
    starts: list[StepStart] = []

    class Decides(router):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            vars(self).update(vars(policy))

        def before_step(self, start: StepStart) -> Any:
            starts.append(start)
            before = len(calls)
            word = super().before_step(start)
            assert len(calls) == before
            # Made by hand, without the value, it says the same.
            assert super().before_step(replace(start, value=None)) == word
            assert len(calls) == before + 1
            return word

    steps = Router(PAIRS["llama"], Decides()).generate(PROMPTS[2], max_new_tokens=60).trace.steps
    assert [start.value for start in starts][: len(steps)] == [
        step.before for step in steps if step.before is not None
    ]
    assert len({step.writer for step in steps}) == 2
