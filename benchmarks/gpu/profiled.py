"""One call of every op, for a profiler around this process; with --under, under Nsight Compute.

Every op is called twice before, so that it is compiled; what the profiler records lies between the
two marks. B = 64 and V = 151 936: the middle of the sizes that the targets name.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from .files import header, options, write_json
from .subjects import subjects

SIZES = {"cuda": (64, 151_936), "cpu": (2, 1000)}


def main() -> int:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--under", help="ncu: run this under it")
    chosen = parser.parse_args()
    if chosen.under:
        return supervise(chosen.under, chosen.out)
    batch, vocab = SIZES[chosen.device]
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = subjects(chosen.device, batch, vocab, 20)
        for subject in found:
            for _ in range(2):
                subject.spoil(subject.call())
        mark(chosen.device, "start")
        for subject in found:
            subject.call()
        mark(chosen.device, "stop")
    names = [subject.name for subject in found]
    write_json(chosen.out, {**header(chosen.device), "batch": batch, "vocab": vocab, "ops": names})
    print(f"profiled: {', '.join(names)} at B = {batch}, V = {vocab}")
    return 0


def supervise(ncu: str, out: Path) -> int:
    """This module under Nsight Compute: FILE.ncu-rep for its window, FILE.txt to be read here."""
    report = out.with_suffix(".ncu-rep")
    command = [ncu, "--profile-from-start", "off", "--clock-control", "none", "--set", "full"]
    command += ["--force-overwrite", "--export", str(report)]
    command += [sys.executable, "-m", "gpu.profiled", "--out", str(out)]
    print(*command, flush=True)
    status = subprocess.run(command, check=False).returncode
    if not report.exists():
        print(f"{ncu} ended with status {status} and wrote no report; its words are above")
        return 1
    with out.with_suffix(".txt").open("wb") as file:
        details = [ncu, "--import", str(report), "--page", "details"]
        subprocess.run(details, stdout=file, stderr=subprocess.STDOUT, check=False)
    print(f"{report.name}, and {out.stem}.txt, with status {status}")
    return status


def mark(device: str, which: str) -> None:
    """Starts or stops the profiler that runs this process, if any."""
    if device == "cuda":
        torch.cuda.synchronize()
        getattr(torch.cuda.profiler, which)()


if __name__ == "__main__":
    sys.exit(main())
