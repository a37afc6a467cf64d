"""Every op against its float64 definition; then 100 replays of a captured call.

bfloat16, V = 151 936, k = 20, B = 1, 8, 64, 256. What lies free in memory is overwritten before the
first call, and its outputs before every replay: whatever is not written anew shows. Replays must
give the bits of the first call. The status is 3 where a result is wrong, 1 where an op did not run.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

import torch
from steer_decode.bench.kernels.plan import Case
from steer_decode.bench.kernels.timer import captured
from steer_decode.bench.kernels.workload import backend

from .files import header, options, write_json
from .stages import WRONG
from .subjects import Outputs, Subject, overwrite, subjects

SIZES = {"cuda": ((1, 8, 64, 256), 151_936, 20, 100), "cpu": ((1, 8), 3000, 20, 3)}


def main() -> int:
    chosen = options(__doc__.splitlines()[0]).parse_args()
    found: dict[str, Any] = {**header(chosen.device), "checks": []}
    batches, vocab, k, replays = SIZES[chosen.device]
    torch.set_num_threads(1)
    with torch.inference_mode():
        for batch in batches:
            spoil_free_memory(chosen.device)
            for subject in subjects(chosen.device, batch, vocab, k):
                said = judge(subject, chosen.device, replays)
                stands = behind(subject, batch, vocab, k, chosen.device)
                if chosen.device == "cuda" and stands == "reference" and not said:
                    said = {"failed": "there is no kernel: the torch reference stands in"}
                found["checks"].append({"op": subject.name, "batch": batch, "by": stands, **said})
                write_json(chosen.out, found)
                told = said or {"right": f"{replays} replays too"}
                print(subject.name, f"B = {batch}, {stands}:", told, flush=True)
                if "failed" in said and not alive(chosen.device):
                    print("the device takes no more calls")
                    return WRONG if any("wrong" in check for check in found["checks"]) else 1
    return conclude(found["checks"])


def conclude(checks: list[dict[str, Any]]) -> int:
    """Prints the last line and returns the status."""
    wrong = [f"{check['op']} at B = {check['batch']}" for check in checks if "wrong" in check]
    failed = [f"{check['op']} at B = {check['batch']}" for check in checks if "failed" in check]
    if wrong:
        print(f"{len(checks)} checks, wrong: {', '.join(wrong)}")
        return WRONG
    if failed:
        print(f"{len(checks)} checks, did not run: {', '.join(failed)}")
        return 1
    print(f"{len(checks)} checks, all right")
    return 0


def judge(subject: Subject, device: str, replays: int) -> dict[str, str]:
    """Nothing where all is well, else what is wrong or failed, in words."""
    try:
        first = tuple(tensor.clone() for tensor in subject.call())
        try:
            subject.check(first)
        except AssertionError as error:
            return {"wrong": str(error)}
        off = replayed(subject, first, device, replays)
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        return {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}"}
    return (
        {"wrong": f"{off} of {replays} replays have other bits than the first call"} if off else {}
    )


def replayed(subject: Subject, first: Outputs, device: str, replays: int) -> int:
    """How many replays, each over spoilt outputs, differ from the first call in any bit."""
    kept: list[Outputs] = [tuple(tensor.clone() for tensor in first)]

    def call() -> None:
        kept[0] = subject.call()

    subject.spoil(kept[0])
    again = captured(call, 1).replay if device == "cuda" else call
    again()  # its outputs are those that are overwritten from here on
    off = torch.zeros((), dtype=torch.int64, device=device)
    for _ in range(replays):
        subject.spoil(kept[0])
        again()
        other = torch.zeros((), dtype=torch.bool, device=device)
        for tensor, wanted in zip(kept[0], first, strict=True):
            other |= (tensor.view(torch.uint8) != wanted.view(torch.uint8)).any()
        off += other
    return int(off)


def spoil_free_memory(device: str) -> None:
    """Overwrites blocks of many sizes and frees them, for the allocator to hand out again."""
    for size, number in ((512, 256), (4096, 64), (65_536, 32), (1 << 20, 16), (16 << 20, 4)):
        number = number if device == "cuda" else min(number, 16)
        blocks = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(number)]
        overwrite(tuple(blocks))
        del blocks


def behind(subject: Subject, batch: int, vocab: int, k: int, device: str) -> str:
    op = subject.name.split()[0]
    return backend(Case(op, "bfloat16", batch, vocab, k, 1, device))


def alive(device: str) -> bool:
    """Whether the device still works; after an illegal access no call in this process does."""
    try:
        return float(torch.ones(2, device=device).sum()) == 2.0
    except RuntimeError:
        return False


if __name__ == "__main__":
    sys.exit(main())
