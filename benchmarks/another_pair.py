"""Does the calibration of `both-sides` suit a pair that nobody tuned it to?

The other pair: the demo's small model with noise on its weights, and the demo's large model. Noise
changes how often the small model is wrong and the scale of all its signals; the thresholds of the
demo pair are refused. The pair is calibrated on unlabelled calibration prompts, and both-sides, the
first-token router (GlimpRouter) and SpecReason are followed over test problems (signals_replay.py,
greedy, costs of answers that are written alone). Areas are mean accuracies over budgets, in %, with
paired 95 % bootstrap intervals.

    python benchmarks/another_pair.py --noise 0.1      # three minutes of one core
    python benchmarks/another_pair.py --noise 0        # the demo pair with its own calibration
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from signals_replay import COSTS, Setting, outcomes
from steer_decode import Pair
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.evaluation.report.bootstrap import Bootstrap, interval
from steer_decode.evaluation.tasks.demo import demo_tasks
from steer_decode.fitting.both_sides import calibrate_sides
from steer_decode.fitting.mixtures import Prompts
from steer_decode.policies.fitted.both_sides import COST_NAMES, BothSidesCalibration, Plan
from steer_decode.policies.fitted.file import SHIPPED
from steer_decode.util.numbers import area
from step_bank import StepBank
from transformers.utils import logging

WRITTEN = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75)  # shares where steps are written
MENDED = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)  # where tokens are
ENTROPIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.1, 1.4)
LOG_PROBS = (-6.0, -4.0, -3.0, -2.0, -1.0, -0.5, -0.2, -0.1, -0.05)


def noisy_pair(noise: float, seed: int) -> Pair:
    """The demo pair with each weight matrix of the small model disturbed.

    ``noise`` is in standard deviations of the matrix.
    """
    pair = Pair.from_pretrained(*pair_paths())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in pair.small.parameters():
            if weight.ndim == 2:
                weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    return pair


def setting(plan: Plan, share: float) -> Setting:
    """What both-sides does at ``share``."""
    t = plan.thresholds(share)
    before = plan.signal if t.lost > plan.lowest else ""
    after = f"{plan.over}-{plan.signal}"
    return Setting(before, t.lost, t.hold, after, t.doubt, t.sure, "mean", t.keep, plan.fix)


def families(made: BothSidesCalibration) -> dict[str, list[Setting]]:
    ours = {
        f"both-sides:cost={cost}": [
            setting(plan, share) for share in (MENDED if plan.fix == "token" else WRITTEN)
        ]
        for cost, plan in made.plans.items()
    }
    first = [Setting(before="entropy", lost=-v) for v in ENTROPIES]
    return {**ours, "first-token": first, "spec-reason": [Setting(keep=k) for k in LOG_PROBS]}


def compare(pair: Pair, made: BothSidesCalibration, n: int) -> dict[str, Any]:
    """Areas of each family, and by how much ours for that cost is above its rivals."""
    bank = StepBank(pair, demo_tasks(DOMAINS, n, "test"))
    boot = Bootstrap([task.domain for task in bank.tasks])
    swept = families(made)
    alone = outcomes(bank, [Setting(), Setting(before="max-prob", lost=2.0)])
    samples: dict[str, list[Any]] = {}
    for name, settings in swept.items():
        found = [alone[0], *outcomes(bank, settings), alone[1]]
        right = boot.sums(np.array([[o.right for o in row] for row in found], dtype=float).T)
        costs = boot.sums(np.array([[o.costs for o in row] for row in found]).transpose(1, 0, 2))
        samples[name] = [
            area(costs[:, :, k] / costs[:, -1:, k], right / len(bank.tasks))
            for k in range(len(COSTS))
        ]
    result: dict[str, Any] = {"small": _right(alone[0]), "large": _right(alone[1])}
    for k, (key, cost) in enumerate(zip(COSTS, COST_NAMES, strict=True)):
        ours = samples[f"both-sides:cost={cost}"][k]
        result[key] = {name: _percent(values[k]) for name, values in samples.items()}
        for rival in ("first-token", "spec-reason"):
            result[key][f"ours above {rival}"] = _percent(ours - samples[rival][k])
    return result


def _right(row: list[Any]) -> float:
    return round(100 * sum(o.right for o in row) / len(row), 1)


def _percent(values: Any) -> list[float]:
    return [round(100 * value, 2) for value in interval(values)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=16, help="of each domain, to calibrate")
    parser.add_argument("--n", type=int, default=100, help="test problems of each domain")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/signals"))
    args = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    pair = noisy_pair(args.noise, args.seed)
    prompts = [p.prompt for d in DOMAINS for p in problems(d, args.prompts, split="calibration")]
    options = {"max_new_tokens": 128, "temperature": 0.0, "seed": 0}
    if args.noise:
        made = calibrate_sides(Prompts(pair, prompts, options=options, cohort=32))
    else:
        made = BothSidesCalibration.load(SHIPPED / "both-sides.json")
    result = {"noise": args.noise, "seed": args.seed, "n": args.n, "prompts": len(prompts)}
    result |= {"signals": {c: f"{p.over} {p.signal}" for c, p in made.plans.items()}}
    result |= {"agreement": dict(made.agreement)} | compare(pair, made, args.n)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"another-pair-noise-{args.noise:g}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
