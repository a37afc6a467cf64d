"""Learned routers: features, the probabilities of the network, training, and the file."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from steer_decode import Learned, Router, SteerError, Step, StepStart, Trace, parse_policy
from steer_decode.evaluation.evaluate import Evaluation, settings
from steer_decode.fitting import CheckedPrompt, Training, train
from steer_decode.fitting.policy_gradient import constrained_advantages, process_advantages
from steer_decode.policies.features import FEATURES, read_features
from steer_decode.policies.fitted.network import RouterNetwork, TrainedNetwork
from support.tiny import make_pair, prompt_text

from steer_kernels import logit_stats

PAIR = make_pair("llama", 0)
TASKS = [CheckedPrompt(prompt_text(i, 4), lambda text: len(text) % 2 == 0) for i in range(8)]
QUICK = Training(iterations=2, questions=4, group=3, max_new_tokens=16, budget=0.5)


def start(logits: list[float], steps: list[Step], index: int | None = None) -> StepStart:
    trace = Trace("x", "entropy", [1, 2], steps)
    stats = logit_stats(torch.tensor([logits]), k=2)
    return StepStart(len(steps) if index is None else index, "small", 0, stats, trace)


def test_features_by_their_definitions() -> None:
    logits = [2.0, 1.0, 0.0]
    p = torch.tensor(logits).double().softmax(0)
    steps = [
        Step(0, "small", values=[0.5, 1.5]),
        Step(1, "large", values=[9.0], discarded=True),
        Step(1, "small", values=[0.1, 0.2, 0.6]),
        Step(2, "large", values=[0.4, 2.0]),
    ]
    got = dict(zip(FEATURES, read_features(start(logits, steps, 3), list(FEATURES)), strict=True))
    expected = {
        "first-token-entropy": float(-(p * p.log()).sum()),
        "first-token-margin": float(p[0] - p[1]),
        "first-token-log-prob": float(p[0].log()),
        "last-step-entropy": 1.2,
        "last-step-worst-entropy": 2.0,
        "last-step-large": 1.0,
        "worst-small-entropy": 1.5,
        "large-step-share": 1 / 3,
        "log-index": math.log(4),
    }
    assert got == pytest.approx(expected, abs=1e-6)
    # Nothing has been written yet; and no feature moves when all logits shift.
    shifted = start([x + 50 for x in logits], steps, 3)
    assert read_features(shifted, list(FEATURES)) == pytest.approx(list(got.values()), abs=1e-5)
    assert read_features(start(logits, []), list(FEATURES))[3:] == [0.0] * 6


def test_thresholds_as_actions() -> None:
    torch.manual_seed(0)
    network = RouterNetwork(["first-token-margin", "first-token-entropy"], [-1.0, 0.5, 1.0, 99.0])
    with torch.no_grad():
        network.head.weight.normal_()
        network.head.bias.normal_()
    x = torch.tensor([[0.9, 0.2], [0.3, 0.7], [0.1, 2.0]])
    actions = network.head(torch.tanh(network.body(x))).softmax(-1).detach()
    for row, p, chances in zip(x, actions, network(x).exp().detach(), strict=True):
        # A threshold below the entropy sends the step to the large model.
        large = sum(float(p[k]) for k, t in enumerate([-1.0, 0.5, 1.0, 99.0]) if row[1] > t)
        assert float(chances[1]) == pytest.approx(large, abs=1e-6)
        assert float(chances.sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["policy-guided", pytest.param("roro", marks=pytest.mark.slow)])
def test_a_router_is_trained_saved_and_used(kind: str, tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    training = replace(QUICK, kind=kind)
    router = train(PAIR, TASKS, training, lambda right, share: seen.append((right, share)))
    assert len(seen) == 2
    assert all(0 <= value <= 1 for pair in seen for value in pair)
    path = tmp_path / "r.safetensors"
    router.save(path)
    assert list(tmp_path.iterdir()) == [path]
    with safe_open(str(path), "pt") as file:
        about = file.metadata()
    assert about["pair"] == PAIR.fingerprint
    assert all(name in about["features"] for name in FEATURES)
    policy = parse_policy(f"learned:path={path}")
    assert isinstance(policy, Learned)
    prompts = [task.prompt for task in TASKS]
    first = Router(PAIR, policy).cohort(prompts, max_new_tokens=30)
    second = Router(PAIR, Learned(router)).cohort(prompts, max_new_tokens=30)
    assert [o.token_ids for o in first] == [o.token_ids for o in second]
    # A cut of 1 never asks the large model, one of 0 always does.
    shares = [
        {
            o.cost.large_token_share
            for o in Router(PAIR, Learned(router, cut)).cohort(prompts[:3], max_new_tokens=20)
        }
        for cut in (0.0, 1.0)
    ]
    assert shares == [{1.0}, {0.0}]
    # The same seed gives the same router.
    again = train(PAIR, TASKS, training)
    for name, weight in router.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name])


@pytest.mark.slow
def test_a_row_of_a_cohort_is_routed_as_alone() -> None:
    router = train(PAIR, TASKS, QUICK)
    together = Router(PAIR, Learned(router)).cohort([t.prompt for t in TASKS], max_new_tokens=30)
    for task, output in zip(TASKS, together, strict=True):
        alone = Router(PAIR, Learned(router)).generate(task.prompt, max_new_tokens=30)
        assert output.token_ids == alone.token_ids


@pytest.mark.slow
def test_training_learns_what_pays() -> None:
    """Right is what the large model has not touched: its probability must fall, and the reverse."""
    probabilities = {}
    large_text = {
        task.prompt: Router(PAIR, parse_policy("large"))
        .generate(task.prompt, max_new_tokens=16)
        .text
        for task in TASKS
    }
    for wanted in (True, False):
        tasks = [
            CheckedPrompt(t.prompt, lambda text, p=t.prompt, w=wanted: (text == large_text[p]) == w)
            for t in TASKS
        ]
        training = replace(QUICK, iterations=12, questions=8, rate=0.1, price=0.0, kind="roro")
        training = replace(training, judge=lambda step, before: 1.0)
        router = train(PAIR, tasks, training)
        x = torch.zeros(1, len(FEATURES)) + router.network.mean
        probabilities[wanted] = float(router.network(x)[0, 1].detach().exp())
    assert probabilities[True] > 0.5 > probabilities[False]


def rollout(question: int, right: bool, writers: str, grades: list[float]) -> Any:
    names = {"S": "small", "L": "large"}
    steps = [
        Step(i, names[w], token_ids=[5], text="x", graded=[g] if w == "S" else [])  # type: ignore[arg-type]
        for i, (w, g) in enumerate(zip(writers, grades, strict=True))
    ]
    share = Counter(writers)["L"] / len(writers)
    output = SimpleNamespace(trace=Trace("x", "entropy", [1], steps))
    return SimpleNamespace(
        question=question,
        right=right,
        share=share,
        output=output,
        large=[w == "L" for w in writers],
    )


ROLLOUTS = [
    rollout(0, True, "SL", [-0.1, 0.0]),
    rollout(0, False, "SS", [-0.1, -3.0]),
    rollout(1, True, "LL", [0.0, 0.0]),
    rollout(1, True, "SL", [-0.5, 0.0]),
]


def test_advantages_are_relative_to_the_question() -> None:
    got = constrained_advantages(ROLLOUTS, 0.4)
    rewards = [1 - 0.2, 0.0, 1 - 0.4, 1 - 0.2]
    centred = [0.4, -0.4, -0.1, 0.1]
    assert [rewards[0] - 0.4, rewards[2] - 0.7] == pytest.approx([centred[0], centred[2]])
    unit = math.sqrt(sum(c * c for c in centred) / 4)
    assert [a for row in got for a in row] == pytest.approx(
        [c / unit for c in centred for _ in range(2)], rel=1e-5
    )


def test_process_rewards_judge_each_step() -> None:
    got = process_advantages(ROLLOUTS, Training(kind="roro", price=0.4))
    e = math.exp
    rewards = [[e(-0.1), 0.6], [e(-0.1), e(-3.0)], [0.6, 0.6], [e(-0.5), 0.6]]
    process = []
    for rows in (rewards[:2], rewards[2:]):
        mean = sum(map(sum, rows)) / 4
        process += [[x - mean for x in row] for row in rows]
    outcome = [0.4, -0.4, -0.1, 0.1]
    unit_p = math.sqrt(sum(x * x for row in process for x in row) / 8)
    unit_o = math.sqrt(sum(x * x for x in outcome) / 4)
    for row, o, steps in zip(got, outcome, process, strict=True):
        assert row == pytest.approx([o / unit_o + x / unit_p for x in steps], rel=1e-4)


def test_files_that_are_no_router_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    with pytest.raises(SteerError, match="cannot read router"):
        Learned(str(path))
    path.write_bytes(b"nothing")
    with pytest.raises(SteerError, match="is not a learned router"):
        Learned(str(path))
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(SteerError, match=r"is not a learned router \(KeyError: 'version'\)"):
        Learned(str(path))
    network = RouterNetwork(list(FEATURES))
    network.features[0] = "hunch"
    TrainedNetwork("roro", PAIR.fingerprint, network).save(path)
    with pytest.raises(SteerError, match="unknown feature 'hunch'"):
        Learned(str(path))
    other = TrainedNetwork("roro", "another", RouterNetwork(list(FEATURES)))
    other.save(path)
    with pytest.raises(SteerError, match=r"r\.safetensors' was trained for another pair \(another"):
        Router(PAIR, Learned(str(path)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Learned, "learned needs path=FILE"),
        (lambda: Learned("roro", 1.5), r"cut must lie in \[0, 1\], got 1.5"),
        (lambda: Training(kind="guess"), "kind must be one of policy-guided, roro, got 'guess'"),
        (lambda: Training(budget=1.0), "budget must lie between 0 and 1, got 1.0"),
        (lambda: Training(iterations=0), "iterations must be at least 1, got 0"),
        (lambda: Training(group=1), "group must be at least 2, got 1"),
        (lambda: train(PAIR, [], Training()), "no questions to train on"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        make()


def test_two_trainings_are_told_apart_in_the_settings_of_results() -> None:
    names = list(FEATURES)
    made = [TrainedNetwork("roro", PAIR.fingerprint, RouterNetwork(names)) for _ in range(2)]
    described = []
    for router in (*made, made[0]):
        evaluation = Evaluation(PAIR, {"learned": Learned(router)}, [])
        described.append(settings(evaluation)["routers"]["learned"])
    assert described[0] == described[2] != described[1]
