"""Whether `both-sides:loss=...` keeps its promise: draws of calibrations, tried on other problems.

    python benchmarks/promise_trial.py --calibration 320 --test 200 --draws 20 --out trial.json

Of each domain of the demo every problem is answered once at every bar, greedily. A draw then takes
problems of a domain at random, with replacement, makes the promise from whether their answers
differ, and measures what is lost on the test problems: the large model's accuracy less that of the
answers at the bar that was chosen. The promise is kept where that is no more than the loss.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from steer_decode import AlwaysLarge, BothSides, Pair, Policy, Router
from steer_decode.demo import DOMAINS, grade, pair_paths, problems
from steer_decode.evaluation.tasks.final import final_answer
from steer_decode.fitting.promises import BARS, LEAST, PART
from steer_decode.policies.fitted.promise import Promise, Rung

COHORT = 64


def answered(
    pair: Pair, policy: Policy, domain: str, split: str, n: int
) -> list[dict[str, object]]:
    """What each answer says, and whether that is right."""
    asked, found = problems(domain, n, split=split), []
    for start in range(0, n, COHORT):
        some = asked[start : start + COHORT]
        outputs = Router(pair, policy).cohort([p.prompt for p in some], max_new_tokens=256)
        for problem, output in zip(some, outputs, strict=True):
            right = grade(problem, output.text)
            found.append({"says": final_answer(output.text), "right": right})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calibration", type=int, default=320, help="problems of each domain")
    parser.add_argument("--test", type=int, default=200, help="likewise, of the test split")
    parser.add_argument("--draws", type=int, default=20, help="of each domain")
    parser.add_argument("--losses", default="0.01,0.02,0.05")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pair = Pair.from_pretrained(*pair_paths())
    policies = {1.0: AlwaysLarge()} | {
        sure: BothSides(part=PART, least=LEAST, sure=sure) for sure in BARS
    }
    trials = []
    for domain in DOMAINS:
        of = {
            (split, sure): answered(pair, policy, domain, split, n)
            for split, n in (("calibration", args.calibration), ("test", args.test))
            for sure, policy in policies.items()
        }
        for draw in range(args.draws):
            chance = random.Random(f"{domain}:{draw}")
            picked = chance.choices(range(args.calibration), k=args.calibration)
            rungs = [
                Rung(
                    sure,
                    len(picked),
                    sum(
                        of["calibration", sure][i]["says"] != of["calibration", 1.0][i]["says"]
                        for i in picked
                    ),
                )
                for sure in BARS
            ]
            promise = Promise(pair.fingerprint, PART, LEAST, rungs)
            for loss in map(float, args.losses.split(",")):
                sure = promise.sure(loss)
                right = {s: sum(bool(a["right"]) for a in of["test", s]) for s in (1.0, sure)}
                lost = (right[1.0] - right[sure]) / args.test
                trials.append(
                    {"domain": domain, "draw": draw, "loss": loss, "sure": sure, "lost": lost}
                )
        print(
            domain, {s: sum(bool(a["right"]) for a in of["test", s]) for s in policies}, flush=True
        )
    summary = {}
    for loss in sorted({t["loss"] for t in trials}):
        of_loss = [t for t in trials if t["loss"] == loss]
        summary[loss] = {
            "draws": len(of_loss),
            "kept": sum(t["lost"] <= t["loss"] + 1e-12 for t in of_loss),
            "read_everything": sum(t["sure"] >= 1 for t in of_loss),
            "mean_lost": sum(t["lost"] for t in of_loss) / len(of_loss),
        }
    args.out.write_text(json.dumps({"summary": summary, "trials": trials}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
