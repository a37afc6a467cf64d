"""step_update_ on every backend: against its definition, and against the loop it stands in for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steer_decode.core.boundary import StepBoundary
from support.selection import examples
from support.step_problems import BACKENDS, CLASSES, EOS, WORDS, Step, assert_same, copy_of, ids
from support.tiny import make_tokenizer
from torch import Tensor

from steer_kernels import RowFlag, StepState, reference, token_classes

TOKENIZER = make_tokenizer(WORDS)


@pytest.fixture(
    params=["reference", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)], scope="module"
)
def step(request: pytest.FixtureRequest) -> Step:
    return BACKENDS[request.param]


class Loop:
    """One answer as the router writes it, with lists and a decoded tail: the rule to agree with."""

    def __init__(self, prompt: list[int], max_new_tokens: int, max_step: int) -> None:
        self.max_step = max_step
        self.transcript = list(prompt)
        self.limit = len(prompt) + max_new_tokens
        self.start = len(prompt)
        self.step: list[int] = []
        self.values: list[float] = []
        self.closed, self.stop = False, ""

    def push(self, token: int, score: float) -> None:
        if self.stop:
            return
        if self.closed:
            self.start, self.step, self.values, self.closed = len(self.transcript), [], [], False
        self.transcript.append(token)
        self.step.append(token)
        self.values.append(score)
        if token == EOS:
            self.closed, self.stop = True, "eos"
        elif self.closes():
            self.closed = True
        if not self.stop and len(self.transcript) >= self.limit:
            self.stop = "max_new_tokens"

    def closes(self) -> bool:
        """The delimiter to the letter: blank lines with blanks in them are the host's."""
        text = TOKENIZER.decode(self.step)
        before = TOKENIZER.decode(self.step[:-1])
        completed = "\n\n" in text[max(0, len(before) - 1) :]
        said = any(letter.isalnum() for letter in text)
        closes = completed and said
        if closes:  # whatever a device notices is an end of a step to the host, too
            assert StepBoundary(TOKENIZER, len(WORDS)).closes(self.step)
        return closes or len(self.step) >= self.max_step

    def take_back(self) -> None:
        del self.transcript[self.start :]
        self.step, self.values, self.closed, self.stop = [], [], True, ""

    def check(self, state: StepState, row: int) -> None:
        length = int(state.length[row])
        assert state.transcript[row, :length].tolist() == self.transcript
        flag = RowFlag(int(state.flag[row]))
        assert bool(flag & RowFlag.STEP_CLOSED) == self.closed
        assert bool(flag & RowFlag.ENDED) == (self.stop == "eos")
        assert bool(flag & RowFlag.FULL) == (self.stop == "max_new_tokens")
        if self.step:
            assert state.step_start[row] == self.start
            total = 0.0
            for value in self.values:
                total += value
            assert state.score_sum[row] == total
            assert state.score_count[row] == len(self.values)


# ---- agreement with the loop ----------------------------------------------------------------

scores = st.floats(-50, 50, width=32)
rarely_eos = st.one_of(*[st.integers(2, len(WORDS) - 1)] * 12, st.just(EOS))


@examples(40, 90)
def test_agrees_with_the_boundary_and_the_loop(step: Step, examples: int) -> None:
    @settings(max_examples=examples)
    @given(st.data())
    def agrees(data: st.DataObject) -> None:
        rows = data.draw(st.integers(1, 3))
        max_step = data.draw(st.sampled_from([1, 2, 5, 512]))
        room = data.draw(st.integers(1, 30))
        prompts = data.draw(
            st.lists(st.lists(rarely_eos, max_size=3), min_size=rows, max_size=rows)
        )
        state = StepState.of_prompts(prompts, room)
        loops = [Loop(prompt, room, max_step) for prompt in prompts]
        for _ in range(data.draw(st.integers(0, 35))):
            tokens, values, active = zip(
                *(
                    data.draw(st.tuples(rarely_eos, scores, st.sampled_from([True] * 5 + [False])))
                    for _ in range(rows)
                ),
                strict=True,
            )
            back = [
                data.draw(st.sampled_from([False] * 9 + [True])) and bool(r.step) for r in loops
            ]
            for row, loop in enumerate(loops):
                if back[row]:
                    loop.take_back()
                    state.length[row] = state.step_start[row]
                    state.flag[row] = RowFlag.STEP_CLOSED
                if active[row]:
                    loop.push(tokens[row], values[row])
            step(
                state,
                torch.tensor(tokens),
                torch.tensor(values),
                CLASSES,
                torch.tensor(active),
                max_step,
            )
            for row, loop in enumerate(loops):
                loop.check(state, row)

    agrees()


