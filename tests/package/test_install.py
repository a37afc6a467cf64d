"""What the README's commands install, beside every torch from 2.10 to the newest: does it resolve?

Nothing is installed. What torch asks for on Linux is recorded in torch_releases.json (written by
torch_releases.py), and the default tests hold our requirements against it, for every Python and
machine. A slow one asks the package index itself, for metadata only, and so sees what our other
requirements ask for in their turn.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from support import torch_releases
from support.backends import interpreter_fault

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RECORD = torch_releases.load()
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
PLATFORM = "x86_64-manylinux_2_28"


# ---- what is asked for ------------------------------------------------------------------------


def of_project(extra: str = "") -> list[str]:
    return [*PROJECT["project"]["dependencies"], *(EXTRAS[extra] if extra else [])]


def of_file(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def of_make(target: str) -> tuple[list[str], list[str]]:
    """What the pip commands of a target install in an empty folder, and the files they read."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "CONSTRAINTS"))}
    said = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", target, "VENV=not-there"],
        cwd=ROOT, env=environment, check=True, capture_output=True, text=True,
    ).stdout.replace("\\\n", " ")  # fmt: skip
    asked, files = [], []
    for line in said.splitlines():
        if "-m pip " not in line:
            continue
        words = iter(shlex.split(line, comments=True))
        assert "install" in words  # and all up to it is left behind
        for word in words:
            if word in ("-c", "--constraint"):
                files.append(next(words))
            elif word in ("-e", "--editable"):
                asked += of_project(next(words).removeprefix(".").strip("[]"))
            elif not word.startswith("-"):
                asked.append(word)
    assert asked
    return [*asked, *(line for file in files for line in of_file(ROOT / file))], files


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build backend as an interpreter sees it that has no torch."""
    monkeypatch.setattr("sysconfig.get_path", lambda _name: "/nowhere")
    monkeypatch.delenv("STEER_SKIP_EXT", raising=False)
    spec = importlib.util.spec_from_file_location("backend", ROOT / "_build_backend/backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_isolated_build(backend: ModuleType) -> list[str]:
    return [*PROJECT["build-system"]["requires"], *backend.get_requires_for_build_wheel()]


# ---- beside torch's own requirements, by the record --------------------------------------------


def clashes(asked: Iterable[str], torch: str, python: str, machine: str) -> list[str]:
    """Packages of which no release satisfies both `asked` and that torch, on Linux."""
    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine,
        "platform_system": "Linux", "sys_platform": "linux", "os_name": "posix", "extra": "",
    }  # fmt: skip
    wanted: dict[str, set[SpecifierSet]] = defaultdict(set)
    for text in [*asked, f"torch=={torch}", *RECORD["torch"][torch]["requires_dist"]]:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            wanted[canonicalize_name(requirement.name)].add(requirement.specifier)
    found = []
    for name, specifiers in wanted.items():
        told = sorted((specifier for specifier in specifiers if len(specifier)), key=str)
        if len(told) < 2:
            continue
        versions = {**RECORD["releases"], "torch": RECORD["torch"]}.get(name)
        assert versions, f"{name}: record its releases (SHARED in torch_releases.py)"
        if not any(all(s.contains(v) for s in told) for v in versions):
            found.append(f"{name}: {' and '.join(map(str, told))}")
    return found


def pythons(torch: str) -> list[str]:
    supported = SpecifierSet(RECORD["torch"][torch]["requires_python"])
    return [python for python in PYTHONS if supported.contains(f"{python}.0")]


def assert_resolves(asked: Iterable[str], torches: Iterable[str]) -> None:
    asked = list(asked)
    for torch in torches:
        for python in pythons(torch):
            for machine in MACHINES:
                assert clashes(asked, torch, python, machine) == [], (torch, python, machine)


@pytest.mark.parametrize("target", ["demo", "test", "test-slow", "test-oldest"])
def test_make_sets_up_beside_every_torch(target: str) -> None:
    asked, files = of_make(target)
    names = [Requirement(line).name for file in files for line in of_file(ROOT / file)]
    assert not {"torch", "triton"} & set(names), "torch names the Triton that it goes with"
    assert "torch" in asked  # whichever is the newest
    assert_resolves(asked, RECORD["torch"])


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_the_package_goes_beside_every_torch(extra: str) -> None:
    assert_resolves(of_project(extra), RECORD["torch"])


def test_an_isolated_build_goes_beside_every_torch(backend: ModuleType) -> None:
    asked = of_isolated_build(backend)
    assert "torch>=2.10" in asked
    assert_resolves(asked, RECORD["torch"])


@pytest.mark.parametrize(
    ("installed", "used"),
    [("2.9.1", False), ("2.10.0", True), ("2.13.0+cpu", True), ("3.0.0", True), ("2", False)],
)
def test_a_build_uses_the_installed_torch(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: str, used: bool
) -> None:
    metadata = tmp_path / f"torch-{installed}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {installed}\n")
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    assert (backend._find_torch() is not None) == used


def test_a_pinned_triton_is_seen_to_clash() -> None:
    """As `make demo` once had it; so these are tests that can fail."""
    assert clashes(["torch==2.13.0", "triton==3.9.0"], "2.13.0", "3.12", "x86_64") == [
        "triton: ==3.7.1 and ==3.9.0"
    ]
    assert clashes(["setuptools>=82"], "2.11.0", "3.12", "x86_64")
    assert clashes(["torch>=2.11"], "2.10.0", "3.12", "x86_64")


def test_the_oldest_torch_is_one_number(backend: ModuleType) -> None:
    """In the requirements, the build backend, the ABI that is compiled for, and the record."""
    (declared,) = (r for r in map(Requirement, of_project()) if r.name == "torch")
    major, minor = backend.OLDEST_TORCH
    assert str(declared.specifier) == f">={major}.{minor}"
    target = re.search(r'TORCH_TARGET = "0x(\w+)"', (ROOT / "setup.py").read_text())
    assert target is not None
    assert int(target[1], 16) == major << 56 | minor << 48
    assert target[1] in (ROOT / "tests/cpp/torch_headers.sh").read_text()
    assert next(iter(RECORD["torch"])).startswith(f"{major}.{minor}.")


# ---- by the package index itself ---------------------------------------------------------------


def resolve(asked: Iterable[str], python: str, folder: Path) -> dict[str, str]:
    """Name to version of all that `asked` takes to install on Linux, from metadata alone."""
    from uv import find_uv_bin

    (folder / "asked.txt").write_text("\n".join(asked) + "\n")
    command = [find_uv_bin(), "pip", "compile", "asked.txt", "--quiet", "--no-header"]
    command += ["--no-annotate", "--python-version", python, "--python-platform", PLATFORM]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode and "Failed to fetch" in done.stderr and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    pairs = (line.partition(";")[0].strip().split("==") for line in done.stdout.splitlines())
    return {canonicalize_name(name): version for name, version in pairs}


def last_of_each_minor() -> list[str]:
    """2.10.0, 2.11.0, 2.12.1 and so on."""
    return list({tuple(version.split(".")[:2]): version for version in RECORD["torch"]}.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "torch",
    [
        last_of_each_minor()[0],
        *(pytest.param(v, marks=pytest.mark.exhaustive) for v in last_of_each_minor()[1:]),
        "newest",
    ],
)
def test_the_index_resolves_all_of_it(torch: str, tmp_path: Path) -> None:
    """Of the CUDA builds of torch, which bring a Triton; with every extra."""
    asked = {*of_make("test")[0], *(line for extra in EXTRAS for line in of_project(extra))}
    got = resolve(
        sorted(asked) if torch == "newest" else [*sorted(asked), f"torch=={torch}"],
        "3.12", tmp_path,
    )  # fmt: skip
    assert any(name.startswith("nvidia-") for name in got)
    if torch == "newest":
        newest = list(RECORD["torch"])[-1]
        assert SpecifierSet(f">={newest}").contains(got["torch"])
    else:
        assert got["torch"] == torch
        named = next(x for x in RECORD["torch"][torch]["requires_dist"] if x.startswith("triton"))
        assert Requirement(named).specifier.contains(got["triton"])


@pytest.mark.slow
def test_the_index_resolves_an_isolated_build(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = of_isolated_build(backend)
    monkeypatch.undo()
    got = resolve(asked, "3.12", tmp_path)
    assert {"torch", "numpy", "ninja", "setuptools"} <= set(got)


# ---- Triton's interpreter ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("triton", "numpy", "works"),
    [
        ("3.6.0", "2.4.0", False),
        ("3.6.0", "2.5.2", False),
        ("3.6.0", "2.3.5", True),
        ("3.7.0", "2.5.2", True),
        (None, "2.5.2", True),  # no Triton, no test of it
    ],
)
def test_a_broken_interpreter_is_named(triton: str | None, numpy: str, works: bool) -> None:
    def version(name: str) -> str:
        found = {"triton": triton, "numpy": numpy}[name]
        if found is None:
            raise PackageNotFoundError(name)
        return found

    fault = interpreter_fault(version)
    assert (fault is None) == works
    if fault is not None:
        assert f"Triton {triton}" in fault
        assert f"numpy {numpy}" in fault
        assert "numpy<2.4" in fault
