"""Answers over scripted engines: who is served when, and what becomes of a row that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from steer_decode import AlwaysLarge, AlwaysSmall, Pair, Policy, RandomShare, SteerError, Step
from steer_decode.core.events import Failed
from steer_decode.core.requests import Draw, Hooks, Looked
from steer_decode.core.sampling import Sampling
from steer_decode.core.transcript import WRITERS, Transcript, Writer
from steer_decode.decode.answer import Answer
from steer_decode.decode.routing import Routing
from steer_decode.decode.scheduler import Scheduler
from steer_decode.policies import REDO, Redo
from support.scripted import ScriptedEngine, next_token
from support.tiny import make_pair, prompt_ids

PAIR = make_pair("llama", 0)


class Drafts(Policy):
    """The large model reads every draft, and the third of them is taken back."""

    name, grades = "drafts", True

    def after_step(self, step: Step) -> Writer | Redo:
        return REDO if step.writer == "small" and step.index % 3 == 2 else "small"


class Scripted:
    """A scheduler over scripted engines, and the answers that were added to it."""

    def __init__(self, most: int = 1, part: int = 10**6, pair: Pair = PAIR) -> None:
        self.pair = pair
        self.engines = {w: ScriptedEngine(w, pair.vocab_size, most, part) for w in WRITERS}
        self.scheduler = Scheduler(self.engines)
        self.answers: dict[int, Answer] = {}

    def add(self, policy: Policy, seed: int = 0, length: int = 5, room: int = 40) -> int:
        routing = Routing(self.pair, policy, self.pair.boundary, frozenset(), {})
        text = Transcript(prompt_ids(seed, length))
        answer = Answer(routing, policy, text, length + room, Sampling(), seed, Hooks())
        row = self.scheduler.add(answer)
        self.answers[row] = answer
        return row

    def run(self) -> dict[int, SteerError]:
        failed = {}
        while self.scheduler.busy:
            for row, event in self.scheduler.iterate():
                if isinstance(event, Failed):
                    failed[row] = event.error
        return failed

    def ids(self, row: int) -> list[int]:
        return [token for step in self.answers[row].trace.kept for token in step.token_ids]


def alone(policy: Policy, seed: int = 0, **options: Any) -> list[int]:
    one = Scripted()
    row = one.add(policy, seed, **options)
    assert one.run() == {}
    return one.ids(row)


def from_scratch(writer: Writer, seed: int, room: int = 40) -> list[int]:
    ids = prompt_ids(seed, 5)
    for _ in range(room):
        ids.append(next_token(writer, ids, PAIR.vocab_size)[0])
    return ids[5:]


POLICIES: list[Callable[[], Policy]] = [AlwaysSmall, AlwaysLarge, lambda: RandomShare(0.5), Drafts]


@pytest.mark.parametrize("writer", WRITERS)
def test_one_model_alone_writes_what_it_would(writer: Writer) -> None:
    policy = AlwaysSmall() if writer == "small" else AlwaysLarge()
    assert alone(policy, 3) == from_scratch(writer, 3)


@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.parametrize("part", [3, 10**6])
def test_answers_together_are_those_that_are_alone(most: int, part: int) -> None:
    many = Scripted(most, part)
    rows = [many.add(make(), seed) for seed, make in enumerate(POLICIES * 3)]
    assert many.run() == {}
    for seed, row in enumerate(rows):
        assert many.ids(row) == alone(POLICIES[seed % len(POLICIES)](), seed)


@pytest.mark.parametrize("late", [lambda row: 3, lambda row: row % 3])
def test_what_comes_late_is_waited_for_and_changes_nothing(late: Callable[[int], int]) -> None:
    many = Scripted()
    for engine in many.engines.values():
        engine.late = late
    rows = [many.add(make(), seed) for seed, make in enumerate(POLICIES * 2)]
    assert many.run() == {}
    for seed, row in enumerate(rows):
        assert many.ids(row) == alone(POLICIES[seed % len(POLICIES)](), seed)
    assert sum(engine.waits for engine in many.engines.values())


def test_a_row_does_not_wait_for_one_whose_reply_is_late() -> None:
    many = Scripted()
    many.engines["small"].late = lambda row: 10**9 if row == 1 else 0
    one, late = many.add(AlwaysSmall(), 1), many.add(AlwaysSmall(), 2)
    while not many.answers[one].trace.stop_reason:
        list(many.scheduler.iterate())
    assert many.ids(one) == alone(AlwaysSmall(), 1)
    assert many.ids(late) == []
    assert many.engines["small"].waits == 0  # there was always something to do
    list(many.scheduler.iterate())
    assert many.engines["small"].waits == 1


class Raises(Policy):
    name = "raises"

    def after_step(self, step: Step) -> Writer:
        raise ValueError("no idea")


def test_a_policy_that_raises_ends_its_answer_and_no_other() -> None:
    many = Scripted()
    rows = [many.add(AlwaysSmall(), 1), many.add(Raises(), 2), many.add(Drafts(), 3)]
    failed = many.run()
    assert list(failed) == [rows[1]]
    assert "policy 'raises' failed after step 0: ValueError: no idea" in str(failed[rows[1]])
    assert many.answers[rows[1]].trace.stop_reason == "error"
    assert many.ids(rows[0]) == alone(AlwaysSmall(), 1)
    assert many.ids(rows[2]) == alone(Drafts(), 3)


BREACHES: dict[str, tuple[Callable[[ScriptedEngine, int], Any], str]] = {
    "too many tokens": (lambda e, row: [Draw(5, 1.0)] * 41, "wrote 41 tokens where 1 to 40"),
    "no token": (lambda e, row: [], "wrote 0 tokens where 1 to 40 were asked for"),
    "a NaN score": (lambda e, row: [Draw(5, float("nan"))], "gave a score that is NaN"),
    "nothing": (lambda e, row: None, "replied nothing, and read nothing"),
    "another reply": (lambda e, row: Looked(1.0, None, None), "replied Looked to Write"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_an_engine_that_breaks_its_contract_is_named_with_the_row(
    breach: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Scripted()
    good, bad = many.add(AlwaysSmall(), 1), many.add(AlwaysSmall(), 2)
    engine, (reply, why) = many.engines["small"], BREACHES[breach]
    write = engine.write

    def broken(rows: Any, looking: Any = ()) -> Any:
        if breach == "nothing":
            rows = [row for row in rows if row != bad]
            replies = dict(zip(rows, write(rows), strict=True))
            return [replies.get(row) for row in (good, bad) if row in replies or row == bad]
        replies = write(rows, looking)
        return [
            reply(engine, row) if row == bad else r for row, r in zip(rows, replies, strict=True)
        ]

    monkeypatch.setattr(engine, "write", broken)
    failed = many.run()
    assert list(failed) == [bad]
    assert f"the engine of the small model broke its contract in row {bad}: it {why}" in str(
        failed[bad]
    )
    assert many.ids(good) == alone(AlwaysSmall(), 1)


def test_a_read_mark_that_goes_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Scripted()
    row = many.add(AlwaysSmall(), 1)
    engine = many.engines["small"]
    write, calls = engine.write, iter(range(99))

    def broken(rows: Any, looking: Any = ()) -> Any:
        replies = write(rows, looking)
        if next(calls) == 3:
            many.answers[row].transcript.read["small"] = 2
        return replies

    monkeypatch.setattr(engine, "write", broken)
    assert "its read mark went back from 7 to 2" in str(many.run()[row])


def test_an_answer_that_is_cancelled_leaves_the_others() -> None:
    many = Scripted()
    first, second = many.add(AlwaysSmall(), 1), many.add(RandomShare(0.5), 2)
    for _ in range(5):
        list(many.scheduler.iterate())
    many.scheduler.cancel(first)
    assert many.answers[first].trace.stop_reason == "cancelled"
    many.scheduler.retire(first)
    third = many.add(AlwaysLarge(), 3)
    assert third == first  # the place is used again
    assert many.run() == {}
    assert many.ids(second) == alone(RandomShare(0.5), 2)
    assert many.ids(third) == alone(AlwaysLarge(), 3)


def test_drafts_do_not_wait_for_ever() -> None:
    """New answers come without end, so that more are written than drafts wait."""
    many = Scripted()
    row = many.add(Drafts(), 1)
    turns = 0
    while many.answers[row].trace.stop_reason == "":
        for seed in (turns, turns + 1000):
            many.add(AlwaysSmall(), seed, room=400)
        list(many.scheduler.iterate())
        turns += 1
        assert turns < 400
    assert many.ids(row) == alone(Drafts(), 1)


def test_drafts_that_wait_are_read_in_one_call() -> None:
    many = Scripted()
    for _ in range(4):
        many.add(Drafts(), 1)  # the same prompt: they close their steps together
    many.run()
    reads = [rows for name, rows in many.engines["large"].calls if name == "read"]
    assert reads
    assert all(len(rows) == 4 for rows in reads)


class Rounds(Policy):
    """Notes which steps are judged together."""

    name, in_rounds = "rounds", True

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []

    def after_round(self, steps: Any) -> list[Writer]:
        self.rounds.append([step.index for step in steps])
        return ["small"] * len(steps)


def test_rounds_of_one_policy_do_not_wait_for_another() -> None:
    many, judged = Scripted(), Rounds()
    rows = [many.add(judged, seed) for seed in (1, 2, 3)]
    many.add(AlwaysSmall(), 4, room=300)
    assert many.run() == {}
    assert all(len(set(indices)) == 1 for indices in judged.rounds)
    assert [len(indices) for indices in judged.rounds if indices[0] == 0] == [3]
    for seed, row in zip((1, 2, 3), rows, strict=True):
        assert many.ids(row) == from_scratch("small", seed)


def test_the_scheduler_knows_no_tensor() -> None:
    import ast
    from pathlib import Path

    from steer_decode.decode import answer, guard, revise, scheduler, written
    from steer_decode.engines import base

    def names(module: Any) -> Iterator[str]:
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.ImportFrom):
                yield node.module or ""
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)

    for module in (answer, guard, revise, scheduler, written, base):
        assert not {n for n in names(module) if n.partition(".")[0] in ("torch", "transformers")}


class CountsNothing(Policy):
    name = "counts-nothing"

    def counted(self, texts: Any, prompt: str) -> list[bool]:
        raise KeyError("texts")


def test_whatever_a_policy_raises_wherever_ends_its_answer_alone() -> None:
    many = Scripted()
    good, bad = many.add(AlwaysSmall(), 1), many.add(CountsNothing(), 2)
    failed = many.run()
    assert {row: type(error) for row, error in failed.items()} == {bad: KeyError}
    assert many.ids(good) == alone(AlwaysSmall(), 1)


def test_a_reader_may_go_away_at_any_event() -> None:
    """Whoever is cancelled and retired in the middle of a turn, the others go on."""
    for at in range(0, 60, 7):
        many = Scripted()
        rows = [many.add(Drafts(), 1), many.add(Drafts(), 1), many.add(RandomShare(0.5), 2)]
        events, gone = 0, False
        while many.scheduler.busy:
            for _ in many.scheduler.iterate():
                events += 1
                if events == at + 1 and not gone:
                    many.scheduler.retire(rows[0])
                    gone = True
        assert many.ids(rows[1]) == alone(Drafts(), 1)
        assert many.ids(rows[2]) == alone(RandomShare(0.5), 2)
