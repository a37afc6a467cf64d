r"""Problems on which two models of close size differ: sums of a few numbers, and linear equations.

    python benchmarks/close_pair_tasks.py --seed 2611 --n 24 > dev.jsonl    # 48 problems
    steer eval --small Qwen/Qwen2.5-Coder-0.5B-Instruct --large Qwen/Qwen2.5-Coder-1.5B-Instruct \
        --dtype bfloat16 --tasks dev.jsonl --cohort 16 --max-new-tokens 450 \
        --routers small,large,first-token,random:share=0.5,both-sides:sure=1

Settings of a router are chosen on one seed and reported on another. Needs reasoning-gym.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import reasoning_gym

SETS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 3, "max_terms": 5, "min_digits": 2, "max_digits": 4},
    "simple_equations": {},
}
REQUEST = (
    "\n\nReason step by step, with a blank line between steps, and put the final answer within "
    "\\boxed{}."
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, required=True, help="of the problems")
    parser.add_argument("--n", type=int, default=24, help="problems of each of the two sets")
    args = parser.parse_args()
    for name, settings in SETS.items():
        data = reasoning_gym.create_dataset(name, size=args.n, seed=args.seed, **settings)
        for i in range(args.n):
            entry = data[i]
            task = {
                "id": f"{name}-{i}",
                "domain": name,
                "prompt": entry["question"].strip() + REQUEST,
                "answer": str(entry["answer"]),
            }
            print(json.dumps(task))


if __name__ == "__main__":
    main()
