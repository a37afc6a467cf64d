"""`make gpu-check`: build, test and measure the GPU side on a machine with an NVIDIA card.

    python benchmarks/gpu_check.py --card       prints the card; one sentence and status 1 without
    python benchmarks/gpu_check.py              builds the CUDA extension in place, runs every test
                                                marked gpu and the GPU benchmarks
    python benchmarks/gpu_check.py --quick      the same with the short set of benchmarks

Writes benchmarks/results/CARD-DATE.json, the rows of `steer bench kernels`, and a Markdown table of
the same name. The status is 0 if all went well; failed tests do not keep it from measuring, but the
table says so and the status is 1. Needs nothing but Python until the card is found.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
K = "20"  # the k of the targets for a GPU


def card() -> str:
    """The name of the first card, as nvidia-smi gives it; ends the process where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        refuse("needs an NVIDIA card, and this machine has no nvidia-smi")
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    names = result.stdout.strip().splitlines()
    if result.returncode or not names:
        refuse("needs an NVIDIA card, and nvidia-smi finds none")
    return names[0].strip()


def refuse(reason: str) -> NoReturn:
    sys.exit(f"gpu-check: {reason}.")


def run(command: Sequence[str], **environment: str) -> tuple[int, str]:
    """Runs a command in the repository, shows what it prints, and returns its status and that."""
    print("gpu-check:", *command, flush=True)
    paths = [str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
    inherited = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, env=inherited, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def build() -> None:
    """The CUDA extension in place, and whether it loads and sees the card."""
    status, _ = run([sys.executable, "setup.py", "build_ext", "--inplace"], STEER_FORCE_CUDA="1")
    if status:
        refuse("the CUDA extension does not build; the compiler's words are above")
    probe = (
        "import json, torch, steer_kernels; "
        "print(json.dumps([torch.cuda.is_available(), steer_kernels.build_info()['cuda']]))"
    )
    status, printed = run([sys.executable, "-c", probe])
    if status:
        refuse("steer_kernels does not import after the build")
    sees, cuda = json.loads(printed.splitlines()[-1])
    if not sees:
        refuse("torch does not see the card: install a CUDA build of torch")
    if cuda is None or "error" in cuda:
        refuse(f"the CUDA extension does not load: {cuda}")


def tests() -> tuple[bool, str]:
    """Every test marked gpu, the slow ones too; whether they passed, and pytest's last line."""
    status, printed = run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    )
    lines = printed.strip().splitlines()
    return status == 0, lines[-1].strip("= ") if lines else "pytest printed nothing"


def measure(path: Path, quick: bool) -> bool:
    """The GPU benchmarks into a JSON file, with a cold L2 cache as in the targets."""
    command = [sys.executable, "-m", "steer_decode", "bench", "kernels", "--device", "cuda"]
    command += ["--k", K, "--cold-l2", "--json", str(path), *(["--quick"] if quick else [])]
    status, _ = run(command)
    return status == 0


def write_table(name: str, path: Path, tested: str, whole: bool) -> Path:
    """Markdown beside the JSON: what was tested, and the table of every op."""
    sys.path[:0] = [str(ROOT), str(ROOT / "python")]
    from steer_decode.bench.report import markdown

    rows = json.loads(path.read_text(encoding="utf-8"))
    state = "" if whole else "\n**The measurements were cut short.**\n"
    text = markdown(rows, name) + f"\nEvery call with a cold L2 cache. Tests: {tested}.\n{state}"
    table = path.with_suffix(".md")
    table.write_text(text, encoding="utf-8")
    return table


def file_name(name: str, day: datetime.date) -> str:
    """`nvidia-h100-80gb-hbm3-2026-01-31`."""
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{day.isoformat()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", action="store_true", help="print the card and stop")
    parser.add_argument("--quick", action="store_true", help="the short set of benchmarks")
    options = parser.parse_args()
    name = card()
    print(f"gpu-check: {name}", flush=True)
    if options.card:
        return
    build()
    passed, tested = tests()
    path = RESULTS / f"{file_name(name, datetime.date.today())}.json"
    whole = measure(path, options.quick)
    if not path.exists():
        refuse("nothing was measured; the reason is above")
    table = write_table(name, path, tested, whole)
    print(f"gpu-check: wrote {path.relative_to(ROOT)} and {table.name}; tests: {tested}")
    sys.exit(0 if passed and whole else 1)


if __name__ == "__main__":
    main()
