"""What every engine has to do, whatever is behind it; held against answers from scratch.

An engine's tests subclass :class:`EngineContract` and say how it is made and what is right.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pytest
from steer_decode import Pair
from steer_decode.core.drafting import Drafting
from steer_decode.core.requests import Draw, Graded, Looked, Question
from steer_decode.engines.base import Engine
from support.patient import Patient
from support.rows import PlainRow
from support.tiny import prompt_ids


class EngineContract(ABC):
    """Tests of one engine, which stands for the large model of ``pair``.

    Attributes:
        acts: what may happen to its rows, in any order.
    """

    acts: tuple[str, ...] = ("write", "write", "other", "cut", "look", "read", "anew")

    @abstractmethod
    def engine(self, pair: Pair, part: int | None = None) -> Engine:
        """One without rows; with ``part``, it reads prompts in parts of so many tokens."""

    @abstractmethod
    def expected(self, pair: Pair, ids: Sequence[int]) -> Draw:
        """The token after ``ids`` and its score, from scratch."""

    @abstractmethod
    def log_prob(self, pair: Pair, ids: Sequence[int], token: int) -> float:
        """Log-probability of ``token`` after ``ids``, from scratch."""

    @abstractmethod
    @pytest.fixture
    def pair(self) -> Pair:
        """Two models and their tokenizer."""

    def opened(self, pair: Pair, lengths: Sequence[int], **options: Any) -> tuple[Engine, Any]:
        engine: Any = Patient(self.engine(pair, **options))
        rows = [PlainRow(pair, prompt_ids(i, n)) for i, n in enumerate(lengths)]
        for i, row in enumerate(rows):
            engine.open(i, row)
        return engine, rows

    def right(self, pair: Pair, row: PlainRow, drawn: Any) -> None:
        """``drawn`` is what belongs behind the row's text; it is appended."""
        assert isinstance(drawn, list), drawn
        assert 0 < len(drawn) <= row.room
        for draw in drawn:
            expected = self.expected(pair, row.transcript.ids)
            assert draw.token == expected.token
            assert draw.value == pytest.approx(expected.value, abs=2e-3)
            row.transcript.append(draw.token, "large")
            row.step_ids.append(draw.token)

    def test_each_row_is_written_as_if_it_were_alone(self, pair: Pair) -> None:
        engine, rows = self.opened(pair, [3, 17, 8])
        for order in ([0, 1, 2], [2], [1, 0], [0, 1, 2]):
            for i, drawn in zip(order, engine.write(order), strict=True):
                self.right(pair, rows[i], drawn)

    def test_the_read_mark_is_behind_what_was_read(self, pair: Pair) -> None:
        engine, (row,) = self.opened(pair, [9])
        assert row.transcript.read == {"small": 0, "large": 0}
        (drawn,) = engine.write([0])
        # At most up to the last token that it has drawn, which is yet to be appended.
        assert 9 <= row.transcript.read["large"] <= 9 + len(drawn)
        assert row.transcript.read["small"] == 0

    def test_what_the_other_model_wrote_is_read(self, pair: Pair) -> None:
        engine, (row,) = self.opened(pair, [5])
        self.right(pair, row, *engine.write([0]))
        for token in (4, 9, 12):
            row.transcript.append(token, "small")
        self.right(pair, row, *engine.write([0]))

    def test_what_was_taken_back_is_forgotten(self, pair: Pair) -> None:
        engine, (row,) = self.opened(pair, [5])
        for _ in range(3):
            self.right(pair, row, *engine.write([0]))
        row.transcript.truncate(6)
        # As many other tokens: only the mark can tell.
        for token in (11, 3):
            row.transcript.append(token, "small")
        self.right(pair, row, *engine.write([0]))

    def test_a_look_writes_nothing_and_shows_what_would_be_written(self, pair: Pair) -> None:
        engine, rows = self.opened(pair, [6, 11])
        for looked, row in zip(engine.look([0, 1]), rows, strict=True):
            expected = self.expected(pair, row.transcript.ids)
            assert isinstance(looked, Looked)
            assert looked.value == pytest.approx(expected.value, abs=2e-3)
            assert looked.draw is None or looked.draw.token == expected.token
        assert [len(row.transcript) for row in rows] == [6, 11]
        self.right(pair, rows[0], *engine.write([0]))

    def test_writes_and_looks_come_in_one_call(self, pair: Pair) -> None:
        engine, rows = self.opened(pair, [4, 7, 5])
        first, second, looked = engine.write([2, 0], [1])
        self.right(pair, rows[2], first)
        self.right(pair, rows[0], second)
        assert isinstance(looked, Looked)
        assert looked.value == pytest.approx(
            self.expected(pair, rows[1].transcript.ids).value, abs=2e-3
        )

    @pytest.mark.parametrize("known", [0, 4, 9])
    @pytest.mark.few(4)
    def test_a_draft_is_read_token_by_token(self, pair: Pair, known: int) -> None:
        engine, rows = self.opened(pair, [9, 4])
        if known:
            engine.write([0, 1])
        for row in rows:
            row.transcript.unread(len(row.transcript))  # what was drawn is not taken
            for token in prompt_ids(7, known or 2):
                row.transcript.append(token, "small")
        counts = [known or 2, 1]
        for row, n, graded in zip(rows, counts, engine.read([0, 1], counts), strict=True):
            assert isinstance(graded, Graded)
            ids = row.transcript.ids
            places = range(len(ids) - n, len(ids))
            found = [self.log_prob(pair, ids[:i], ids[i]) for i in places]
            assert graded.log_probs == pytest.approx(found, abs=2e-3)
            best = [self.expected(pair, ids[:i]).token == ids[i] for i in places]
            assert graded.likeliest == best
        self.right(pair, rows[0], *engine.write([0]))

    @pytest.mark.parametrize("known", [0, 9])
    @pytest.mark.parametrize("right", [0, 2, 3])
    @pytest.mark.few(6)
    def test_drafts_stay_up_to_the_first_that_is_wrong(
        self, pair: Pair, known: int, right: int
    ) -> None:
        engine, rows = self.opened(pair, [9, 4])
        if known:
            engine.write([0, 1])
        wanted: list[list[Draw]] = []
        for row in rows:
            text, expected = row.transcript, list[Draw]()
            text.unread(len(text))
            ids = list(text.ids)
            for _ in range(4):
                expected.append(self.expected(pair, ids))
                ids.append(expected[-1].token)
            drafts = [draw.token for draw in expected[:3]]
            drafts[right:] = [(token + 1) % 30 for token in drafts[right:]]
            row.drafts, row.drafting = [Draw(token, 0.0) for token in drafts], Drafting(3)
            for token in drafts:
                text.append(token, "small")
            wanted.append(expected[: right + 1])
        for row, found, expected in zip(rows, engine.verify([0, 1]), wanted, strict=True):
            assert isinstance(found, list), found
            assert [draw.token for draw in found] == [draw.token for draw in expected]
            values = [draw.value for draw in expected]
            assert [draw.value for draw in found] == pytest.approx(values, abs=2e-3)
            assert row.transcript.read["large"] <= len(row.transcript)
            row.transcript.truncate(len(row.transcript) - 3)
            for draw in found:
                row.transcript.append(draw.token, "large")
        for row, drawn in zip(rows, engine.write([0, 1]), strict=True):
            self.right(pair, row, drawn)

    def test_a_question_is_answered_and_forgotten(self, pair: Pair) -> None:
        engine, rows = self.opened(pair, [9, 4])
        question = Question((5, 6, 7), (2, 9))
        for row, answer in zip(rows, engine.ask([0, 1], question), strict=True):
            assert isinstance(answer, Graded)
            ids = [*row.transcript.ids, *question.ids]
            found = [self.log_prob(pair, ids, token) for token in question.choices]
            assert answer.log_probs == pytest.approx(found, abs=2e-3)
            assert row.transcript.read["large"] <= len(row.transcript)
        for row, drawn in zip(rows, engine.write([0, 1]), strict=True):
            self.right(pair, row, drawn)

    def test_a_place_is_used_again(self, pair: Pair) -> None:
        engine, rows = self.opened(pair, [12, 5])
        engine.write([0])
        self.right(pair, rows[1], *engine.write([1]))
        engine.close(0)
        assert rows[0].transcript.read["large"] == 0
        other = PlainRow(pair, prompt_ids(9, 7))
        engine.open(0, other)
        assert engine.usage(0).processed == 0
        self.right(pair, other, *engine.write([0]))
        self.right(pair, rows[1], *engine.write([1]))
        for row in range(2):
            engine.close(row)
        assert engine.held_bytes == 0

    def test_a_transcript_that_comes_back_is_not_read_again(self, pair: Pair) -> None:
        engine, (row,) = self.opened(pair, [12])
        row.room = 1
        self.right(pair, row, *engine.write([0]))
        again = PlainRow(pair, [])
        again.room = 1
        again.transcript = row.transcript
        row.transcript.restart([*row.transcript.ids, 3, 4])
        engine.open(0, again)
        self.right(pair, again, *engine.write([0]))
        assert engine.usage(0).processed <= 4

    def test_tokens_that_were_read_are_counted(self, pair: Pair) -> None:
        engine, (row,) = self.opened(pair, [12])
        self.right(pair, row, *engine.write([0]))
        assert engine.usage(0).processed == row.transcript.read["large"]

    def test_no_more_is_written_than_there_is_room_for(self, pair: Pair) -> None:
        engine, (row,) = self.opened(pair, [5])
        row.room = 1
        (drawn,) = engine.write([0])
        assert len(drawn) == 1

    def test_long_prompts_are_read_in_parts(self, pair: Pair) -> None:
        engine, (long, short) = self.opened(pair, [60, 4], part=16)
        replies, calls = [None, None], 0
        while replies[0] is None:
            before = long.transcript.read["large"]
            replies = engine.write([0, 1])
            assert long.transcript.read["large"] - before <= 16 + 4  # and what is written
            assert long.transcript.read["large"] > before
            self.right(pair, short, replies[1])
            calls += 1
        assert calls > 3
        self.right(pair, long, replies[0])

    @pytest.mark.parametrize(
        "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))]
    )
    @pytest.mark.few(3)
    def test_whatever_comes_in_whatever_order(self, pair: Pair, seed: int) -> None:
        chance = random.Random(seed)
        engine, rows = self.opened(pair, [3, 10, 6, 2], part=chance.choice([None, 7]))
        for _ in range(25):
            some = chance.sample(range(4), chance.randint(1, 4))
            act = chance.choice(self.acts)
            for i in some:
                text = rows[i].transcript
                if act == "other":
                    text.append(chance.randrange(2, 30), "small")
                elif act == "cut":
                    text.truncate(chance.randint(text.prompt_length, len(text)))
                elif act == "anew":
                    engine.close(i)
                    rows[i] = PlainRow(pair, prompt_ids(chance.randrange(99), 5))
                    engine.open(i, rows[i])
            if act in ("write", "look"):
                ask = engine.write if act == "write" else engine.look
                for i, reply in zip(some, ask(some), strict=True):
                    if reply is not None and act == "write":
                        self.right(pair, rows[i], reply)
            elif act == "read":
                for i, reply in zip(some, engine.read(some, [1] * len(some)), strict=True):
                    ids = rows[i].transcript.ids
                    if reply is not None:
                        found = self.log_prob(pair, ids[:-1], ids[-1])
                        assert reply.log_probs == pytest.approx([found], abs=2e-3)
