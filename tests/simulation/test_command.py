"""``steer simulate``: what it says, and what it refuses before work starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("simpy")

from support import made_results
from support.commands import refused, steer
from support.saved_answers import a_trace

GIVEN = ("--small-ms", "4.6", "--arrivals", "poisson:5")


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    document = a_trace()
    for i in range(3):
        (folder / f"{i}.json").write_text(json.dumps(document))
    return folder


def results(folder: Path, **more: Any) -> Path:
    rows = [
        made_results.row(router, "math", problem, trace=first_read(router, problem), **more)
        for router in ("small", "large", "steer")
        for problem in range(4)
    ]
    return made_results.write(folder, rows, made_results.settings(("small", "large", "steer")))


def first_read(router: str, problem: int) -> Any:
    steps = made_results.row(router, "math", problem).trace
    from dataclasses import replace

    return [replace(steps[0], prefilled=11), *steps[1:]]


def test_it_says_what_is_assumed_and_what_came_of_it(traces: Path) -> None:
    said = steer("simulate", traces, *GIVEN, "--answers", "60", "--replicas", "2,1").stdout
    assert "3 answers of first-token" in said
    assert "a pass of the small model takes 4.6 ms" in said
    assert "a pass of the large model takes 46 ms" in said  # ten times the parameters
    assert "rows and tokens assumed" in said
    assert "the gate in the small engines" in said  # the router looks before a step
    assert "2 small, 1 large" in said
    assert "3 large" in said
    assert "routing is" in said


@pytest.mark.slow
def test_as_json_it_is_data(traces: Path) -> None:
    run = ("simulate", traces, *GIVEN, "--answers", "60", "--json")
    found = json.loads(steer(*run, "--quick").stdout)
    assert found["routed"]["answers"] == 60
    assert found["comparison"] is None
    assert sum(found["routed"]["calls"].values()) >= 60
    assert set(found["routed"]["costs"]) == {
        "flops_paper",
        "flops_processed",
        "bytes_read",
        "seconds",
    }
    assert json.loads(steer(*run, "--quick").stdout) == found
    whole = json.loads(steer(*run).stdout)
    assert len(whole["comparison"]["points"]) == 8


def test_results_of_an_evaluation(tmp_path: Path) -> None:
    """The large model's own answers are there, and stand beside the routed ones."""
    found = steer("simulate", results(tmp_path), *GIVEN, "--quick", "--answers", "20").stdout
    assert "4 answers of steer" in found
    assert "answers of the large model alone: recorded" in found
    calls = next(line for line in found.splitlines() if line.startswith("calls an answer"))
    assert calls.endswith("- + 1")  # of as many steps as there are


@pytest.mark.slow
def test_the_picture(traces: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "load.svg"
    run = ("simulate", traces, *GIVEN, "--answers", "40", "--out", file)
    assert f"the picture is in {file}" in " ".join(steer(*run).stderr.split("\n"))
    drawn = file.read_text()
    assert "<svg" in drawn
    steer(*run)
    assert file.read_text() == drawn


def test_timed_passes_are_fitted(traces: Path, tmp_path: Path) -> None:
    file = tmp_path / "passes.json"
    timed = [
        {"rows": r, "tokens": t, "ms": 2 + r + t / 4} for r in (1, 3) for t in (r, r + 8, r + 12)
    ]
    file.write_text(json.dumps({"version": 1, "kind": "passes", "small": timed, "large": timed}))
    said = steer(
        "simulate", traces, "--passes", file, "--in-process", "--arrivals", "closed:2", "--quick"
    ).stdout
    assert (
        "takes 3.25 ms over one token, 1.25 more for each further row, 0.25 for each further token "
        in said
    )
    assert "take turns on one device" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--arrivals", "bursts:5"), "--arrivals must be poisson:RATE"),
        (("--arrivals", "poisson"), "--arrivals poisson must have a number"),
        (("--arrivals", "poisson:0"), "--arrivals poisson must have a number"),
        (("--arrivals", "poisson:nan"), "--arrivals poisson must have a number"),
        (("--arrivals", "closed:2.5"), "--arrivals closed must have a whole number"),
        (("--arrivals", "closed:-1"), "--arrivals closed must have a number"),
        (("--replicas", "0,1"), "--replicas must be SMALL,LARGE"),
        (("--replicas", "2,1,1"), "--replicas must be SMALL,LARGE"),
        (("--replicas", "two"), "--replicas must be SMALL,LARGE"),
        (("--machines", "0"), "--machines must be SMALL,LARGE"),
        (("--rows", "-3"), "--rows must be SMALL,LARGE"),
        (("--batch-tokens", "100"), "--batch-tokens must be at least --rows"),
        (("--cache", "none"), "--cache must be SMALL,LARGE"),
        (("--cache", "8"), "--cache 8 of the small model is too small"),
        (("--block", "0"), "--block must lie in"),
        (("--gate", "large"), "--gate must be one of"),
        (("--gate", "none"), "looks before a step, which two servers without the gate"),
        (("--placing", "home"), "--placing must be one of"),
        (("--call-ms", "-1"), "--call-ms must be MS or MS:FRONT"),
        (("--call-ms", "nan"), "--call-ms must be MS or MS:FRONT"),
        (("--call-ms", "2:3"), "--call-ms must be MS or MS:FRONT"),
        (("--call-ms", "fast"), "--call-ms must be MS or MS:FRONT"),
        (("--large-ms", "slow"), "--large-ms must be MS"),
        (("--stretch", "0"), "--stretch must be above 0"),
        (("--stretch", "nan"), "--stretch must be above 0"),
        (("--in-process", "--gate", "both"), "--gate is for servers"),
        (("--in-process", "--replicas", "2,1"), "--in-process has one engine of each model"),
        (("--out", "load.txt"), "--out must end in .svg"),
        (("--out", "load.svg", "--quick"), "--out draws all loads"),
        (("--router", "steer"), "no answers of --router 'steer'"),
        (("--passes", "p.json"), "give either --passes or --small-ms"),
        (("--small", "./nowhere"), "--small is given without --large"),
        (("--pair", "mine"), "unknown pair"),
        (("--carry", "5"), "--carry is given without --within"),
        (("--within", "5"), "--within is given without --carry"),
        (("--carry", "0", "--within", "5"), "leave out --arrivals"),
    ],
)
@pytest.mark.few(12)
def test_bad_options(traces: Path, options: tuple[str, ...], words: str) -> None:
    assert words in refused("simulate", traces, *GIVEN, *options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--carry", "0", "--within", "5"), "--carry must be above 0"),
        (("--carry", "5", "--within", "inf"), "--within must be above 0"),
        (("--carry", "5", "--within", "0.1"), "--within 0.1 cannot be kept"),
        (("--carry", "5", "--within", "9", "--answers", "3"), "--answers 3 are over before"),
        (("--carry", "5", "--within", "9", "--replicas", "2,2"), "leave out --replicas"),
        (("--carry", "5", "--within", "9", "--in-process"), "leave out --in-process"),
        (("--carry", "5", "--within", "9", "--out", "a.svg"), "leave out --out"),
    ],
)
def test_bad_targets(traces: Path, options: tuple[str, ...], words: str) -> None:
    assert words in refused("simulate", traces, "--small-ms", "4.6", *options)


