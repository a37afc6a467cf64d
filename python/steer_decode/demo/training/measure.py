"""Accuracy of the demo pair by domain and difficulty.

python -m steer_decode.demo.training.measure
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .. import pair_paths
from ..problems.problem import DIFFICULTIES, SPLITS
from ..problems.solve import completions
from ..problems.tasks import DOMAINS, grade, problems


def first_wrong_step(reference: list[str], written: list[str]) -> int | None:
    """The index of the first step unlike the reference's.

    None where none differs.
    """
    for i, step in enumerate(reference):
        if i >= len(written) or written[i] != step:
            return i
    return None


def measure(folder: Path, n: int, split: str, dtype: torch.dtype) -> dict[str, Any]:
    """Greedy accuracy of one model on `n` problems a domain.

    Returns parameters, seconds, and by domain: `accuracy`, `by_difficulty` (five accuracies,
    None where there was no problem), and `first_wrong_step`, the share of all problems whose
    first step that differs from the reference is number 0, 1, 2, ...
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    report: dict[str, Any] = {"parameters": model.num_parameters(), "n": n, "split": split}
    began = time.monotonic()
    for domain in DOMAINS:
        asked = problems(domain, n, split)
        texts = completions(model, tokenizer, asked)
        right = [grade(problem, text) for problem, text in zip(asked, texts, strict=True)]
        by_difficulty = []
        for level in DIFFICULTIES:
            rows = [
                r for r, problem in zip(right, asked, strict=True) if problem.difficulty == level
            ]
            by_difficulty.append(sum(rows) / len(rows) if rows else None)
        wrong_at = [0] * max(len(problem.steps) for problem in asked)
        for problem, text, ok in zip(asked, texts, right, strict=True):
            at = None if ok else first_wrong_step(problem.steps, text.split("\n\n"))
            if at is not None:
                wrong_at[at] += 1
        report[domain] = {
            "accuracy": sum(right) / n,
            "by_difficulty": by_difficulty,
            "first_wrong_step": [count / n for count in wrong_at],
        }
    report["seconds"] = time.monotonic() - began
    return report


def table(reports: dict[str, dict[str, Any]]) -> str:
    """The reports as one Markdown table of accuracies.

    They come by model name.
    """
    lines = [
        "| model | parameters | domain | all | d=1 | d=2 | d=3 | d=4 | d=5 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        for domain in DOMAINS:
            row = report[domain]
            levels = ["-" if a is None else f"{a:.2f}" for a in row["by_difficulty"]]
            cells = [name, f"{report['parameters']:,}", domain, f"{row['accuracy']:.3f}", *levels]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m steer_decode.demo.training.measure",
        description="Greedy accuracy of the demo pair by domain and difficulty.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m steer_decode.demo.training.measure --n 500\n"
        "  python -m steer_decode.demo.training.measure --n 100 --split calibration --json\n"
        "  python -m steer_decode.demo.training.measure --folder runs/demo/small",
    )
    parser.add_argument("--n", type=int, default=500, help="problems a domain")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, action="append", help="models other than the pair")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    It returns 2 for an argument that cannot be, with one sentence on stderr.
    """
    args = _parser().parse_args(argv)
    if args.n < 1:
        print(f"--n {args.n} must be 1 or more.", file=sys.stderr)
        return 2
    torch.set_num_threads(max(1, args.threads))
    try:
        folders = args.folder or list(pair_paths())
        reports = {
            folder.name: measure(folder, args.n, args.split, getattr(torch, args.dtype))
            for folder in folders
        }
    except (FileNotFoundError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(reports, indent=1) if args.json else table(reports))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
