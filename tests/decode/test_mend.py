"""Steps that are mended: the other model writes one token, the step's writer goes on from it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from steer_decode import (
    AlwaysLarge,
    BothSides,
    Pair,
    Policy,
    Router,
    SteerError,
    Step,
    StepClosed,
    TextDelta,
)
from steer_decode.core.saved import SavedAnswer
from steer_decode.core.trace import Trace
from steer_decode.core.transcript import Writer
from steer_decode.policies import REDO, Mend
from support.tiny import FAMILIES, make_pair, prompt_text

ALL_READ = {"sure": 1.0, "lost": 0.0, "keep": 0.0}


class Mends(Policy):
    """Mends each step of the small model at the given tokens, as far as they are in reach."""

    name = "mends"

    def __init__(self, *places: int) -> None:
        self.places = places

    def after_step(self, step: Step) -> Any:
        first = len(step.token_ids) - step.unread
        for place in self.places:
            if first <= place < len(step.token_ids):
                return Mend(place)
        return "small"


@pytest.mark.few(1)
@pytest.mark.spread
@pytest.mark.parametrize("turns", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_every_draft_read_greedy_tokens_are_the_large_models_own(
    family: str, turns: int
) -> None:
    pair = make_pair(family, 0)
    router = Router(pair, BothSides(**ALL_READ), ahead=turns)
    out = router.generate(prompt_text(2), max_new_tokens=70)
    # The step that the limit has cut is not read.
    ids = [t for s in out.trace.kept if s.closed for t in s.token_ids]
    own = Router(pair, AlwaysLarge()).generate(prompt_text(2), max_new_tokens=70).token_ids
    assert ids == own[: len(ids)]
    assert any(s.others for s in out.trace.kept)


@pytest.mark.parametrize("places", [(0,), (1,), (0, 2, 5), (3, 4)])
@pytest.mark.few(2)
def test_what_stays_and_who_wrote_it(places: tuple[int, ...]) -> None:
    pair = make_pair("llama", 0)
    out = Router(pair, Mends(*places)).generate(prompt_text(3), max_new_tokens=60)
    ids = list(out.trace.prompt_ids)
    seen = 0
    for step in (s for s in out.trace.kept if s.closed):
        assert step.others == [p for p in places if p < len(step.token_ids)]
        for token, writer in zip(step.token_ids, step.writers, strict=True):
            with torch.no_grad():
                model = pair.model(writer)
                logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert token == int(logits[: pair.vocab_size].argmax())
            ids.append(token)
        seen += len(step.others)
    assert seen
    assert ids == [*out.trace.prompt_ids, *out.token_ids][: len(ids)]


def test_a_draft_and_the_step_in_its_place_share_what_stays() -> None:
    pair = make_pair("llama", 0)
    out = Router(pair, Mends(1, 3)).generate(prompt_text(3), max_new_tokens=60)
    steps = out.trace.steps
    mended = [(a, b) for a, b in pairwise(steps) if b.others]
    assert mended
    for draft, step in mended:
        assert draft.discarded
        assert (step.index, step.writer) == (draft.index, draft.writer)
        assert step.token_ids[: step.inherited] == draft.token_ids[: step.inherited]
        assert step.values[: step.inherited] == draft.values[: step.inherited]
        assert step.others[-1] == step.inherited
        assert step.token_ids[step.inherited] != draft.token_ids[step.inherited]


def test_the_large_model_writes_from_the_logits_that_its_reading_left() -> None:
    pair = make_pair("llama", 0)
    out = Router(pair, BothSides(**ALL_READ)).generate(prompt_text(2), max_new_tokens=70)
    read = sum(bool(s.graded) for s in out.trace.steps)
    assert sum(len(s.others) for s in out.trace.kept) > 2
    # Where it goes on itself, each token that it reads of its own is a pass.
    own = sum(len(s.token_ids) - s.inherited - 1 for s in out.trace.steps if s.writer == "large")
    assert out.cost.large.forwards == read + own


def test_grades_of_a_mended_step_are_of_what_follows_the_mend() -> None:
    pair = make_pair("llama", 0)
    out = Router(pair, BothSides(**ALL_READ)).generate(prompt_text(2), max_new_tokens=70)
    seen, text = 0, list(out.trace.prompt_ids)
    for step in out.trace.steps:
        start = len(text)
        ids = text + step.token_ids
        if step.others and step.graded:
            n = len(step.graded)
            assert n == step.unread
            with torch.no_grad():
                logits = pair.large(torch.tensor([ids]), use_cache=False).logits[0]
            logits = logits[-n - 1 : -1, : pair.vocab_size].double()
            expected = logits.log_softmax(-1)[range(n), step.token_ids[-n:]]
            assert step.graded == pytest.approx(expected.tolist(), abs=2e-3)
            seen += 1
        text = text[:start] if step.discarded else ids
    assert seen


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_answers_do_not_depend_on_company_or_turns(temperature: float) -> None:
    pair = make_pair("qwen2", 0)
    prompts = [prompt_text(i, 3 + i) for i in range(4)]
    options: Any = {"max_new_tokens": 50, "temperature": temperature}
    policy = BothSides(sure=0.9, lost=0.0, keep=-2.0)
    together = Router(pair, policy).cohort(prompts, seed=7, **options)
    ahead = Router(pair, policy, ahead=3).cohort(prompts, seed=7, **options)
    assert any(s.others for o in together for s in o.trace.kept)
    for i, prompt in enumerate(prompts):
        alone = Router(pair, policy).generate(prompt, seed=7 + i, **options)
        assert together[i].token_ids == alone.token_ids == ahead[i].token_ids
        assert [s.writers for s in together[i].trace.kept] == [s.writers for s in alone.trace.kept]


def test_a_reader_sees_what_stays_again() -> None:
    """Who drops the text of a step that was taken back has the answer in the end."""
    pair = make_pair("llama", 0)
    stream = Router(pair, Mends(2)).stream(prompt_text(3), max_new_tokens=60)
    shown: list[str] = []
    open_: list[tuple[str, Writer]] = []
    for event in stream:
        if isinstance(event, TextDelta):
            open_.append((event.text, event.writer))
        elif isinstance(event, StepClosed):
            if not event.step.discarded:
                shown += [text for text, _ in open_]
                assert [writer for _, writer in open_] == event.step.writers
            open_ = []
    assert "".join(shown) == stream.output.text


def test_hand_overs_are_counted_to_the_token_and_back() -> None:
    pair = make_pair("llama", 0)
    out = Router(pair, Mends(2)).generate(prompt_text(3), max_new_tokens=60)
    mends = sum(len(s.others) for s in out.trace.steps if s.inherited)
    assert mends > 1
    # Each token of the large model is written between two of the small one, the last one maybe not.
    assert out.cost.hand_overs in (2 * mends, 2 * mends - 1)


def test_a_mended_step_may_be_taken_back_whole() -> None:
    class Both(Policy):
        name = "both"

        def after_step(self, step: Step) -> Any:
            if step.writer == "large":
                return "small"
            return REDO if step.others else Mend(1)

    out = Router(make_pair("llama", 0), Both()).generate(prompt_text(3), max_new_tokens=60)
    kinds = [(s.writer, s.discarded, len(s.others)) for s in out.trace.steps][:3]
    assert kinds == [("small", True, 0), ("small", True, 1), ("large", False, 0)]
    assert {s.writer for s in out.trace.kept if s.closed} == {"large"}


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((99,), r"wants token 99 of step 0 mended: it must be one of 0 to \d+, which small wrote"),
        ((-1,), "wants token -1 of step 0 mended"),
        ((1, 1), "wants token 1 of step 0 mended"),
        (
            ("x",),
            r"answered Mend\(at='x', rest=False\) after step 0: it must answer .* or Mend\(i\)",
        ),
    ],
)
def test_a_mend_out_of_reach_is_refused(places: tuple[Any, ...], message: str) -> None:
    class Insists(Policy):
        name = "insists"

        def after_step(self, step: Step) -> Any:
            return Mend(places[len(step.others)])

    with pytest.raises(SteerError, match=message):
        Router(make_pair("llama", 0), Insists()).generate(prompt_text(3), max_new_tokens=60)


@pytest.mark.slow
def test_the_limit_may_cut_a_step_at_its_mend() -> None:
    pair = make_pair("llama", 0)
    for room in range(1, 30):
        out = Router(pair, Mends(0, 1, 2)).generate(prompt_text(3), max_new_tokens=room)
        assert len(out.token_ids) <= room
        assert out.trace.stop_reason in ("max_new_tokens", "eos")


def test_a_trace_with_mends_is_kept_whole() -> None:
    pair = make_pair("llama", 0)
    out = Router(pair, Mends(2)).generate(prompt_text(3), max_new_tokens=40)
    answer = SavedAnswer("?", {"small": "s", "large": "l"}, {"small": 1, "large": 2}, out)
    back = SavedAnswer.from_dict(answer.to_dict()).output.trace
    assert [(s.others, s.inherited) for s in back.steps] == [
        (s.others, s.inherited) for s in out.trace.steps
    ]
    assert isinstance(back, Trace)


@pytest.mark.slow
def test_a_sampled_mend_is_drawn_from_the_large_model() -> None:
    """Frequencies of the mended token against its distribution, by a G-test with wide bounds."""
    pair: Pair = make_pair("llama", 0)
    router = Router(pair, Mends(0))
    counts: dict[int, int] = {}
    n = 400
    for seed in range(n):
        stream = router.stream(prompt_text(3), max_new_tokens=1000, temperature=1.0, seed=seed)
        for event in stream:
            if isinstance(event, TextDelta) and event.writer == "large":
                counts[event.token_id] = counts.get(event.token_id, 0) + 1
                break
        stream.close()
    with torch.no_grad():
        logits = pair.large(torch.tensor([stream.trace.prompt_ids])).logits[0, -1]
    p = logits[: pair.vocab_size].double().softmax(-1)
    total = sum(counts.values())
    assert total > 0.9 * n
    top = p.topk(3).indices.tolist()
    for token in top:
        expected, q = total * float(p[token]), float(p[token])
        assert abs(counts.get(token, 0) - expected) < 5 * math.sqrt(total * q * (1 - q)) + 1
