"""The package as a package: imports, fallbacks, build information, the wheel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.preloaded import Launch

import steer_kernels
from steer_kernels import _extension

ROOT = Path(__file__).parents[2]
PACKAGE = Path(steer_kernels.__file__).parent

needs_extension = pytest.mark.skipif(
    _extension.extension is None, reason="the C++ extension is not loaded"
)

# Imports the package with warnings recorded, runs the operator, and reports what happened.
PROBE = """
import json, sys, warnings
sys.path.insert(0, sys.argv[1])
# An editable install would find the working tree's extension for a copy that has none.
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
for name in filter(None, sys.argv[2].split(",")):
    sys.modules[name] = None  # what `import` and find_spec take for "not installed"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    before = len(caught)
    import steer_kernels
    import steer_kernels.ops.logit_stats
    logits = torch.tensor([[0.0, 1.0, 2.0], [float("nan"), 0.0, 1.0]])
    first = steer_kernels.logit_stats(logits, 2)
    again = torch.ops.steer_kernels.logit_stats(logits, 2)
    meta = torch.ops.steer_kernels.logit_stats(logits.to("meta"), 2)
try:
    torch.ops.steer_kernels.logit_stats(logits, 4)
    checked = False
except (RuntimeError, ValueError):
    checked = True
print(json.dumps({
    "file": steer_kernels.__file__,
    "warnings": [str(w.message) for w in caught[before:]],
    "ids": first.topk_ids.tolist(),
    "valid": again[5].tolist(),
    "fake": list(meta[3].shape),
    "checked": checked,
    "loaded": [m for m in ("triton", "transformers") if sys.modules.get(m)],
    "info": steer_kernels.build_info(),
}))
"""


def probe(
    launch: Launch, directory: Path, blocked: str = "triton,transformers", **more: str
) -> dict:
    """Run PROBE in a new process on the copy of the package under `directory`."""
    environment = {
        **dict.fromkeys(name for name in os.environ if name.startswith("STEER_")),
        **more,
    }
    args = ["-c", PROBE, str(directory), blocked]
    with launch(args, environment=environment, having="torch") as process:
        out, error = process.communicate()
    assert process.returncode == 0, error
    report = json.loads(out)
    assert Path(report["file"]).is_relative_to(directory)
    assert report["ids"] == [[2, 1], [0, 1]]
    assert report["valid"] == [True, False]
    assert report["fake"] == [2, 2]
    assert report["checked"]
    return report


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package without its extensions, in a directory of its own."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "steer_kernels", ignore=ignore)
    return tmp_path


def assert_one_sentence(warnings: list[str], *parts: str) -> None:
    assert len(warnings) == 1, warnings
    assert "\n" not in warnings[0]
    for part in parts:
        assert part in warnings[0]


@needs_extension
def test_import_needs_torch_only(launch: Launch) -> None:
    report = probe(launch, PACKAGE.parent)
    assert report["warnings"] == []
    assert report["loaded"] == []
    assert report["info"]["backend"] == "extension"
    assert report["info"]["triton"] is False


@needs_extension
def test_import_does_not_pull_in_optional_packages(launch: Launch) -> None:
    assert probe(launch, PACKAGE.parent, blocked="")["loaded"] == []


def test_a_missing_extension_gives_one_warning_and_the_reference(
    launch: Launch, copy: Path
) -> None:
    report = probe(launch, copy)
    assert_one_sentence(report["warnings"], "extension of steer_kernels", "it was not built")
    assert report["info"]["backend"] == "reference"
    assert report["info"]["cpu_isa"] is None
    assert report["info"]["supported_cpu_isas"] == []


@pytest.mark.parametrize("damage", ["not a library", "cut short"])
def test_a_broken_extension_gives_one_warning_and_the_reference(
    launch: Launch, copy: Path, damage: str
) -> None:
    target = copy / "steer_kernels" / "_C.abi3.so"
    if damage == "not a library":
        target.write_bytes(b"not a library")
    else:
        built = list(PACKAGE.glob("_C*.so"))
        if not built:
            pytest.skip("the C++ extension is not built")
        target.write_bytes(built[0].read_bytes()[:2000])
    report = probe(launch, copy)
    assert_one_sentence(report["warnings"], "does not load", "_C.abi3.so", "reinstalled")
    if damage == "cut short":
        assert "2000 bytes" in report["warnings"][0]
    assert report["info"]["backend"] == "reference"


def test_the_reference_can_be_asked_for(launch: Launch, copy: Path) -> None:
    report = probe(launch, copy, STEER_KERNELS_BACKEND="reference")
    assert report["warnings"] == []
    assert report["info"]["reason"] == "STEER_KERNELS_BACKEND=reference"


@needs_extension
def test_an_unknown_backend_is_named(launch: Launch) -> None:
    report = probe(launch, PACKAGE.parent, STEER_KERNELS_BACKEND="fast")
    assert_one_sentence(report["warnings"], "STEER_KERNELS_BACKEND='fast'", "auto, reference")


def test_versions_agree() -> None:
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    cmake = re.search(r"VERSION (\d+\.\d+\.\d+)", (ROOT / "CMakeLists.txt").read_text())
    assert declared is not None
    assert cmake is not None
    assert declared[1] == cmake[1] == steer_kernels.__version__


def test_build_info_can_be_written_as_json() -> None:
    info = json.loads(json.dumps(steer_kernels.build_info()))
    assert info["version"] == steer_kernels.__version__
    assert info["backend"] in ("extension", "reference")


@needs_extension
def test_only_the_stable_abi_of_torch_is_used() -> None:
    """No mangled name of at::, c10:: or torch:: may come from outside the extension."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    for library in [*PACKAGE.glob("_C*.so"), *PACKAGE.glob("_fast*.so")]:
        symbols = subprocess.run(
            [nm, "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
        ).stdout
        assert not re.findall(r"\b_ZNK?(?:2at|3c10|5torch)\w+", symbols)
        assert "torch_" in symbols or "cuda" in library.name


@pytest.mark.slow
@needs_extension
def test_the_wheel_is_abi3_and_complete(tmp_path: Path) -> None:
    built = Path(os.environ.get("WHEELS") or tmp_path)  # by wheel_smoke.sh, if it has run
    if built == tmp_path:
        command = [sys.executable, "-m", "pip", "wheel", ".", "--no-build-isolation", "--no-deps"]
        subprocess.run([*command, "-q", "-w", str(tmp_path)], cwd=ROOT, check=True)
    (wheel,) = built.glob("*.whl")
    assert "-cp310-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert "steer_kernels/_C.abi3.so" in names
    assert "steer_kernels/fast.py" in names
    assert not any("_fast" in name for name in names)  # for one Python only
    assert "steer_kernels/py.typed" in names
    assert "steer_kernels/ops/logit_stats.py" in names
    assert any(name.startswith("steer_decode/") for name in names)
    assert not any("/tests/" in name or name.endswith((".cpp", ".cu")) for name in names)


# Reads setup.py as on a free-threaded Python, and reports the wheel that it would make.
FREE_THREADED = """
import json, runpy, setuptools, sys, sysconfig
sysconfig.get_config_vars()["Py_GIL_DISABLED"] = 1
given = {}
setuptools.setup = given.update
sys.argv[:] = ["setup.py", "bdist_wheel"]
runpy.run_path("setup.py")
distribution = setuptools.Distribution(
    {**given, "name": "steer-kernels", "version": "0", "script_name": "setup.py"}
)
wheel = distribution.get_command_obj("bdist_wheel")
wheel.ensure_finalized()
print(json.dumps([list(wheel.get_tag()), [m.py_limited_api for m in given["ext_modules"]]]))
"""


@pytest.mark.slow
def test_a_free_threaded_python_gets_a_wheel_of_its_own() -> None:
    """It has no limited API: setuptools and Python.h refuse a build that asks for it."""
    pytest.importorskip("setuptools.command.bdist_wheel")
    done = subprocess.run(
        [sys.executable, "-c", FREE_THREADED],
        cwd=ROOT, env={**os.environ, "STEER_FORCE_CUDA": "0", "STEER_BUILD": "cpu"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (python, abi, _platform), limited = json.loads(done.stdout.splitlines()[-1])
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert python == version
    assert abi.startswith(version)
    assert limited == [False]
