"""Every kernel once, at sizes that a sanitizer can bear; with --under, under its tools.

V = 6221 is odd: rows start off 16 bytes, several programs share a row, and the last tile is ragged.
logit_stats, sample_logits, the search behind its cuts and accept_drafts reduce through shared
memory, which is what racecheck looks at. The definition is computed on the CPU, or torch's kernels
would be checked too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from .files import header, options, write_json
from .stages import TOOLS
from .subjects import subjects

BAD = 9  # exit status of the sanitizer where it finds something
VOCAB, K = 6221, 20


def main() -> int:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--under", help="compute-sanitizer: run this under each of its tools")
    chosen = parser.parse_args()
    return supervise(chosen.under, chosen.out) if chosen.under else run(chosen.device, chosen.out)


def run(device: str, out: Path) -> int:
    """All ops in both kinds of dtype, each against its definition."""
    ran = []
    torch.set_num_threads(1)
    with torch.inference_mode():
        for dtype, batch in ((torch.bfloat16, 3), (torch.float32, 8)):
            for subject in subjects(device, batch, VOCAB, K, dtype=dtype, judge="cpu"):
                subject.check(tuple(tensor.cpu() for tensor in subject.call()))
                ran.append(f"{subject.name} {str(dtype).removeprefix('torch.')}")
    write_json(out, {**header(device), "ran": ran})
    print(f"{len(ran)} calls, all right")
    return 0


def supervise(sanitizer: str, out: Path) -> int:
    """This module under each tool, all at a time: they share the card and not a process."""
    # Without torch's cache every tensor is an allocation of its own, whose ends are watched.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    running = {}
    for tool in TOOLS:
        log = out.with_name(f"{out.stem}-{tool}.log")
        command = [sanitizer, "--tool", tool, "--error-exitcode", str(BAD), sys.executable]
        command += ["-m", "gpu.sanitized", "--out", str(out.with_name(f"{out.stem}-{tool}.json"))]
        with log.open("wb") as file:
            running[tool] = (
                log,
                subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT),
            )
    statuses = {}
    for tool, (log, process) in running.items():
        statuses[tool] = process.wait()
        print(f"--- {tool}: status {statuses[tool]}")
        print(log.read_text(encoding="utf-8", errors="replace")[-6000:], flush=True)
    write_json(out, {**header("cuda"), "sanitizer": sanitizer, "statuses": statuses})
    bad = [f"{tool} ({status})" for tool, status in statuses.items() if status]
    print(f"not clean: {', '.join(bad)}" if bad else f"clean under {' and '.join(TOOLS)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
