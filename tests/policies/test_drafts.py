"""Routers that judge a draft, SpecReason and RSD: their rules written out anew, their cost."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from steer_decode import Pair, RewardGuided, Router, SpecReason, SteerError, Step, parse_policy
from steer_decode.core.transcript import WRITERS
from steer_decode.policies.spec_reason import grading_question
from support import reference_loop as ref
from support.tiny import FAMILIES, VOCABULARY, make_model, make_pair, make_tokenizer, prompt_text

TEMPLATE = (
    "{% for m in messages %}w1 {{ m['content'] }},{% endfor %}"
    "{% if add_generation_prompt %}w2 {% endif %}"
)


def log_probs(pair: Pair, before: list[int], ids: list[int]) -> list[float]:
    """Of ``ids`` under the large model, one full pass a token, in float64."""
    return [
        float(ref.next_logits(pair, "large", before + ids[:i]).log_softmax(-1)[token])
        for i, token in enumerate(ids)
    ]


def drafted(pair: Pair, prompt: list[int], limit: int, accepts: Any) -> Any:
    """The reference loop with a rule over (text before the draft, draft)."""
    text: list[int] = list(prompt)

    def after(index: int, step: ref.RefStep) -> str:
        if step.writer == "small" and not accepts(text, step.ids):
            return "redo"
        text.extend(step.ids)
        return "small"

    return ref.generate(pair, prompt, limit, lambda i, w, z: w, after)


@pytest.mark.spread
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["spec-reason", "rsd"])
@pytest.mark.few(3)
def test_drafts_are_judged_as_recomputed_from_scratch(family: str, name: str) -> None:
    pair, limit = make_pair(family, 0), 40
    prompt = pair.encode(prompt_text(2))
    probe = Router(pair, SpecReason(-math.inf)).generate(prompt_text(2), max_new_tokens=limit)
    grades = [statistics.fmean(s.graded) for s in probe.trace.kept if s.graded]
    level = statistics.median(grades) + 1e-3
    policy = SpecReason(level) if name == "spec-reason" else RewardGuided(math.exp(level))
    out = Router(pair, policy).generate(prompt_text(2), max_new_tokens=limit)

    def accepts(before: list[int], ids: list[int]) -> bool:
        return statistics.fmean(log_probs(pair, before, ids)) >= level

    ids, steps = drafted(pair, prompt, limit, accepts)
    assert out.token_ids == ids
    ours = [(s.writer, s.token_ids, s.discarded) for s in out.trace.steps]
    assert ours == [(s.writer, s.ids, s.discarded) for s in steps]
    assert any(s.discarded for s in out.trace.steps)


def test_a_reward_sees_the_step_and_all_before_it_and_drafts_are_counted() -> None:
    pair, seen = make_pair("qwen2", 0), []

    def reward(step: str, before: str) -> float:
        seen.append((step, before))
        return 0.7 if len(seen) % 2 else 0.69

    out = Router(pair, RewardGuided(reward=reward)).generate(prompt_text(3), max_new_tokens=60)
    text, expected = pair.tokenizer.decode(out.trace.prompt_ids), []
    for step in out.trace.steps:
        if step.writer == "small" and step.closed:
            expected.append((step.text, text))
        text += "" if step.discarded else step.text
    assert seen == expected
    taken_back = [s for s in out.trace.steps if s.discarded]
    assert taken_back
    assert all(s.writer == "small" for s in taken_back)
    assert out.cost.discarded_tokens == sum(len(s.token_ids) for s in taken_back)
    paper = 0
    for w in WRITERS:
        written = sum(len(s.token_ids) for s in out.trace.steps if s.writer == w)
        assert getattr(out.cost, w).written == written
        paper += 2 * pair.shapes[w].parameters * written
    assert out.cost.flops_paper == paper


@pytest.mark.parametrize("reward", [lambda s, b: "good", lambda s, b: math.nan, lambda s, b: None])
def test_a_reward_that_is_no_number_is_named(reward: Any) -> None:
    with pytest.raises(SteerError, match="must return a number, got"):
        Router(make_pair("llama", 0), RewardGuided(reward=reward)).generate(prompt_text(2))


def test_a_reward_that_raises_is_named_with_the_step() -> None:
    def broken(step: str, before: str) -> float:
        raise RuntimeError("no model")

    with pytest.raises(SteerError, match=r"policy 'rsd' failed after step 0: RuntimeError: no mod"):
        Router(make_pair("llama", 0), RewardGuided(reward=broken)).generate(prompt_text(2))


def chat_pair(seed: int = 0, template: str | None = TEMPLATE, digits: bool = True) -> Pair:
    """A pair with a chat template that knows ten digits."""
    words = list(VOCABULARY)
    if digits:
        words[-20:-10] = [f"w{90 + d}" for d in range(10)]
    tokenizer = make_tokenizer(words)
    tokenizer.chat_template = template
    small = make_model("llama", seed)
    return Pair(small, make_model("llama", seed + 1, layers=3, rows=48), tokenizer)


@pytest.fixture
def words_as_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabulary has no digits: w90 to w99 stand for them, ``w9`` being the lead."""
    from steer_decode.policies import spec_reason

    monkeypatch.setattr(spec_reason, "_LEADS", (("w3 ", "w9"),))


