"""`steer bench passes`: what it times, and that `steer simulate` reads it. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from steer_decode.bench.passes.measure import TOKENS, PassesPlan, measure
from steer_decode.core.transcript import WRITERS
from steer_decode.errors import SteerError
from steer_decode.simulation.setup import read_times
from support.commands import refused, save, steer
from support.tiny import make_close_pair, prompt_text


def test_a_pass_over_the_prompts_and_those_behind_it() -> None:
    """Prompts of about the length that is asked for, no two neighbours alike."""
    plan = PassesPlan((1, 3), (4, 20), turns=1)
    found = measure(make_close_pair("llama", 0), [prompt_text(0, 40)], plan)
    assert list(found) == list(WRITERS)
    for passes in found.values():
        assert all(one["ms"] > 0 for one in passes)
        read = [(one["rows"], one["tokens"]) for one in passes if one["tokens"] != one["rows"]]
        assert read == [(1, 2), (1, 18), (3, 2 + 3 + 4), (3, 18 + 19 + 20)]
        assert {1, 3} <= {one["rows"] for one in passes if one["tokens"] == one["rows"]}


def test_what_is_written_can_be_simulated_with(tmp_path: Path) -> None:
    file, models = tmp_path / "passes.json", [save(tmp_path / w, i) for i, w in enumerate("sl")]
    run = ("--small", models[0], "--large", models[1], "--rows", "1,2", "--lengths", "4,9")
    said = steer("bench", "passes", *run, "--turns", "1", "--json", file).stdout
    times = read_times(file)
    for writer in WRITERS:
        assert f"(--{writer}-ms {times[writer].option})" in said
    assert json.loads(file.read_text())["kind"] == "passes"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rows", "2,4"), "--rows must have 1 among them"),
        (("--rows", "0"), "--rows must lie in 1..1024"),
        (("--rows", "many"), "--rows must be whole numbers"),
        (("--lengths", "0"), "--lengths must lie in"),
        (("--turns", "0"), "--turns must lie in"),
    ],
)
def test_bad_plans(options: tuple[str, ...], words: str) -> None:
    assert words in refused("bench", "passes", *options)


def test_prompts_beyond_the_context() -> None:
    pair = make_close_pair("llama", 0)
    with pytest.raises(SteerError, match=f"leave room for {TOKENS} tokens"):
        measure(pair, [prompt_text(0, 40)], PassesPlan((1,), (10**5,), turns=1))
