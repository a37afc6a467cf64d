"""What the torches of PyPI ask for on Linux, as recorded in torch_releases.json.

Run as a script it writes the record again, from the package index that pip uses; nothing but
metadata is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_suffix(".json")
OLDEST = (2, 10)
SHARED = ("setuptools", "transformers", "triton")  # which more than one requirement speaks of


def load() -> dict[str, Any]:
    """Under "torch" what each version requires; under "releases" the newest 60 of SHARED."""
    return json.loads(RECORD.read_text())


def _versions(pip: list[str], name: str) -> list[str]:
    said = subprocess.run(
        [*pip, "index", "versions", name], check=True, capture_output=True, text=True
    ).stdout
    line = next(x for x in said.splitlines() if x.startswith("Available versions:"))
    versions = [x.strip() for x in line.partition(":")[2].split(",")]
    return [x for x in reversed(versions) if "+" not in x]


def _metadata(pip: list[str], version: str) -> dict[str, Any]:
    """Of the wheel for this machine. `===` takes no build that has the version in its name only."""
    command = [*pip, "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--report", "-", f"torch==={version}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    metadata = json.loads(said)["install"][0]["metadata"]
    asked = [x for x in metadata["requires_dist"] if "extra ==" not in x]
    return {"requires_python": metadata["requires_python"], "requires_dist": asked}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        # The newest pip, as older ones download in a dry run, too.
        subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip"], check=True)
        # What this machine caps, or has lying on its disk, is not what PyPI has.
        nothing = Path(folder, "nothing")
        nothing.touch()
        os.environ |= {"PIP_CONSTRAINT": str(nothing), "PIP_FIND_LINKS": f"{folder}/bin"}
        known = [v for v in _versions(pip, "torch") if _release(v) >= OLDEST]
        record = {
            "torch": {version: _metadata(pip, version) for version in known},
            "releases": {name: _versions(pip, name)[-60:] for name in SHARED},
        }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


if __name__ == "__main__":
    sys.exit(main())
