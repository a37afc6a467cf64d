"""Many answers at once: each is what it would be alone, whoever writes beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from steer_decode import (
    AlwaysSmall,
    Done,
    FirstTokenEntropy,
    Policy,
    RandomShare,
    Router,
    Steer,
    SteerError,
    TextDelta,
)
from steer_decode.core.transcript import WRITERS, Transcript
from steer_decode.engines.hf.lane import Lane
from support import reference_loop as ref
from support.tiny import FAMILIES, Pairs, prompt_ids, prompt_text

FAMILIES = (*FAMILIES, "olmo3")
PAIRS = Pairs()
POLICIES = (
    Steer(threshold=9.0),
    FirstTokenEntropy(threshold=0.7),
    RandomShare(0.5),
    AlwaysSmall(),
)


@pytest.mark.few(2)
@pytest.mark.spread(1, ci=2)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_answered_as_if_it_were_alone(family: str, policy: Policy) -> None:
    router = Router(PAIRS[family], policy)
    prompts = [prompt_text(i, 3 + 5 * i) for i in range(5)]
    together = router.cohort(prompts, max_new_tokens=40, seed=3)
    for i, prompt in enumerate(prompts):
        alone = router.generate(prompt, max_new_tokens=40, seed=3 + i)
        assert together[i].token_ids == alone.token_ids
        assert [s.writer for s in together[i].trace.steps] == [s.writer for s in alone.trace.steps]
        for writer in WRITERS:
            many, one = getattr(together[i].cost, writer), getattr(alone.cost, writer)
            assert many.processed == one.processed
            # A long hand-over beside rows that decode takes two passes, and the head works twice.
            extra = 2 * router.pair.shapes[writer].head * (many.forwards - one.forwards)
            assert many.flops == one.flops + extra
    if policy.name in ("steer", "random"):
        assert any(o.cost.hand_overs for o in together)


def test_sampled_rows_have_their_own_seeds() -> None:
    router = Router(PAIRS["llama"], Steer(threshold=9.0))
    prompts = [prompt_text(1)] * 3
    options = {"max_new_tokens": 30, "temperature": 1.0, "top_p": 0.9}
    together = router.cohort(prompts, seed=5, **options)
    assert together[0].token_ids != together[1].token_ids
    for i, prompt in enumerate(prompts):
        alone = router.generate(prompt, seed=5 + i, **options)
        assert together[i].token_ids == alone.token_ids


def test_the_weights_are_read_once_for_all_rows() -> None:
    pair = PAIRS["llama"]
    router = Router(pair, AlwaysSmall())
    prompt = prompt_text(1)
    alone = router.generate(prompt, max_new_tokens=10).cost
    rows = [output.cost for output in router.cohort([prompt] * 4, max_new_tokens=10)]
    shape = pair.shapes["small"]
    weights = 4 * (shape.body + shape.head) * alone.small.forwards
    assert sum(r.bytes_read for r in rows) == pytest.approx(4 * alone.bytes_read - 3 * weights)


def test_a_row_writes_in_the_turn_in_which_its_logits_were_looked_at() -> None:
    """Steps close at different turns; no row waits for a turn in which it has nothing to read."""
    router = Router(PAIRS["llama"], FirstTokenEntropy(threshold=99.0))
    prompts = [prompt_text(i, 9) for i in range(4)]
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    handle = router.pair.small.register_forward_pre_hook(count)
    outputs = router.cohort(prompts, max_new_tokens=40)
    handle.remove()
    assert len({tuple(len(s.token_ids) for s in o.trace.steps) for o in outputs}) > 1
    assert passes == max(len(o.token_ids) for o in outputs)


def test_every_row_streams_and_is_done_once() -> None:
    router = Router(PAIRS["qwen3"], Steer(threshold=9.0))
    cohort = router.stream_cohort([prompt_text(i) for i in range(4)], max_new_tokens=25)
    texts, done = [""] * 4, [0] * 4
    kept: list[list[str]] = [[] for _ in range(4)]
    for row, event in cohort:
        assert not done[row]
        if isinstance(event, TextDelta):
            texts[row] += event.text
        elif isinstance(event, Done):
            done[row] += 1
            kept[row] = [s.text for s in event.output.trace.steps]
    assert done == [1] * 4
    assert ["".join(steps) for steps in kept] == texts
    assert all(o.cost.seconds > 0 for o in cohort.outputs)


class WorstHalf(Policy):
    """The half of a round that is least confident goes to the large model, first steps again."""

    name = "worst-half"
    in_rounds = True

    def __init__(self) -> None:
        self.rounds: list[list[tuple[int, str]]] = []

    def start(self) -> Policy:
        WorstHalf.last = WorstHalf()
        return WorstHalf.last

    last: WorstHalf

    def after_round(self, steps):  # type: ignore[no-untyped-def]
        self.rounds.append([(step.index, step.writer) for step in steps])
        ranked = sorted(range(len(steps)), key=lambda i: steps[i].score)
        worst = set(ranked[: len(steps) // 2])
        again = [s.index == 0 and s.writer == "small" for s in steps]
        return [
            ("redo" if again[i] else "large") if i in worst else "small" for i in range(len(steps))
        ]


@pytest.mark.parametrize("turns", [1, 4])
def test_rounds_wait_for_every_row(turns: int) -> None:
    router = Router(PAIRS["llama"], WorstHalf(), ahead=turns)
    outputs = router.cohort([prompt_text(i, 3 + 4 * i) for i in range(6)], max_new_tokens=40)
    rounds = WorstHalf.last.rounds
    # One index a round: all first steps, those that were written again, then the next.
    again = [o.trace.steps[1] for o in outputs if o.trace.steps[0].discarded]
    assert [len(r) for r in rounds[:2]] == [6, sum(step.closed for step in again)]
    assert [{i for i, _ in r} for r in rounds[:3]] == [{0}, {0}, {1}]
    assert {writer for _, writer in rounds[1]} == {"large"}
    assert all(len({index for index, _ in r}) == 1 for r in rounds)
    assert [r[0][0] for r in rounds] == sorted(r[0][0] for r in rounds)
    assert len(again) == 3
    assert rounds[1]
    # Whoever has ended is not waited for.
    assert len(rounds[-1]) < 6


def test_a_round_wants_one_verdict_a_step() -> None:
    class Silent(WorstHalf):
        def start(self) -> Policy:
            return self

        def after_round(self, steps):  # type: ignore[no-untyped-def]
            return ["small"] * (len(steps) - 1)

    with pytest.raises(SteerError, match="answered 1 times for 2 steps after step 0"):
        Router(PAIRS["llama"], Silent()).cohort([prompt_text(0)] * 2, max_new_tokens=30)


def test_bad_prompts_are_named_before_anything_runs() -> None:
    router = Router(PAIRS["llama"], AlwaysSmall())
    with pytest.raises(SteerError, match="prompts are empty: give at least one"):
        router.cohort([])
    with pytest.raises(SteerError, match="prompt 1: prompt is empty"):
        router.cohort([prompt_text(0), " "])


class Interleavings(RuleBasedStateMachine):
    """Three texts that two models read in any order, in any company, with any part taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = PAIRS[self.family]
        self.texts = [Transcript(prompt_ids(i, 2 + 3 * i)) for i in range(4)]
        self.lane = Lane(self.pair.small, self.pair.shapes["small"], self.texts, limit=512)
        self.seed = 0

    family = "llama"

    @rule(row=st.integers(0, 3), amount=st.integers(1, 9))
    def write(self, row: int, amount: int) -> None:
        self.seed += 1
        for token in prompt_ids(self.seed, amount):
            self.texts[row].append(token, "large")

    @rule(row=st.integers(0, 3), amount=st.integers(1, 9))
    def take_back(self, row: int, amount: int) -> None:
        text = self.texts[row]
        text.truncate(max(text.prompt_length, len(text) - amount))
        self.lane.roll_back(row, len(text))

    @rule(row=st.integers(0, 3), seed=st.integers(0, 3), kept=st.integers(0, 5))
    def ask_something_else(self, row: int, seed: int, kept: int) -> None:
        ids = self.texts[row].ids[:kept] + prompt_ids(seed, 6)
        self.lane.roll_back(row, self.texts[row].restart(ids))

    @rule(rows=st.permutations(range(4)), n=st.integers(1, 4))
    def read(self, rows: list[int], n: int) -> None:
        logits = self.lane.catch_up(rows[:n])
        for row, got in zip(rows[:n], logits, strict=True):
            expected = ref.next_logits(self.pair, "small", self.texts[row].ids)
            torch.testing.assert_close(
                got[: self.pair.vocab_size].double(), expected, atol=3e-4, rtol=1e-4
            )

    @invariant()
    def no_read_mark_is_beyond_its_text(self) -> None:
        for row, text in enumerate(self.texts):
            assert 0 <= self.lane.read_mark(row) <= len(text)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.few(3)
def test_any_interleaving_equals_recomputation(family: str) -> None:
    machine = type("Machine", (Interleavings,), {"family": family})
    case = machine.TestCase
    case.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
    case().runTest()


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 600), min_size=1, max_size=3))
def test_buffers_grow_and_keep_what_they_hold(lengths: list[int]) -> None:
    pair = PAIRS["llama"]
    texts = [Transcript(prompt_ids(i, 4)) for i in range(len(lengths))]
    lane = Lane(pair.small, pair.shapes["small"], texts)
    lane.catch_up(range(len(texts)))
    for i, length in enumerate(lengths):
        for token in prompt_ids(i + 50, length):
            texts[i].append(token, "large")
        lane.catch_up([i])
    logits = lane.catch_up(range(len(texts)))
    for text, got in zip(texts, logits, strict=True):
        expected = ref.next_logits(pair, "small", text.ids)
        torch.testing.assert_close(got[: pair.vocab_size].double(), expected, atol=2e-3, rtol=1e-3)
    assert lane.cache.capacity >= max(len(t) for t in texts)
