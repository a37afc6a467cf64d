"""Long work without a terminal says how far it is; no test waits for the clock."""

from __future__ import annotations

import queue
import re
import threading
from pathlib import Path

import pytest
from steer_decode.cli import app
from steer_decode.util import progress
from steer_decode.util.progress import Lines, span
from typer.testing import CliRunner

PATIENCE = 300  # seconds, for a thread to come by on a busy machine


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (9e5, "250 h 0 min"),
    ],
)
def test_a_length_of_time_has_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


class TestLine:
    def test_it_says_what_is_done_and_what_is_left(self) -> None:
        clock = Clock()
        lines = Lines("answers", 48, clock=clock)
        assert lines.line() == "steer: answers: 0 of 48 after 0 s"
        clock.now += 200
        lines.advance()
        lines.advance(11)
        assert lines.line() == "steer: answers: 12 of 48 after 3 min 20 s, about 10 min 0 s left"
        lines.advance(36)
        assert lines.line() == "steer: answers: 48 of 48 after 3 min 20 s"

    def test_what_was_there_before_says_nothing_of_the_speed(self) -> None:
        clock = Clock()
        lines = Lines("answers", 48, done=24, clock=clock)
        clock.now += 60
        assert lines.line() == "steer: answers: 24 of 48 after 1 min 0 s"
        lines.advance(12)
        assert lines.line() == "steer: answers: 36 of 48 after 1 min 0 s, about 1 min 0 s left"

    @pytest.mark.parametrize("bound", ["at most", "at least"])
    def test_a_bound_is_one(self, bound: str) -> None:
        clock = Clock()
        lines = Lines("answers", clock=clock)
        clock.now += 10
        assert lines.line() == "steer: answers after 10 s"
        lines.advance(5)
        assert lines.line() == "steer: answers: 5 after 10 s"
        lines.expect(20, bound)
        assert lines.line() == f"steer: answers: 5 of {bound} 20 after 10 s, {bound} 30 s left"
        lines.describe("entropy")
        lines.expect(10)
        assert lines.line() == "steer: answers (entropy): 5 of 10 after 10 s, about 10 s left"


def test_it_speaks_when_nothing_was_heard_for_long_enough() -> None:
    clock = Clock()
    said: queue.Queue[str] = queue.Queue()
    seen = threading.Event()

    def look() -> float:
        seen.set()
        return clock.now

    with Lines("answers", 2, every=0.001, clock=look, say=said.put) as lines:
        clock.now += 30
        assert said.get(timeout=PATIENCE) == "steer: answers: 0 of 2 after 30 s"
        # As long as the clock stands there is nothing to say, however often the thread looks.
        for _ in range(3):
            seen.clear()
            assert seen.wait(PATIENCE)
        assert said.empty()
        lines.advance()
        clock.now += 30
        assert (
            said.get(timeout=PATIENCE)
            == "steer: answers: 1 of 2 after 1 min 0 s, about 1 min 0 s left"
        )
        lines.spoke()
        for _ in range(3):
            seen.clear()
            assert seen.wait(PATIENCE)
        assert said.empty()


def test_half_a_minute_is_the_most_that_nothing_is_said() -> None:
    assert progress.EVERY == 30


ASKED = ["--pair", "demo", "--max-new-tokens", "24"]
EVAL = ["eval", "--domains", "math", "--n", "4", "--cohort", "2", "--routers", "small", *ASKED]


@pytest.mark.parametrize(
    ("args", "pattern"),
    [
        (["calibrate", "--n", "4", "--max-new-tokens", "40"], r"answers: \d+ of 12 after \d+ s"),
        pytest.param(
            ["calibrate", "--n", "4", "--max-new-tokens", "40", "--large-share", "0.5"],
            r"answers: \d+ of at most 300 after",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["calibrate", "--n", "4", "--router", "both-sides", "--max-new-tokens", "40"],
            r"answers: \d+ of at least 60 after",
            marks=pytest.mark.slow,
        ),
        ([*EVAL, "--out", "OUT"], r"answers: \d of 4 after"),
        ([*EVAL, "--out", "OUT", "--workers", "2"], r"answers: \d of 4 after"),
        (["train-router", "corea", "--n", "4"], r"training: \d+ of 12 after"),
        (["generate", "--problem", "math:1", "--json"], r"tokens: \d+ of at most 128 after"),
        (
            ["generate", "--problem", "math:1", "--compare", "--view", "text"],
            r"tokens of the large model alone: \d+ of at most 128 after",
        ),
        (
            [
                *(
                    "bench",
                    "kernels",
                    "--ops",
                    "logit_stats",
                    "--batches",
                    "1",
                    "--seconds",
                    "0.01",
                ),
                *("--vocabs", "32000", "--dtypes", "float32", "--no-compile"),
            ],
            r"cases \(.*\): \d of 1 after",
        ),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
@pytest.mark.few(2)
def test_every_long_command_speaks(
    args: list[str], pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    spoken = threading.Condition()

    def say(line: str) -> None:
        with spoken:
            said.append(line)
            spoken.notify_all()

    ended = Lines.__exit__

    def heard_of(lines: Lines, *exception: object) -> None:
        before = len(said)
        with spoken:  # by whatever the block did, or else by now
            assert spoken.wait_for(lambda: len(said) > before, PATIENCE)
        ended(lines, *exception)  # type: ignore[arg-type]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "EVERY", 0.001)
    monkeypatch.setattr(progress, "_to_stderr", say)
    monkeypatch.setattr(Lines, "__exit__", heard_of)
    result = CliRunner().invoke(app, args)
    assert result.exit_code in (0, 2), result.output
    if result.exit_code == 2:  # too few answers to fit anything to, which they are seen to be last
        assert "cannot fit" in result.output or "needs" in result.output
    assert any(re.match(f"steer: {pattern}", line) for line in said), said[-3:]
    assert "steer: loading the models" in said[0] or args[0] == "bench"
