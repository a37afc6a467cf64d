"""`steer simulate` beside what it foretells: this package's loop, or vLLM.

Passes are timed by themselves, and then answers of the demo pair are written, at 1 and at 16 at a
time; both take turns, so that a machine that is busy is as busy for either, and medians count. The
simulation is given the timed passes and the traces, and foretells the throughput. Tokens and calls
have to be exact. Printed is what was measured, what was foretold, and their ratio.

    python benchmarks/simulation.py --json simulation.json
    python benchmarks/simulation.py --engines                  # two engines of vLLM in this process
    python benchmarks/simulation.py --urls http://127.0.0.1:8101 http://127.0.0.1:8102

The loop and the engines are timed by CPU time, servers by the clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import simulation_engines as engines
from steer_decode import Pair, Router
from steer_decode.bench.kernels.measure import machine
from steer_decode.bench.passes.measure import PassesPlan, measure
from steer_decode.cli.models import DEMO, Models
from steer_decode.cli.routers import make_policy
from steer_decode.core.events import Done, Failed, RoutedOutput
from steer_decode.core.transcript import WRITERS
from steer_decode.decode.pool import Pool
from steer_decode.demo import problems
from steer_decode.simulation.arrivals import Load
from steer_decode.simulation.calls import Gate
from steer_decode.simulation.fleet import FleetPlan, PoolPlan
from steer_decode.simulation.passes import PassTime, Timed, fit
from steer_decode.simulation.run import simulate
from steer_decode.simulation.script import of_trace

AT_ONCE = (1, 16)
Asked = Callable[[int], Sequence[str]]  # prompts, by how many are answered at once
TOKENS = 128
OVER_VLLM = (
    "steer:threshold=15.3:large_threshold=21"  # of two unmodified engines: no look, no draft
)


@dataclass
class Measured:
    """Answers, and seconds of each round that wrote them."""

    outputs: list[RoutedOutput]
    seconds: list[float]


def write(router: Router, prompts: Sequence[str], rows: int, now: Callable[[], float]) -> Measured:
    """Answer all prompts, ``rows`` at a time; a row that ends is followed by the next prompt."""
    pool = Pool(router, max_rows=rows, part=None)
    left, numbers, outputs = list(prompts), dict[int, int](), dict[int, RoutedOutput]()
    begin = now()
    while left or len(pool):
        while left and len(pool) < rows:
            numbers[pool.add(left.pop(0), max_new_tokens=TOKENS)] = len(numbers)
        for key, event in pool.iterate():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                outputs[numbers[key]] = event.output
    return Measured([outputs[i] for i in range(len(prompts))], [now() - begin])


def line(name: str, rows: int, found: Measured, plan: FleetPlan) -> dict[str, Any]:
    """What was measured and foretold of one router at so many rows."""
    scripts = [of_trace(output.trace, name) for output in found.outputs]
    told = simulate(scripts, plan, Load("closed", rows), len(scripts), warm=0, shuffled=False)
    seconds = statistics.median(found.seconds)
    processed = {w: sum(getattr(o.cost, w).processed for o in found.outputs) for w in WRITERS}
    calls = {w: told.calls[w] for w in WRITERS}
    return {
        "router": name,
        "calls": [steps_of(found.outputs) if plan.gate == "none" else calls, calls],
        "rows": rows,
        "answers_per_second": len(scripts) / seconds,
        "rounds": [len(scripts) / each for each in found.seconds],
        "foretold": told.answers / told.seconds,
        "ratio": told.answers / told.seconds * seconds / len(scripts),
        "hand_overs": [sum(o.cost.hand_overs for o in found.outputs), told.hand_overs],
        "tokens": [sum(len(o.token_ids) for o in found.outputs), told.tokens],
        "processed": [processed, told.processed],
    }


def steps_of(outputs: Sequence[RoutedOutput]) -> dict[str, int]:
    """Steps of either model, each of which is a call to an engine without the gate."""
    steps = [step for output in outputs for step in output.trace.steps]
    return {w: sum(step.writer == w for step in steps) for w in WRITERS}


def timed(pair: Pair, texts: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Passes of the loop in this process."""
    return measure(pair, texts, PassesPlan(turns=3))