@pytest.mark.slow
def test_a_fleet_is_found(traces: Path) -> None:
    """For a load that no single engine carries; its figures are those of the fleet."""
    run = ("simulate", traces, "--small-ms", "4.6", "--rows", "2", "--answers", "300", "--json")
    found = json.loads(steer(*run, "--carry", "10", "--within", "9").stdout)
    assert found["engines"]["routed"]["large"] > 1
    assert found["engines"]["alone"]["large"] > 1
    assert found["engines"]["alone"]["small"] == 0
    for name in ("routed", "alone"):
        assert found[name]["latency"]["95"] <= 9
        assert found[name]["machines"] == sum(found["engines"][name].values())


def test_no_time_is_given(traces: Path) -> None:
    assert "--small-ms is missing" in refused("simulate", traces)


def test_bad_traces(tmp_path: Path) -> None:
    def said(*paths: Path) -> str:
        return refused("simulate", *paths, *GIVEN)

    assert "no traces (*.json) are in" in said(tmp_path)
    assert "nowhere" in said(tmp_path / "nowhere")
    file = tmp_path / "a.json"
    file.write_text("")
    assert "is not a trace (it is empty)" in said(file)
    document = a_trace()
    document["trace"]["stop_reason"] = "interrupted"
    file.write_text(json.dumps(document))
    assert "none of 1 answers was written to its end" in said(file)
    document = a_trace()
    document["trace"]["prompt_ids"] = []
    file.write_text(json.dumps(document))
    assert "has no prompt" in said(file)


def test_routers_that_grade_are_simulated_in_process(tmp_path: Path) -> None:
    file = tmp_path / "graded.json"
    document = a_trace()
    step = document["trace"]["steps"][0]
    step["graded"] = [-0.1] * len(step["token_ids"])
    file.write_text(json.dumps(document))
    assert "has the large model grade drafts" in refused("simulate", file, *GIVEN)
    run = ("simulate", file, *GIVEN, "--in-process", "--quick", "--answers", "5")
    assert "1 answer of first-token" in steer(*run).stdout


def test_several_routers_want_a_choice(traces: Path, tmp_path: Path) -> None:
    document = a_trace()
    document["trace"]["policy"] = "another"
    (tmp_path / "b.json").write_text(json.dumps(document))
    said = refused("simulate", traces, tmp_path, *GIVEN)
    assert "of several routers" in said
    assert "choose one with --router" in said
    chosen = steer("simulate", traces, tmp_path, *GIVEN, "--router", "another", "--quick")
    assert "1 answer of another" in chosen.stdout


def test_bad_results(tmp_path: Path) -> None:
    unread = [made_results.row("steer", "math", 0)]  # of an older version: nothing was prefilled
    folder = made_results.write(tmp_path / "a", unread, made_results.settings(("steer",)))
    assert "has no prompt" in refused("simulate", folder, *GIVEN)
    drafts = results(tmp_path / "b", large_passes=500)
    assert "had the large model run 500 times" in refused("simulate", drafts, *GIVEN)
    assert "give it alone" in refused("simulate", drafts, folder, *GIVEN)
    empty = made_results.write(tmp_path / "c", [], made_results.settings())
    assert "holds no answers" in refused("simulate", empty, *GIVEN)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1, "kind": "passes", "small": []}'])
def test_bad_passes(traces: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "passes.json"
    file.write_text(text)
    assert "is not timed passes" in refused("simulate", traces, "--passes", file)
