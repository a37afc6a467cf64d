"""Every op and its peers: device time, time in a graph, and wall clock of a call.

What the targets name: bfloat16, V = 151 936, k = 20, B = 1, 8, 64, 256, all with a cold L2;
logit_stats, sample_logits (plain, greedy, top_p=0.95, top_k=50), accept_drafts, kv_append_, and
step_update_. The peers are torch, torch.compile (B = 1 and 256 alone, where nothing is cut), and
libraries that are installed. Floors are measured too: the card's copy bandwidth, and kernels that
do nothing.

The JSON file is whole after every case and clock. A call that breaks the device ends the process;
it is begun again behind that case.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from steer_decode.bench.kernels.measure import by_clock
from steer_decode.bench.kernels.plan import CLOCKS, OPS, SAMPLINGS, Case, KernelPlan
from steer_decode.bench.kernels.timer import medians

from .files import header, options, write_json, write_whole
from .smoke import alive
from .table import markdown

COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 20}
SECONDS = {"cuda": 0.5, "cpu": 0.01}
COMPILED = (1, 256)  # batches


def plan(device: str, quick: bool) -> KernelPlan:
    small = device == "cpu"
    return KernelPlan(
        batches=(1, 8) if quick or small else (1, 8, 64, 256),
        vocabs=(1000,) if small else (151_936,),
        dtypes=("bfloat16",),
        k=20,
        device=device,
        samplings=tuple(SAMPLINGS),
    )


def compiled(case: Case, quick: bool) -> bool:
    wanted = case.op == "logit_stats" or case.sampling == "plain"
    return wanted and case.device == "cuda" and not quick and case.batch in COMPILED


def main() -> int:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="B = 1 and 8, and no torch.compile")
    parser.add_argument("--seconds", type=float, help="for each case and clock")
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    seconds = chosen.seconds or SECONDS[chosen.device]
    cases = plan(chosen.device, chosen.quick).cases()
    if chosen.resume:
        found = json.loads(chosen.out.read_text(encoding="utf-8"))
    else:
        found = {**header(chosen.device), "floors": {}, "rows": [], "left_out": {}, "errors": {}}
        found["done"] = []
        found["of"] = [str(case) for case in cases]
    torch.set_num_threads(1)  # of the host; a case sets its own
    try:
        if not found["floors"]:
            found["floors"] = floors(chosen.device, seconds)
            print("floors:", found["floors"], flush=True)
        for case in cases:
            if str(case) not in found["done"]:
                one(case, seconds, chosen.quick, found, lambda: save(chosen.out, found))
    finally:
        save(chosen.out, found)
    print(markdown(found))
    return conclude(found)


def one(
    case: Case, seconds: float, quick: bool, found: dict[str, Any], keep: Callable[[], None]
) -> None:
    """Adds the rows of a case, clock by clock; what is wrong with it stands under "errors"."""
    name = str(case)
    found["done"].append(name)

    def left_out(peer: str, reason: str) -> None:
        found["left_out"].setdefault(f"{case.op}: {peer}", reason)

    try:
        for rows in by_clock(
            case,
            seconds,
            compiled=compiled(case, quick),
            cold_l2=case.device == "cuda",
            clocks=CLOCKS_IN_ORDER,
            left_out=left_out,
        ):
            found["rows"] += [row.as_dict() for row in rows]
            keep()
            times = [f"{row.peer} {row.peer_us:.1f}" for row in rows]
            times += [f"{row.clock}, us: steer {row.median_us:.1f}" for row in rows[:1]]
            print(f"{name}, {', '.join(reversed(times))}", flush=True)
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        found["errors"][name] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        keep()
        if not alive(case.device):
            print("the device takes no more calls: beginning again behind this case", flush=True)
            arguments = [a for a in sys.argv[1:] if a != "--resume"]
            os.execv(sys.executable, [sys.executable, "-m", "gpu.measure", *arguments, "--resume"])
    torch.cuda.empty_cache()


CLOCKS_IN_ORDER = ("events", "wall", "graph")  # what is likeliest to fail last
assert set(CLOCKS_IN_ORDER) == set(CLOCKS)


def floors(device: str, seconds: float) -> dict[str, Any]:
    """Below what no call can be: a copy of much memory, and kernels that do nothing.

    Returns:
        `copy_gbps`, bytes read and written over the time; and by clock the microseconds of a kernel
        that torch launches, and of one that Triton does.
    """
    found: dict[str, Any] = {"copy_gbps": copy_gbps(COPY_BYTES[device], device, seconds)}
    try:
        found |= of_nothing(device, seconds)
    except Exception:  # it costs a line of the table, and no case
        traceback.print_exc(file=sys.stdout)
    return found


def of_nothing(device: str, seconds: float) -> dict[str, dict[str, float]]:
    calls: dict[str, Callable[[], object]] = {"empty kernel": lambda: None}
    if device == "cuda":
        calls = {"empty kernel": lambda: torch.cuda._sleep(0), "empty Triton kernel": in_triton()}
        for call in calls.values():
            call()
    clocks = CLOCKS_IN_ORDER if device == "cuda" else ("host",)
    return {clock: medians(calls, seconds, device=device, clock=clock) for clock in clocks}


def copy_gbps(size: int, device: str, seconds: float) -> float:
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    us = medians({"copy": lambda: target.copy_(source)}, seconds, device=device)["copy"]
    return 2 * size / us / 1e3


def in_triton() -> Callable[[], object]:
    from .empty import launch

    return launch


def save(out: Path, found: dict[str, Any]) -> None:
    write_json(out, found)
    write_whole(out.with_suffix(".md"), markdown(found))


def conclude(found: dict[str, Any]) -> int:
    """Prints the last line and returns the status."""
    ops = {row["op"] for row in found["rows"]}
    for name, error in found["errors"].items():
        print(f"{name}: {error}")
    for peer, reason in found["left_out"].items():
        print(f"left out: {peer}: {reason}")
    words = f"{len(found['rows'])} rows of {len(found['done'])} cases"
    if found["errors"] or ops != set(OPS):
        print(f"{words}, {len(found['errors'])} of which failed: {', '.join(found['errors'])}")
        return 1
    print(words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