@pytest.mark.usefixtures("words_as_digits")
@pytest.mark.parametrize("turns", [1, 4])
@pytest.mark.parametrize("grade", ["digit", "expected-digit"])
@pytest.mark.few(2)
def test_digits_are_read_behind_the_transcript_and_forgotten(grade: str, turns: int) -> None:
    pair = chat_pair()
    question = grading_question(pair)
    assert len(set(question.choices)) == 10
    policy = SpecReason(5.0, grade)
    out = Router(pair, policy, ahead=turns).generate(prompt_text(2), max_new_tokens=50)
    text, judged = list(out.trace.prompt_ids), 0
    for step in out.trace.steps:
        ids = text + step.token_ids
        if step.writer == "small" and step.closed:
            logits = ref.next_logits(pair, "large", [*ids, *question.ids])
            expected = logits.log_softmax(-1)[list(question.choices)]
            assert step.answers == pytest.approx(expected.tolist(), abs=2e-3)
            p = expected.softmax(0)
            value = float(p.argmax() if grade == "digit" else (p * torch.arange(10)).sum())
            assert policy.grade_of(step) == pytest.approx(value, abs=2e-3)
            assert step.discarded == (value < 5.0)
            judged += 1
        text = text if step.discarded else ids
    assert judged >= 2
    assert text == out.trace.prompt_ids + out.token_ids
    large = [s for s in out.trace.steps if s.writer == "large"]
    if turns > 1:
        return  # A few passes more, beyond the ends of steps.
    assert out.cost.large.forwards == judged + sum(len(s.token_ids) for s in large)


@pytest.mark.usefixtures("words_as_digits")
def test_the_question_is_counted() -> None:
    pair = chat_pair()
    question = grading_question(pair)
    out = Router(pair, SpecReason(0.0, "digit")).generate(prompt_text(2), max_new_tokens=50)
    asked = [s for s in out.trace.kept if s.answers]
    assert out.cost.large.written == 0
    assert len(asked) >= 2
    text = len(out.trace.prompt_ids) + sum(len(s.token_ids) for s in asked)
    assert out.cost.large.processed == text + len(asked) * len(question.ids)
    past, flops = 0, 0
    for i, step in enumerate(asked):
        new = len(step.token_ids) + (len(out.trace.prompt_ids) if i == 0 else 0)
        flops += pair.shapes["large"].flops(new + len(question.ids), past)
        past += new
    assert out.cost.large.flops == flops


@pytest.mark.usefixtures("words_as_digits")
def test_a_draft_that_cannot_be_asked_about_is_written_by_the_large_model() -> None:
    pair = chat_pair()
    room = len(pair.encode(prompt_text(2))) + len(grading_question(pair).ids)
    object.__setattr__(pair, "max_length", room)  # full as soon as one token is written
    out = Router(pair, SpecReason(0.0, "digit")).generate(prompt_text(2), max_new_tokens=30)
    drafts = [s for s in out.trace.steps if s.writer == "small" and s.closed]
    assert drafts
    assert all(s.discarded and s.answers == [] for s in drafts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpecReason(grade="stars"), "grade must be one of log-prob, digit, .* got 'stars'"),
        (lambda: SpecReason(math.nan), "threshold must be a number, got nan"),
        (lambda: RewardGuided(math.nan), "threshold must be a number, got nan"),
        (lambda: RewardGuided(reward="exp"), "must be 'likelihood' or MODULE:FUNCTION, got 'exp'"),
        (lambda: RewardGuided(reward="nowhere:f"), "cannot find the reward 'nowhere:f'"),
        (lambda: RewardGuided(reward="math:pi"), "'math:pi' is no function, but float"),
        (
            lambda: Router(make_pair("llama", 0), SpecReason(grade="digit")),
            "neither model has a chat template; use grade=log-prob",
        ),
        (
            lambda: Router(chat_pair(template="w1"), SpecReason(grade="digit")),
            "the chat template does not repeat the answer",
        ),
        (
            lambda: Router(chat_pair(template="{{ raise() }}"), SpecReason(grade="digit")),
            "the chat template fails",
        ),
        (
            lambda: Router(chat_pair(digits=False), SpecReason(grade="digit")),
            "no digit is one token in this pair",
        ),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        make()


def test_specifications() -> None:
    assert str(parse_policy("spec-reason")) == "spec-reason:threshold=-0.5:grade=log-prob"
    assert str(parse_policy("spec-reason:grade=digit")) == "spec-reason:threshold=7:grade=digit"
    assert str(parse_policy("rsd")) == "rsd:threshold=0.7:reward=likelihood"
    policy = parse_policy("rsd:reward=math:hypot:threshold=0.2")
    assert str(policy) == "rsd:threshold=0.2:reward=math:hypot"
    assert not policy.grades


@pytest.mark.parametrize("policy", [SpecReason(-2.0), RewardGuided(0.1)], ids=lambda p: p.name)
@pytest.mark.few(1)
def test_a_row_of_a_cohort_is_judged_as_alone(policy: Any) -> None:
    router = Router(make_pair("qwen2", 0), policy)
    prompts = [prompt_text(i, 3 + 2 * i) for i in range(4)]
    for prompt, output in zip(prompts, router.cohort(prompts, max_new_tokens=40), strict=True):
        alone = router.generate(prompt, max_new_tokens=40)
        assert output.token_ids == alone.token_ids
        assert [s.discarded for s in output.trace.steps] == [s.discarded for s in alone.trace.steps]


def test_a_step_of_the_large_model_is_not_judged() -> None:
    step = Step(3, "large", token_ids=[5], values=[1.0], closed=True)
    assert SpecReason().after_step(step) == "small"
