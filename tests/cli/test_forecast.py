"""How long `steer eval` and `steer calibrate` say that they will take, before they start."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import (
    AlwaysLarge,
    AlwaysSmall,
    FirstTokenEntropy,
    Pair,
    RandomShare,
    Router,
)
from steer_decode.demo import pair_paths
from steer_decode.preflight.pace import Pace, Work, forecast, measure, negligible, sentence
from support.commands import steer
from support.tiny import make_pair, prompt_text

PROMPTS = [prompt_text(i, 6) for i in range(4)]


@pytest.fixture(scope="module")
def pair() -> Pair:
    made = make_pair("llama", 0)
    with torch.no_grad():  # answers are to end by themselves
        for model in (made.small, made.large):
            model.get_output_embeddings().weight[1] *= 4
    return made


def ticking(step: float) -> Callable[[], float]:
    """A clock that goes on by ``step`` at each look."""

    def times() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += step

    return times().__next__


def test_arithmetic_of_a_forecast() -> None:
    pace = Pace(4, {"small": 0.1, "large": 1.0}, {"small": 0.01, "large": 0.05}, 101, "assumed")
    assert pace.of_answer("small") == pytest.approx(1.1)
    assert pace.of_answer("large") == pytest.approx(6.0)
    assert pace.rate("large") == pytest.approx(20)
    work = [
        Work.of(AlwaysSmall(), 10),
        Work.of(AlwaysLarge(), 10),
        Work.of(RandomShare(0.25), 10),
        Work.of(FirstTokenEntropy(), 10),
    ]
    alone = 10 * (1.1 + 6.0)
    assert forecast(pace, work) == pytest.approx(alone + 10 * (0.75 * 1.1 + 0.25 * 6) + alone)
    assert forecast(pace, work[:2], workers=2) == pytest.approx(alone / 2)
    assert sentence(pace, work[:2], "at most") == (
        "20 answers will take at most 1 min 11 s: 100 and 20 tokens a second of the small and the "
        "large model alone in cohorts of 4, 101 tokens an answer (assumed)"
    )
    assert "counts as both" in sentence(pace, work)
    assert "shared by 2 workers" in sentence(pace, work, workers=2)


def test_lengths_are_measured_where_answers_end(pair: Pair) -> None:
    """A clock that stands still lets them end; the length is then that of both models' answers."""
    options = {"max_new_tokens": 100}
    found = measure(pair, PROMPTS, options, clock=ticking(0.0))
    outs = [
        out
        for policy in (AlwaysSmall(), AlwaysLarge())
        for out in Router(pair, policy).cohort(PROMPTS, **options)
    ]
    lengths = [len(out.token_ids) for out in outs]
    assert min(lengths) < 100
    assert found.length == pytest.approx(sum(lengths) / len(lengths))
    assert found.source == "as of the first 8"
    assert found.rows == len(PROMPTS)


def test_a_slow_pair_is_looked_at_for_a_moment_and_its_lengths_are_assumed(pair: Pair) -> None:
    found = measure(pair, PROMPTS, {"max_new_tokens": 400}, clock=ticking(0.3))
    assert (found.length, found.source) == (200, "assumed, half of --max-new-tokens")
    # The first token after one tick, then the look ends at the third one.
    assert found.prompt["large"] == pytest.approx(0.3 / 4)
    assert 0 < found.token["large"] < 0.61
    again = measure(pair, PROMPTS, {"max_new_tokens": 400}, [30, 50], clock=ticking(0.3))
    assert (again.length, again.source) == (40, "as of the 2 that are there")


def test_long_prompts_are_not_all_read_for_a_forecast(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is; of the others the ends stand for them, and what is answered to these is no length."""
    read: list[int] = []
    stream = Router.stream_cohort

    def counted(self: Router, prompts: Any, **options: Any) -> Any:
        read.append(sum(len(self.pair.encode(prompt)) for prompt in prompts))
        return stream(self, prompts, **options)

    monkeypatch.setattr(Router, "stream_cohort", counted)
    long = [prompt_text(i, 120) for i in range(4)]
    found = measure(pair, long, {"max_new_tokens": 40}, clock=ticking(1.0))
    one = len(pair.encode(long[0]))
    assert read == 2 * [one, one, 4 * 16]  # for each model
    assert found.prompt == {"small": 1.0, "large": 1.0}
    assert (found.length, found.source) == (20, "assumed, half of --max-new-tokens")


def test_little_work_is_not_timed(pair: Pair) -> None:
    assert negligible(pair, 100, 128)
    demo = Pair.from_pretrained(*pair_paths())
    assert negligible(demo, 100, 128)
    assert not negligible(demo, 1500, 128)


SAID = re.compile(
    r"steer: (\d+) answers will take (about|at least|at most) \S+ s: [\d,]+ and [\d,]+ tokens a "
    r"second of the small and the large model alone in cohorts of (\d+), \d+ tokens an answer"
)


def said(stderr: str) -> list[tuple[str, ...]]:
    return [found.groups() for line in stderr.splitlines() if (found := SAID.match(line))]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the least work timed as well."""
    monkeypatch.setattr("steer_decode.preflight.pace.SMALL_WORK", 0.0)


@pytest.mark.usefixtures("eager")
@pytest.mark.slow
def test_eval_says_how_long_what_is_left_will_take(tmp_path: Path) -> None:
    args = ("eval", "--domains", "math", "--cohort", 2, "--out", tmp_path / "r")
    first = steer(*args, "--n", 2, "--routers", "small")
    assert said(first.stderr) == [("2", "about", "2")]
    assert first.stderr.index("will take") < first.stderr.index("results are in")
    more = steer(*args, "--n", 4, "--routers", "small,large")
    assert said(more.stderr) == [("6", "about", "2")]
    assert "(as of the 2 that are there)" in more.stderr
    assert said(steer(*args, "--n", 4, "--routers", "small,large").stderr) == []


@pytest.mark.usefixtures("eager")
@pytest.mark.slow
def test_calibrate_says_so_too(tmp_path: Path) -> None:
    args = ("calibrate", "--pair", "demo", "--n", 4, "--out", tmp_path / "c.json")
    done = steer(*args)
    assert done.exit_code == 0, done.output
    assert said(done.stderr) == [("12", "about", "12")]


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_calibrate_says_the_least_of_what_it_finds_out_on_the_way(tmp_path: Path) -> None:
    args = ("calibrate", "--pair", "demo", "--n", 4, "--out", tmp_path / "c.json")
    sides = steer(*args, "--router", "both-sides", "--max-new-tokens", 40)
    assert said(sides.stderr)[0][:2] == ("60", "at least")


def test_nothing_is_said_of_what_is_done_at_once(tmp_path: Path) -> None:
    args = ("eval", "--domains", "math", "--n", 2, "--routers", "small", "--out", tmp_path / "r")
    done = steer(*args)
    assert done.exit_code == 0
    assert "will take" not in done.stderr
