"""The stages of a check, in order of worth: what is cut off at the end is missed least."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from .machine import tool
from .runner import Stage

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ("memcheck", "racecheck")  # of compute-sanitizer
PATIENCE = 5.0  # a rehearsal may run on a small machine beside other work
BUDGET = 465.0  # seconds for everything: under eight minutes, the start of Python included
WRONG = 3  # exit status of smoke where an op returns wrong results
NAMES = ("build", "smoke", "measure", "profile", "ahead", "tests", "sanitize")
QUICK = NAMES[:3]


def stages(folder: Path, *, rehearsal: bool = False, quick: bool = False) -> list[Stage]:
    """All of them.

    Args:
        folder: where they write.
        rehearsal: on the CPU and small, without the tools that look at a card.
        quick: measures B = 1 and 8 alone, and no torch.compile.
    """
    python = sys.executable
    where = ("--device", "cpu") if rehearsal else ()

    def module(name: str, file: str, *more: str) -> tuple[str, ...]:
        return (python, "-m", f"gpu.{name}", *where, "--out", str(folder / file), *more)

    sanitizer = module("sanitized", "sanitize.json")
    profile = module("profiled", "profile.json")
    if not rehearsal:
        profile = (*profile, "--under", tool("ncu") or "ncu")
        sanitizer = (*sanitizer, "--under", tool("compute-sanitizer") or "compute-sanitizer")
    found = [
        Stage(
            "build",
            "versions, and the extensions for this card",
            module("build", "build.json"),
            110,
            ("build.json",),
        ),
        Stage(
            "smoke",
            "every op against float64, and 100 replays over poisoned outputs",
            module("smoke", "smoke.json"),
            75,
            ("smoke.json",),
            decisive=WRONG,
        ),
        Stage(
            "measure",
            "events, graph replay and wall clock of every op and its peers",
            module("measure", "measure.json", *(["--quick"] if quick else [])),
            150,
            ("measure.json", "measure.md"),
        ),
        Stage(
            "profile",
            "one call of every op in Nsight Compute",
            profile,
            60,
            ("profile.json", "profile.ncu-rep", "profile.txt"),
            missing="" if rehearsal or tool("ncu") else "ncu",
        ),
        Stage(
            "ahead",
            "tokens a second of the decode loop, a 0.5B shape of random weights",
            module("ahead", "ahead.json"),
            90,
            ("ahead.json", "ahead.md"),
        ),
        Stage(
            "tests",
            "the test suite, what is marked gpu and not slow",
            (python, "-m", "pytest", *_pytest(folder / "tests.xml", rehearsal)),
            160,
            ("tests.xml",),
            missing="" if find_spec("pytest") else "pytest",
        ),
        Stage(
            "sanitize",
            "memcheck and racecheck of every kernel",
            sanitizer,
            75,
            (
                "sanitize.json",
                *(f"sanitize-{tool}.{end}" for tool in TOOLS for end in ("log", "json")),
            ),
            missing="" if rehearsal or tool("compute-sanitizer") else "compute-sanitizer",
            reserve=60,  # the test suite before it may take all that is left
        ),
    ]
    patience = PATIENCE if rehearsal else 1.0
    return [_with_paths(replace(stage, seconds=patience * stage.seconds)) for stage in found]


def _pytest(report: Path, rehearsal: bool) -> list[str]:
    """Options of pytest; in a rehearsal it collects the same tests and runs none."""
    options = ["-v", "-m", "gpu and not slow", "-p", "no:cacheprovider", f"--junitxml={report}"]
    if rehearsal:
        return [*options, "-q", "-q", "--collect-only"]
    if find_spec("pytest_timeout"):
        options.append("--timeout=60")  # one test that hangs is not to cost all of them
    if find_spec("xdist"):
        options += ["-n", str(min(6, os.cpu_count() or 1))]
    return options


def _with_paths(stage: Stage) -> Stage:
    """The sources of this tree come first, and nothing is fetched from the network."""
    here = [ROOT, ROOT / "python", ROOT / "benchmarks", ROOT / "tests"]
    paths = [*map(str, here), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return replace(stage, environment=environment)


def chosen(all_stages: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    return [stage for stage in all_stages if stage.name in names]
