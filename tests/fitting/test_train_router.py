"""`steer train-router`: what it makes on the demo pair, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from steer_decode import Pair, Router
from steer_decode.cli.models import Models
from steer_decode.cli.routers import make_policy
from steer_decode.demo import grade, pair_paths, problems
from steer_decode.demo.problems.problem import split_of
from support.commands import refused, steer

DEMO = Models("demo", None, None, None, None)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.from_pretrained(*pair_paths())


def test_a_cascade_is_fitted_on_the_calibration_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steer_decode import fitting as learning

    asked: list[str] = []
    fit = learning.fit_corea

    def watched(pair, tasks, **options):  # type: ignore[no-untyped-def]
        asked.extend(task.prompt for task in tasks)
        return fit(pair, tasks, **options)

    monkeypatch.setattr(learning, "fit_corea", watched)
    monkeypatch.chdir(tmp_path)
    result = steer("train-router", "corea", "--n", 10, "--over", "mean")
    assert result.exit_code == 0, result.output
    assert "saved in corea.json: `--router corea:path=corea.json`" in result.output
    path = tmp_path / "corea.json"  # not the one that comes with the package
    assert "corea: signal max-prob, over mean, answers 30" in result.output
    assert len(asked) == 30
    assert {split_of(prompt) for prompt in asked} == {"calibration"}
    assert json.loads(path.read_text())["settings"]["over"] == "mean"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_network_is_trained_and_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    result = steer(
        *("train-router", "policy-guided", "--n", 4, "--iterations", 1, "--share", 0.5),
        *("--out", path, "--max-new-tokens", 40),
    )
    assert result.exit_code == 0, result.output
    assert "policy-guided: kind policy-guided, budget 0.5, iterations 1" in result.output
    result = steer(
        *("eval", "--split", "calibration", "--n", 1, "--domains", "math"),
        *("--routers", f"learned:path={path}", "--out", tmp_path / "results"),
    )
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["corea", "--share", "0.5"], "router 'corea' takes no --share: leave it out"),
        (["ecotab", "--judge", "a:b"], "router 'ecotab' takes no --judge"),
        (["roro", "--judge", "nowhere:f"], "cannot find the reward 'nowhere:f'"),
        (["roro", "--share", "1.5"], "--share must lie between 0 and 1, got 1.5"),
        (["corea", "--over", "most"], "one of mean, min, last, first, got 'most'"),
        (["corea", "--signal", "hunch"], "unknown signal 'hunch'"),
        (["corea", "--n", "0"], "--n must be at least 1, got 0"),
        (["corea", "--small", "a", "--large", "b"], "or use steer_decode.fitting with your own"),
        (["corea", "--n", "2"], "cannot fit"),
    ],
)
def test_bad_input_is_refused(options: list[str], message: str, tmp_path: Path) -> None:
    assert message in refused("train-router", *options, "--out", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    assert "cannot write" in refused("train-router", "corea", "--out", tmp_path)


@pytest.mark.parametrize(
    "spec",
    [
        *("spec-reason", "rsd", "ecotab", "corea", "learned", "learned:path=roro"),
        "replay:writers=SL",
    ],
)
@pytest.mark.few(2)
def test_every_rival_works_on_the_demo_pair_by_its_name(spec: str, pair: Pair) -> None:
    policy = make_policy(spec, DEMO)
    asked = [p for domain in ("math", "planning") for p in problems(domain, 5, "calibration")]
    outputs = Router(pair, policy).cohort([p.prompt for p in asked], max_new_tokens=80)
    right = sum(grade(p, o.text) for p, o in zip(asked, outputs, strict=True))
    assert right >= 3
    assert all(o.trace.stop_reason == "eos" for o in outputs)
    # What a router is called must not depend on where the package lies.
    assert "/" not in str(policy)
