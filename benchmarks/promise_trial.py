"""Whether `both-sides:loss=...` keeps its promise: draws of calibrations, tried on other problems.

    python benchmarks/promise_trial.py --calibration 400 --test 200 --draws 20 --out trial.json

Of each domain of the demo every problem is answered once at every bar, greedily. A draw then takes
problems of a domain at random, with replacement, makes the promise from whether their answers
differ (by their text, and by their final answer), and measures what is lost on the test problems:
the large model's accuracy less that of the answers at the bar that was chosen. The promise is kept
where that is no more than the loss.
"""

from __future__ import annotations

import argparse
import json
import random
from itertools import product
from pathlib import Path
from typing import Any

from steer_decode import AlwaysLarge, BothSides, Pair, Policy, Router
from steer_decode.cli.calibrate_promise import COMPARED
from steer_decode.demo import DOMAINS, grade, pair_paths, problems
from steer_decode.fitting.promises import BARS, LEAST, PART
from steer_decode.policies.fitted.promise import Promise, Rung

COHORT = 64
Answers = list[tuple[str, bool]]  # text, and whether it is right


def answered(pair: Pair, policy: Policy, domain: str, split: str, n: int) -> Answers:
    """The text of each answer, and whether it is right."""
    asked, found = problems(domain, n, split=split), Answers()
    for start in range(0, n, COHORT):
        some = asked[start : start + COHORT]
        outputs = Router(pair, policy).cohort([p.prompt for p in some], max_new_tokens=128)
        for problem, output in zip(some, outputs, strict=True):
            found.append((output.text, grade(problem, output.text)))
    return found


def drawn(
    answers: dict[float, Answers], domain: str, draw: int, compare: str, fingerprint: str
) -> Promise:
    """The promise of one draw of calibration problems."""
    n = len(answers[1.0])
    picked = random.Random(f"{domain}:{draw}").choices(range(n), k=n)
    said = {sure: [COMPARED[compare](text) for text, _ in answers[sure]] for sure in answers}
    rungs = [Rung(sure, n, sum(said[sure][i] != said[1.0][i] for i in picked)) for sure in BARS]
    return Promise(fingerprint, PART, LEAST, rungs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calibration", type=int, default=400, help="problems of each domain")
    parser.add_argument("--test", type=int, default=200, help="likewise, of the test split")
    parser.add_argument("--draws", type=int, default=20, help="of each domain")
    parser.add_argument("--losses", default="0.01,0.02,0.05")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pair = Pair.from_pretrained(*pair_paths())
    policies: dict[float, Policy] = {1.0: AlwaysLarge()}
    policies |= {sure: BothSides(part=PART, least=LEAST, sure=sure) for sure in BARS}
    trials: list[dict[str, Any]] = []
    for domain in DOMAINS:
        calibration, test = (
            {sure: answered(pair, policy, domain, split, n) for sure, policy in policies.items()}
            for split, n in (("calibration", args.calibration), ("test", args.test))
        )
        right = {sure: sum(right for _, right in found) for sure, found in test.items()}
        print(domain, f"right of {args.test} at each bar:", right, flush=True)
        for draw, compare in product(range(args.draws), COMPARED):
            promise = drawn(calibration, domain, draw, compare, pair.fingerprint)
            for loss in map(float, args.losses.split(",")):
                sure = promise.sure(loss)
                lost = (right[1.0] - right[sure]) / args.test
                trial = {"domain": domain, "draw": draw, "compare": compare, "loss": loss}
                trials.append({**trial, "sure": sure, "lost": lost})
    summary = []
    for compare, loss in sorted({(t["compare"], t["loss"]) for t in trials}):
        these = [t for t in trials if (t["compare"], t["loss"]) == (compare, loss)]
        summary.append(
            {
                "compare": compare,
                "loss": loss,
                "draws": len(these),
                "kept": sum(t["lost"] <= loss + 1e-12 for t in these),
                "read_everything": sum(t["sure"] >= 1 for t in these),
                "mean_lost": sum(t["lost"] for t in these) / len(these),
            }
        )
    args.out.write_text(json.dumps({"summary": summary, "trials": trials}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
