"""The calibration of both-sides: what it counts, what it chooses, and what it refuses."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from steer_decode import BothSides, FirstTokenEntropy, Pair, Router, SpecReason, SteerError
from steer_decode.cli import app
from steer_decode.core.events import RoutedOutput
from steer_decode.core.signals import SIGNALS
from steer_decode.core.trace import Step, Trace
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.evaluation.tasks.demo import demo_tasks
from steer_decode.fitting.both_sides import calibrate_sides, told
from steer_decode.fitting.mixtures import Prompts
from steer_decode.fitting.schedules import Draft, Forecast, RecordedDrafts, schedules
from steer_decode.policies.fitted.both_sides import COSTS, BothSidesCalibration, Thresholds
from support.tiny import make_pair, prompt_text
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

NEVER = -math.inf


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.from_pretrained(*pair_paths())


class TestForecast:
    """Three drafts of four tokens: sure and fine, unsure and fine, unsure and wrong."""

    DRAFTS = (
        Draft(0.9, 0.9, -0.01, 0.0, 4, True),
        Draft(0.3, 0.2, -0.05, 0.0, 4, True),
        Draft(0.4, 0.1, -3.0, -5.0, 4, False, foreign=[1, 3], mends=[(1, 3), (2, 4)]),
    )

    @pytest.fixture
    def forecast(self, pair: Pair) -> Forecast:
        return Forecast([RecordedDrafts(10, self.DRAFTS)], pair.shapes)

    def test_the_ends_are_either_model_alone(self, pair: Pair, forecast: Forecast) -> None:
        (small, cheap), (large, dear) = forecast.ends
        assert (small, large) == (0, 1)
        shapes = pair.shapes
        assert cheap["papers"] == 12 * 2 * shapes["small"].parameters
        # Nothing but the prompt and the tokens: the last one is not read.
        assert cheap["processed"] == sum(
            shapes["small"].flops(n, past)
            for n, past in [(10, 0), *((1, p) for p in range(10, 21))]
        )
        assert dear["papers"] == 12 * 2 * shapes["large"].parameters

    @pytest.mark.parametrize(
        ("thresholds", "consent", "written"),
        [
            (Thresholds(1.0, -0.1, NEVER, NEVER, 0.0), 1, (12, 4)),  # all are read, one is refused
            (Thresholds(0.5, -9.0, NEVER, NEVER, 0.0), 0, (12, 0)),  # read, and stays
            (Thresholds(0.15, NEVER, NEVER, 0.15, 0.0), 1, (12, 4)),  # taken back unread
            (Thresholds(NEVER, NEVER, 0.35, NEVER, 0.0), 0, (8, 4)),  # the wrong one looks sure
            (Thresholds(NEVER, NEVER, 0.35, NEVER, 0.1), 1, (4, 8)),  # until the bar is raised
        ],
    )
    def test_thresholds_are_followed_draft_by_draft(
        self,
        pair: Pair,
        forecast: Forecast,
        thresholds: Thresholds,
        consent: int,
        written: tuple[int, int],
    ) -> None:
        found, costs = forecast.of(thresholds, "step")
        n = [2 * pair.shapes[w].parameters for w in ("small", "large")]
        assert found == consent
        assert costs["papers"] == written[0] * n[0] + written[1] * n[1]

    def test_a_mended_draft_is_followed_mend_by_mend(self, pair: Pair, forecast: Forecast) -> None:
        found, costs = forecast.of(Thresholds(1.0, -0.1, NEVER, NEVER, 0.0), "token")
        shapes = pair.shapes
        # Drafts of 4, 4 and 4; mended at token 1 (then 3 tokens: one more), and at 2 (one more).
        assert found == 1
        assert costs["papers"] == 2 * (
            (12 + 1 + 1) * shapes["small"].parameters + 2 * shapes["large"].parameters
        )
        small = [(10, 10, 1), *((1, p + 1, 1) for p in range(10, 21)), (1, 20, 1), (1, 21, 1)]
        # Its own tokens come from logits that it has; they are read with what follows them.
        large = [(14, 14, 5), (4, 18, 4), (4, 22, 4), (2, 21, 2), (2, 22, 2)]
        assert costs["processed"] == sum(
            shapes[w].flops(new, end - new, heads)
            for w, passes in {"small": small, "large": large}.items()
            for new, end, heads in passes
        )

    def test_reading_is_free_as_papers_count_and_dear_in_flops(self, forecast: Forecast) -> None:
        read = forecast.of(Thresholds(1.0, NEVER, NEVER, NEVER, 0.0), "step")[1]
        unread = forecast.of(Thresholds(NEVER, NEVER, NEVER, NEVER, 0.0), "step")[1]
        large = forecast.ends[1][1]
        assert read["papers"] == unread["papers"]
        assert read["processed"] > large["processed"]
        assert unread["bytes"] < read["bytes"] < large["bytes"]

    def test_paths_lead_from_few_large_steps_to_many(self, pair: Pair) -> None:
        answers = [RecordedDrafts(10, self.DRAFTS)] * 3
        forecast = Forecast(answers, pair.shapes)
        for path in schedules(answers, -0.1, 0.0, 1.0):
            costs = [forecast.of(t, path.fix)[1]["papers"] for t in path.places]
            assert costs[-1] > costs[0]


@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.7, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_followed_through_a_bank_of_steps_it_is_what_a_run_gives(
    pair: Pair, temperature: float
) -> None:
    from signals_replay import Setting, outcomes
    from step_bank import StepBank

    tasks = demo_tasks(DOMAINS, 1, "calibration")
    routers = [
        (
            BothSides(lost=0.2, hold=0.3, fix="step"),
            Setting("margin", 0.2, 0.3, "min-margin", 0.0, 0.95, "mean", -0.1),
        ),
        (
            BothSides(doubt=0.5, sure=0.5, lost=0.0),
            Setting("", after="min-margin", doubt=0.5, sure=0.5),
        ),
        (
            BothSides(lost=0.1, hold=0.2, doubt=0.05, sure=0.99, keep=-1.0),
            Setting("margin", 0.1, 0.2, "min-margin", 0.05, 0.99, keep=-1.0, fix="token"),
        ),
        (BothSides(sure=1.0), Setting(after="min-margin", sure=1.0, keep=-0.1, fix="token")),
        (FirstTokenEntropy(0.5), Setting("entropy", -0.5)),
        (SpecReason(), Setting(keep=-0.5)),
    ]
    found = outcomes(StepBank(pair, tasks, temperature), [setting for _, setting in routers])
    options = {"max_new_tokens": 128, "temperature": temperature}
    for (policy, _), row in zip(routers, found, strict=True):
        for task, outcome in zip(tasks, row, strict=True):
            run = Router(pair, policy).generate(task.prompt, seed=task.number, **options)
            cost = run.cost
            assert outcome.costs == (cost.flops_paper, cost.flops_processed, cost.bytes_read)
            assert outcome.right == task.check(run.text)
            assert (outcome.hand_overs, outcome.wasted) == (cost.hand_overs, cost.discarded_tokens)


def test_a_large_model_that_consents_to_all_has_nothing_to_tell() -> None:
    step = Step(0, "small", values=[0.5, 0.4], graded=[-0.01, -0.02])
    outputs = [RoutedOutput("", [], Trace("", "", [1], [step] * 30), None)]  # type: ignore[arg-type]
    with pytest.raises(SteerError, match=r"consents to 30 of 30 drafts.*both kinds"):
        told(outputs, SIGNALS["margin"], -0.1)


@pytest.mark.slow
def test_too_few_steps_are_refused() -> None:
    run = Prompts(make_pair("llama", 0), [prompt_text(0, 6)], options={"max_new_tokens": 5})
    with pytest.raises(SteerError, match="give more prompts"):
        calibrate_sides(run)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--router", "rsd"], "--router must be steer or both-sides"),
        (["--router", "both-sides", "--gamma", "0.5"], "--gamma is for --router steer"),
        (["--router", "both-sides", "--large-share", "0.5"], "--large-share is for --router steer"),
    ],
)
def test_the_command_refuses_what_it_would_not_listen_to(args: list[str], message: str) -> None:
    refused = CliRunner().invoke(app, ["calibrate", *args])
    assert refused.exit_code == 2
    assert message in refused.output


@pytest.mark.slow
def test_the_demo_pair_is_calibrated_from_two_dozen_prompts(pair: Pair) -> None:
    prompts = [p.prompt for name in DOMAINS for p in problems(name, 8, split="calibration")]
    run = Prompts(pair, prompts, options={"max_new_tokens": 128}, cohort=24)
    made = calibrate_sides(run, ["entropy"])
    assert set(made.plans) == set(COSTS)
    found = made.agreement
    assert 0 < found["with_consent"] < found["drafts"]
    assert found["auroc"]["entropy"]["first"] > 0.75  # chance is 0.5
    # Reading is free as papers count, and never pays in processed FLOPs.
    inner = {
        cost: [knot.thresholds for knot in plan.knots[1:-1]] for cost, plan in made.plans.items()
    }
    assert all(t.doubt < t.sure for t in inner["papers"])
    assert all(t.doubt == t.sure for t in inner["processed"])
    for cost, plan in made.plans.items():
        shares = [knot.share for knot in plan.knots]
        assert shares == sorted(set(shares)), cost
        assert (shares[0], shares[-1]) == (0, 1)
        middle = plan.knots[len(plan.knots) // 2]
        outputs = list(run.answers(BothSides(share=middle.share, cost=cost, path=made)))
        kept = [step for output in outputs for step in output.trace.kept]
        large = sum(s.by("large") for s in kept)
        assert large / sum(len(s.token_ids) for s in kept) == pytest.approx(middle.share, abs=1e-3)
    assert isinstance(made, BothSidesCalibration)