@pytest.mark.parametrize(
    ("words", "closes"),
    [
        (["w1", "\n\n"], [0, 1]),
        (["w1", ".\n\n"], [0, 1]),
        (["w1", "\n", "\n"], [0, 0, 1]),
        (["w1\n", "\n."], [0, 1]),
        (["w1", "\n", " ", "\n"], [0, 0, 0, 0]),
        (["\n\n", ".\n\n", "w1"], [0, 0, 0]),
        (["\n\n", "\nw1"], [0, 1]),  # the newer one completes another delimiter
        (["\n\n,", "\nw1"], [0, 0]),  # which the older one held alone, and had said nothing
        (["w1\n\n", "\n", "w1", "\n", "\n"], [1, 0, 0, 0, 1]),  # the tail ends where a step opens
        (["w1", "<eos>"], [0, 1]),
    ],
    ids=repr,
)
def test_where_a_step_closes(step: Step, words: list[str], closes: list[int]) -> None:
    state = StepState.of_prompts([ids("\n")], 9)  # the prompt is no part of the step either
    seen = []
    for token in ids(*words):
        step(state, torch.tensor([token]), torch.zeros(1), CLASSES)
        seen.append(int(state.flag[0]) & RowFlag.STEP_CLOSED)
    assert seen == closes


def test_uncounted_tokens_leave_the_sum_alone(step: Step) -> None:
    table = token_classes(WORDS, [EOS], uncounted=ids("\n\n", "."))
    state = StepState.of_prompts([[0]], 9)
    for word, score in (("w1", 1.5), (".", 100.0), ("w2", 2.0), ("\n\n", float("nan"))):
        step(state, torch.tensor(ids(word)), torch.tensor([score]), table)
    assert (state.score_sum.item(), state.score_count.item()) == (3.5, 2)
    assert state.flag.item() == RowFlag.STEP_CLOSED | RowFlag.SAID
    step(state, torch.tensor(ids(".")), torch.tensor([7.0]), table)
    assert (state.score_sum.item(), state.score_count.item(), state.flag.item()) == (0.0, 0, 0)


# ---- frozen rows ----------------------------------------------------------------------------


def test_frozen_and_finished_rows_stay_bitwise_unchanged(step: Step) -> None:
    state = StepState.of_prompts([[0, 5], [0], [3], [2]], 6)
    state.score_sum.fill_(float("nan"))
    state.flag.copy_(torch.tensor([0, RowFlag.ENDED, RowFlag.FULL, 0]))
    state.length[3] = 999  # not even looked at
    before = copy_of(state)
    token = torch.tensor([5, -4, 10**9, 5])
    active = torch.tensor([True, True, True, False])
    step(state, token, torch.full((4,), 2.0), CLASSES, active)
    assert_same(state, before, [1, 2, 3])
    assert state.length[0] == 3


def test_a_row_without_room_is_full_and_takes_nothing(step: Step) -> None:
    state = StepState.of_prompts([[4, 4, 4]], 2)
    state.limit.fill_(2)
    before = copy_of(state)
    step(state, torch.tensor([5]), torch.ones(1), CLASSES)
    assert state.flag.item() == RowFlag.FULL
    state.flag.zero_()
    assert_same(state, before)


def test_a_transcript_with_a_row_stride(step: Step) -> None:
    wide = torch.full((2, 12), -9)
    state = StepState.of_prompts([[3], [4]], 4)._replace(transcript=wide[:, 2:7])
    step(state, torch.tensor([5, 6]), torch.ones(2), CLASSES)
    expected = torch.full((2, 12), -9)
    expected[:, 3] = torch.tensor([5, 6])
    assert torch.equal(wide, expected)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_state_becomes_what_the_definition_says(step: Step, data: st.DataObject) -> None:
    """States that no stream of tokens leads to, and ids in the transcript that no table knows."""
    rows, capacity = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 6))

    def column(strategy: st.SearchStrategy, dtype: torch.dtype) -> Tensor:
        values = data.draw(st.lists(strategy, min_size=rows, max_size=rows))
        return torch.tensor(values, dtype=dtype)

    length = column(st.integers(0, capacity), torch.int64)
    start = torch.minimum(length, column(st.integers(0, capacity), torch.int64))
    vocabulary = torch.tensor(data.draw(st.lists(st.integers(0, 63), min_size=1, max_size=9)))
    state = StepState(
        torch.randint(-2, len(vocabulary) + 2, (rows, capacity)),
        length,
        start,
        column(scores, torch.float64),
        column(st.integers(0, 9), torch.int64),
        column(st.integers(0, 15), torch.uint8),
        column(st.integers(0, capacity), torch.int64),
    )
    token = column(st.integers(0, len(vocabulary) - 1), torch.int64)
    score, active = column(scores, torch.float32), column(st.booleans(), torch.bool)
    expected = copy_of(state)
    max_step = data.draw(st.integers(1, 4))
    arguments = (token, score, vocabulary.to(torch.uint8))
    reference.step_update_(*expected, *arguments, active=active, max_step=max_step)
    step(state, *arguments, active, max_step)
    assert_same(state, expected)
