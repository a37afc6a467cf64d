"""`make gpu-check`: build, test and measure the GPU side on a machine with an NVIDIA card.

    python benchmarks/gpu_check.py              all stages, under eight minutes
    python benchmarks/gpu_check.py --quick      build, smoke and measure, with fewer cases
    python benchmarks/gpu_check.py --only smoke,measure
    python benchmarks/gpu_check.py --card       prints the card; one sentence and status 1 without
    python benchmarks/gpu_check.py --rehearse --out DIR
                                                the same code on small inputs, without a card

It runs with the Python it is started with, installs nothing and needs no network. Everything goes
to --out DIR, or to benchmarks/results/CARD-DATE; `summary.md` there says how each stage went. The
status is 0 if every stage passed. The stages are described in gpu/__init__.py.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path

from gpu import machine, runner
from gpu.files import versions
from gpu.stages import BUDGET, NAMES, QUICK, ROOT, chosen, stages

RESULTS = ROOT / "benchmarks" / "results"


def main(arguments: list[str] | None = None) -> int:
    """Runs the check; returns the exit status."""
    options = parse(arguments)
    try:
        name = "no card, a rehearsal" if options.rehearse else machine.card()
        print(f"gpu-check: {name}", flush=True)
        if options.card:
            return 0
        machine.check_python(cuda=not options.rehearse)
    except machine.Missing as reason:
        print(f"gpu-check: {reason}.", file=sys.stderr)
        return 1
    folder = options.out
    if folder is None:
        day = datetime.date.today().isoformat()
        folder = machine.fresh_folder(RESULTS, machine.file_name(name, day))
    names = options.only or (QUICK if options.quick else NAMES)
    found = chosen(stages(folder, rehearsal=options.rehearse, quick=options.quick), names)
    head = {
        "card": name,
        "date": datetime.date.today().isoformat(),
        "rehearsal": options.rehearse,
        "note": "figures of a rehearsal are of no GPU" if options.rehearse else "",
        "python": sys.executable,
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    try:
        check = runner.Check(found, folder, head, options.budget, ROOT)
    except OSError as error:
        print(f"gpu-check: cannot write to {folder}: {error.strerror}.", file=sys.stderr)
        return 1
    try:
        passed = check.run()
    except runner.Interrupted as end:
        print(f"gpu-check: ended early; what there is lies in {folder}", file=sys.stderr)
        return 128 + int(end.args[0])
    print(check.markdown())
    print(f"gpu-check: {'every stage passed' if passed else 'not every stage passed'}: {folder}")
    return 0 if passed else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument("--card", action="store_true", help="print the card and stop")
    parser.add_argument(
        "--quick", action="store_true", help=f"{', '.join(QUICK)} alone, with fewer cases"
    )
    parser.add_argument(
        "--only", type=_names, help=f"some stages, as in {','.join(NAMES[:2])}: {', '.join(NAMES)}"
    )
    parser.add_argument("--budget", type=_seconds, default=BUDGET, help="seconds for all stages")
    parser.add_argument(
        "--out",
        type=Path,
        default=os.environ.get("OUT") or None,
        help="the folder for all results; also OUT in the environment",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="without a card: small inputs on the CPU, marked as a rehearsal; needs --out",
    )
    options = parser.parse_args(arguments)
    if options.rehearse and options.out is None:
        parser.error("--rehearse needs --out DIR: its figures are not results")
    if options.out is not None:
        options.out = options.out.resolve()
    return options


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        wrong = repr(unknown[0]) if unknown else "no stage"
        raise argparse.ArgumentTypeError(f"{wrong}: choose from {', '.join(NAMES)}")
    return names


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, got {text!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