def fitted(rounds: Sequence[dict[str, list[dict[str, float]]]]) -> dict[str, PassTime]:
    """A line for either model, by the median of each pass over all rounds."""
    lines = {}
    for writer in WRITERS:
        each = zip(*(one[writer] for one in rounds), strict=True)
        lines[writer] = fit(
            [
                Timed(int(p[0]["rows"]), int(p[0]["tokens"]), statistics.median(o["ms"] for o in p))
                for p in each
            ]
        )
    return lines


def in_process(names: Sequence[str], asked: Asked, rounds: int) -> dict[str, Any]:
    """The loop of this package, on one thread."""
    models = Models(DEMO, None, None, None, "cpu")
    pair = models.load()
    others = asked(0)
    routers = {name: Router(pair, make_policy(name, models)) for name in names}
    passes, found = [], dict[tuple[str, int], Measured]()
    for _ in range(rounds):
        passes.append(timed(pair, others))
        for name, router in routers.items():
            for rows in AT_ONCE:
                one = write(router, asked(rows), rows, time.thread_time)
                found.setdefault((name, rows), Measured(one.outputs, [])).seconds.extend(
                    one.seconds
                )
    times = fitted(passes)
    gate: Gate = "loop"
    plan = FleetPlan({w: PoolPlan(times[w], block=1) for w in WRITERS}, gate, one_device=True)
    return {
        "passes": {w: str(time) for w, time in times.items()},
        "lines": [line(name, rows, one, plan) for (name, rows), one in found.items()],
    }


def over_engines(names: Sequence[str], asked: Asked, rounds: int) -> dict[str, Any]:
    """Two engines of vLLM in this process."""
    passes, alone, found = engines.measured(names, asked, rounds, AT_ONCE, write)
    times = fitted(passes)
    pools = {w: PoolPlan(times[w], rows=16, block=engines.BLOCK) for w in WRITERS}
    plan = FleetPlan(pools, one_device=True)
    lines = [line(writer, 1, one, plan) for writer, one in alone.items()]
    beyond = sum(
        len(one.outputs) * (1 / told["answers_per_second"] - 1 / told["foretold"])
        for told, one in zip(lines, alone.values(), strict=True)
    )
    calls = sum(told["calls"][1][w] for told in lines for w in WRITERS)
    call = max(0.0, 1e3 * beyond / calls)
    plan = replace(plan, call_ms=call, front_ms=call)
    return {
        "passes": {w: f"{time}; {call:.2f} ms a call" for w, time in times.items()},
        "lines": [line(name, rows, one, plan) for (name, rows), one in found.items()],
    }


def prompts_of(problems_each: int) -> Asked:
    """Prompts for so many rows, others for each number; 0 rows for what is timed beforehand."""

    def asked(rows: int) -> list[str]:
        begin = (0, *AT_ONCE).index(rows) * problems_each
        domains = ("math", "qa", "planning")
        return [
            problem.prompt
            for domain in domains
            for problem in problems(domain, begin + problems_each)[begin:]
        ]

    return asked


def main() -> None:
    """Measure, foretell, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", action="store_true", help="two engines of vLLM in process")
    parser.add_argument("--urls", nargs=2, help="of a small and a large model's vLLM server")
    parser.add_argument("--routers", help="NAME,NAME")
    parser.add_argument("--problems", type=int, default=16, help="of each domain")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    vllm = args.engines or args.urls
    names = (args.routers or (OVER_VLLM if vllm else "steer,first-token")).split(",")
    asked = prompts_of(args.problems)
    if args.urls:
        import simulation_servers as servers

        found = servers.measured(args.urls, names, asked, args.rounds, AT_ONCE, write, line)
    else:
        found = (over_engines if args.engines else in_process)(names, asked, args.rounds)
    print(machine("cpu"))
    for writer, text in found["passes"].items():
        print(f"{writer}: {text}")
    for one in found["lines"]:
        exact = all(one[key][0] == one[key][1] for key in ("tokens", "calls", "processed"))
        print(
            f"{one['router']}, {one['rows']} at once: measured {one['answers_per_second']:.2f} "
            f"answers a second, foretold {one['foretold']:.2f}, ratio {one['ratio']:.2f}; calls "
            f"and tokens {'exact' if exact else [one['calls'], one['processed']]}"
        )
    if args.json:
        args.json.write_text(json.dumps({"machine": machine("cpu"), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
