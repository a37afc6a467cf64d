"""`make gpu-check`: what it refuses, and how it runs stages: limits, order, what is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.gpu_path import BENCHMARKS, ROOT, script

from gpu import machine  # isort: skip
from gpu_check import main as gpu_check_main  # isort: skip
from gpu.stages import NAMES, QUICK, chosen, stages  # isort: skip

GPU_CHECK = BENCHMARKS / "gpu_check.py"
PATIENCE = 60.0  # seconds, for what takes a few


def gpu_check(*args: str, **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, str(GPU_CHECK), *args],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


class TestRefusals:
    @pytest.mark.parametrize("args", [[], ["--card"]])
    def test_without_a_card_one_sentence(self, tmp_path: Path, args: list[str]) -> None:
        result = gpu_check(*args, PATH=str(tmp_path))
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr == (
            "gpu-check: needs an NVIDIA card, and this machine has no nvidia-smi.\n"
        )

    def test_a_driver_without_a_card(self, tmp_path: Path) -> None:
        script(tmp_path / "nvidia-smi", "exit 9")
        result = gpu_check(PATH=str(tmp_path))
        assert result.returncode == 1
        assert result.stderr == "gpu-check: needs an NVIDIA card, and nvidia-smi finds none.\n"

    def test_the_card_alone(self, tmp_path: Path) -> None:
        script(tmp_path / "nvidia-smi", "echo NVIDIA H200", "echo NVIDIA H200")
        result = gpu_check("--card", PATH=str(tmp_path))
        assert (result.returncode, result.stdout) == (0, "gpu-check: NVIDIA H200\n")

    @pytest.mark.parametrize(
        ("says", "sentence"),
        [
            (
                "echo no such thing >&2; exit 1",
                r"cannot import torch \(no such thing\): name anoth",
            ),
            ("exit 3", r"cannot import torch \(it ended without a word\)"),
            ("""echo '["2.9.1", "13.0", true, []]'""", "needs torch 2.10 or newer, and that of"),
            ("""echo '["2.13.0+cpu", null, false, []]'""", r"a torch with CUDA.*is 2.13.0\+cpu"),
            ("""echo '["2.11.0", "13.0", false, []]'""", r"finds no card \(it wants a driver for"),
            ("""echo '["2.11.0", "13.0", true, ["triton", "rich"]]'""", "lacks triton, rich: inst"),
        ],
    )
    def test_a_python_that_lacks_something(
        self, says: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", str(script(tmp_path / "python", says)))
        with pytest.raises(machine.Missing, match=sentence):
            machine.check_python()

    def test_no_compiler(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        says = """echo '["2.11.0+cu130", "13.0", true, []]'"""
        monkeypatch.setattr(sys, "executable", str(script(tmp_path / "python", says)))
        monkeypatch.setattr(machine, "TOOLKIT", tmp_path)
        for home in ("CUDA_HOME", "CUDA_PATH"):
            monkeypatch.delenv(home, raising=False)
        monkeypatch.setenv("PATH", "/bin")
        with pytest.raises(machine.Missing, match="needs nvcc"):
            machine.check_python()
        (tmp_path / "bin").mkdir()
        script(tmp_path / "bin" / "nvcc")
        machine.check_python()
        machine.check_python(cuda=False)

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (["--only", "smoke,bild"], "'bild': choose from build, smoke, measure, profile, ahead"),
            (["--only", ","], "no stage: choose from build"),
            (["--budget", "0"], "must be seconds above 0, got '0'"),
            (["--budget", "soon"], "must be seconds above 0, got 'soon'"),
            (["--rehearse"], "--rehearse needs --out DIR: its figures are not results"),
        ],
    )
    def test_bad_options(self, args: list[str], words: str) -> None:
        result = gpu_check(*args, PATH="/bin")
        assert (result.returncode, result.stdout) == (2, "")
        assert words in result.stderr

    def test_a_folder_that_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setattr(machine, "check_python", lambda cuda: None)
        assert gpu_check_main(["--rehearse", "--out", str(tmp_path / "file")]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"gpu-check: cannot write to {tmp_path / 'file'}: ")
        assert len(said.splitlines()) == 1


def test_names_of_folders(tmp_path: Path) -> None:
    name = machine.file_name("NVIDIA H100 80GB HBM3", "2026-01-31")
    assert name == "nvidia-h100-80gb-hbm3-2026-01-31"
    for number in ("", "-2", "-3"):
        folder = machine.fresh_folder(tmp_path, name)
        assert folder == tmp_path / f"{name}{number}"
        folder.mkdir()


def test_stages_stand_in_their_order_and_smoke_alone_decides(tmp_path: Path) -> None:
    found = stages(tmp_path)
    assert tuple(stage.name for stage in found) == NAMES
    assert [stage.name for stage in found if stage.decisive is not None] == ["smoke"]
    assert tuple(stage.name for stage in chosen(found, QUICK)) == ("build", "smoke", "measure")
    for stage in found:
        assert stage.environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
        assert stage.environment["HF_HUB_OFFLINE"] == "1"
    tests = next(stage for stage in found if stage.name == "tests")
    assert tests.command[tests.command.index("-m", 3) + 1] == "gpu and not slow"
