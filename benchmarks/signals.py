"""Which signals a router should look at, and when: all of them, on calibration problems.

Every combination of a look before a step, a look at its draft, and what follows from it is a
family of settings with one knob; the area under its accuracy-cost curve (`util.numbers`) says what
it is worth by FLOPs as papers count them, FLOPs processed and bytes read, as ratios to the large
model alone. Steps are written once and shared by all settings (step_bank.py), so that thousands of
them take minutes. Costs are those of answers that are written alone.

    python benchmarks/signals.py                 # ten minutes of one core; --n 20 for a first look
    python benchmarks/signals.py --only hold     # some of the groups

It goes on after an interruption: steps are kept in --bank, figures in --out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from signals_replay import AGGREGATES, COSTS, Outcome, Setting, draft_value, outcomes
from steer_decode import Pair
from steer_decode.demo import DOMAINS, pair_paths
from steer_decode.evaluation.tasks.demo import demo_tasks
from steer_decode.util.numbers import area
from step_bank import SIGNALS, StepBank
from transformers.utils import logging

POINTS = np.linspace(0.02, 0.98, 13)  # quantiles of a signal over drafts, the knob of most families
KEEPS = (-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.7, -0.5, -0.3, -0.1, -0.05)
AGREES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
HOLDS = (0.25, 0.5, 1.0, 2.0)  # in standard deviations of the first token's signal
SMALL, LARGE = Setting(), Setting(before="max-prob", lost=2.0)

Family = tuple[str, str, list[Setting]]  # group, name, settings


class Levels:
    """Quantiles of what drafts look like, over the steps that the bank holds so far."""

    def __init__(self, bank: StepBank) -> None:
        steps = bank.steps.items()
        self._drafts = [w for p, w in steps if p.writer == "small" and w.closed and not p.inside]

    def at(self, name: str, quantiles: Sequence[float]) -> list[float]:
        values = [draft_value(name, draft) for draft in self._drafts]
        return [float(v) for v in np.quantile(values, quantiles)]

    def spread(self, signal: str) -> float:
        return float(np.std([draft_value(f"first-{signal}", draft) for draft in self._drafts]))


def families(levels: Levels) -> Iterator[Family]:
    """All combinations that are tried."""
    points = list(POINTS)
    after = [f"{how}-{signal}" for signal in SIGNALS for how in AGGREGATES if how != "first"]
    for signal in SIGNALS:
        lost = levels.at(f"first-{signal}", points)
        looks = [Setting(before=signal, lost=v) for v in lost]
        yield "before", f"first {signal}", looks
        for hold in HOLDS:
            held = [replace(s, hold=hold * levels.spread(signal)) for s in looks]
            yield "hold", f"first {signal}, hold {hold:g} sd", held
    for name in after:
        at = levels.at(name, points)
        yield "after, unread", name, [Setting(after=name, doubt=v, sure=v) for v in at]
    for signal in SIGNALS:
        lost = levels.at(f"first-{signal}", points)
        for name in (n for n in after if not n.startswith("last")):
            both = [
                Setting(before=signal, lost=v, after=name, doubt=w, sure=w)
                for v, w in zip(lost, levels.at(name, points), strict=True)
            ]
            yield "both sides, unread", f"first {signal} + {name}", both
    for grade in ("mean", "min", "first"):
        yield "read all", f"{grade} log-prob", [Setting(grade=grade, keep=k) for k in KEEPS]
    yield "read all", "share of agreeing tokens", [Setting(grade="agree", keep=k) for k in AGREES]
    keeps = [Setting(keep=k) for k in KEEPS]
    yield from read(levels, "read", keeps)
    mends = [Setting(keep=k, fix="token") for k in KEEPS]
    yield "mend all", "log-prob of the refused token", mends
    yield from read(levels, "mend", mends)
    for most in (1, 2, 3, 4, 6):
        yield (
            "give up",
            f"read all, at most {most} large steps",
            [replace(s, most=most) for s in keeps],
        )


def read(levels: Levels, what: str, settings: Sequence[Setting]) -> Iterator[Family]:
    """Drafts that look neither sure nor lost are read, and taken back or mended."""
    for name in (f"{how}-{signal}" for signal in SIGNALS for how in ("min", "mean")):
        for quantile in (0.3, 0.5, 0.7, 0.9):
            (sure,) = levels.at(name, [quantile])
            unless = [replace(s, after=name, sure=sure) for s in settings]
            yield f"{what} unless sure", f"{name}, sure above its {quantile:g} quantile", unless
    for signal in SIGNALS:
        for low, high in ((0.02, 0.5), (0.02, 0.9), (0.05, 0.5), (0.05, 0.9), (0.15, 0.5)):
            (lost,), (sure,) = (
                levels.at(f"first-{signal}", [low]),
                levels.at(f"min-{signal}", [high]),
            )
            between = [
                replace(s, before=signal, lost=lost, after=f"min-{signal}", sure=sure)
                for s in settings
            ]
            name = f"{signal}, below {low:g} lost, above {high:g} sure"
            yield f"lost, {what}, sure", name, between


def figures(found: Sequence[Sequence[Outcome]], domains: Sequence[str]) -> dict[str, Any]:
    """Areas by scope and cost, of outcomes [setting][problem]; first small alone, last large."""
    right = np.array([[o.right for o in row] for row in found], dtype=float)
    costs = np.array([[o.costs for o in row] for row in found])
    areas: dict[str, dict[str, float]] = {}
    for scope in ("all", *dict.fromkeys(domains)):
        here = [i for i, domain in enumerate(domains) if scope in ("all", domain)]
        y, x = right[:, here].mean(1)[None], costs[:, here].mean(1)
        by_cost = {key: float(area(x[None, :, k], y)[0]) for k, key in enumerate(COSTS)}
        areas[scope] = {key: round(value, 4) for key, value in by_cost.items()}
    hand_overs = [sum(o.hand_overs for o in row) / len(row) for row in found[1:-1]]
    return {"areas": areas, "hand_overs": round(float(np.mean(hand_overs)), 3)}


def search(bank: StepBank, name: str, only: str) -> dict[str, Any]:
    """Figures of every family by "group: name"."""
    alone = outcomes(bank, [SMALL, LARGE, Setting(keep=-0.5)])
    domains = [task.domain for task in bank.tasks]
    made: dict[str, Any] = {}
    every = [f for f in families(Levels(bank)) if only in f[0]]
    for group, family, settings in track(every, f"families, {name}"):
        found = outcomes(bank, settings)
        entry = figures([alone[0], *found, alone[1]], domains)
        made[f"{group}: {family}"] = {"group": group, "family": family, **entry}
    return made


def markdown(result: dict[str, Any]) -> str:
    """The best of each group, and the rest of it in one line each."""
    runs = result["runs"]
    lines = [
        "# Signals before and after a step",
        "",
        f"`python benchmarks/signals.py --n {result['n']}`: {result['n']} calibration problems a "
        "domain, demo pair. Area under the accuracy-cost curve (mean accuracy over budgets, %) by "
        "FLOPs as papers count them / FLOPs processed / bytes read. The first three columns are "
        "for all domains, greedy; then at temperature 0.7; then by domain, greedy.",
        "",
    ]
    heads = ["greedy", "T = 0.7", *(f"{domain}, greedy" for domain in DOMAINS)]
    groups = dict.fromkeys(entry["group"] for entry in runs["greedy"].values())
    for group in groups:
        keys = [k for k, entry in runs["greedy"].items() if entry["group"] == group]
        keys.sort(key=lambda k: -sum(runs["greedy"][k]["areas"]["all"].values()))
        lines += [f"## {group}", "", "| family | " + " | ".join(heads) + " | hand-overs |"]
        lines.append("|---|" + "---:|" * (len(heads) + 1))
        for key in keys:
            greedy, sampled = runs["greedy"][key], runs["T = 0.7"].get(key)
            cells = [_cell(greedy["areas"]["all"])]
            cells.append(_cell(sampled["areas"]["all"]) if sampled else "")
            cells += [_cell(greedy["areas"][domain]) for domain in DOMAINS]
            lines.append(
                f"| {greedy['family']} | " + " | ".join(cells) + f" | {greedy['hand_overs']:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def _cell(areas: dict[str, float]) -> str:
    return " / ".join(f"{100 * areas[key]:.1f}" for key in COSTS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=60, help="problems of each domain")
    parser.add_argument("--only", default="", help="groups whose name holds this")
    parser.add_argument("--bank", type=Path, default=Path("results/signals-bank"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/signals"))
    args = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    pair = Pair.from_pretrained(*pair_paths())
    tasks = demo_tasks(DOMAINS, args.n, "calibration")
    result: dict[str, Any] = {"n": args.n, "pair": pair.fingerprint, "runs": {}}
    for name, temperature in (("greedy", 0.0), ("T = 0.7", 0.7)):
        begin = time.process_time()
        bank = StepBank(pair, tasks, temperature)
        path = args.bank / f"{pair.fingerprint}-{args.n}-{temperature:g}.jsonl"
        bank.load(path)
        try:
            result["runs"][name] = search(bank, name, args.only)
        finally:
            bank.save(path)
        seconds = time.process_time() - begin
        print(f"{name}: {len(bank.steps)} steps, {seconds:.0f} s of one core")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "signals.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "signals.md").write_text(markdown(result))
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
