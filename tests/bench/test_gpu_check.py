"""`make gpu-check`: what it refuses, and how it runs stages: limits, order, what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.gpu_path import BENCHMARKS, ROOT, script

from gpu import machine, runner  # isort: skip
from gpu_check import main as gpu_check_main  # isort: skip
from gpu.stages import NAMES, QUICK, WRONG, chosen, stages  # isort: skip

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


def stage(name: str, *lines: str, seconds: float = PATIENCE, **more: Any) -> runner.Stage:
    return runner.Stage(name, "a test", ("sh", "-c", "\n".join(lines)), seconds, **more)


def check(folder: Path, *found: runner.Stage, budget: float = 600.0) -> runner.Check:
    return runner.Check(found, folder, {"card": "a card"}, budget, folder.parent)


def outcome(folder: Path) -> dict[str, tuple[str, str]]:
    summary = json.loads((folder / "summary.json").read_text())
    return {s["name"]: (s["status"], s["said"]) for s in summary["stages"]}


def ended(process: int) -> None:
    """Waits until a process is gone, or is a zombie whose parent has not looked yet."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {process} is still there")


def hours_pass(monkeypatch: pytest.MonkeyPatch, event: Path, seconds: float) -> None:
    """The runner's clock jumps as soon as a file is there: limits without waiting for them."""

    def monotonic() -> float:
        return time.monotonic() + (seconds if event.exists() else 0.0)

    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=monotonic))


class TestRunner:
    def test_none_stops_the_next(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        ran = check(
            out,
            stage("good", f"echo yes > {out}/good.json", "echo all well", writes=("good.json",)),
            stage("bad", "echo one", "echo '== two =='", "exit 4"),
            stage("gone", missing="ncu"),
            runner.Stage("none", "a test", (str(tmp_path / "nothing"),), 9),
            stage("last", "cat out/summary.json"),
        )
        assert not ran.run()
        found = outcome(out)
        assert found["good"] == ("ok", "all well")
        assert found["bad"] == ("failed", "two")
        assert found["gone"] == ("missing", "ncu is not here")
        assert found["none"] == ("failed", f"{tmp_path}/nothing: No such file or directory")
        assert found["last"][0] == "ok"
        # The last one has read what the summary said while it ran.
        seen = json.loads((out / "last.log").read_text())
        statuses = [s["status"] for s in seen["stages"]]
        assert statuses == ["ok", "failed", "missing", "failed", "running"]
        assert seen["stages"][0]["files"] == ["good.log", "good.json"]
        assert not seen["passed"]
        table = (out / "summary.md").read_text()
        assert "| bad | failed | 0 | 60 | bad.log | two |" in table
        assert "    == two ==" in capsys.readouterr().out  # the end of a failed stage is shown

    def test_all_good(self, tmp_path: Path) -> None:
        ran = check(tmp_path / "out", stage("a", "true"), stage("b", "true"))
        assert ran.run()
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["passed"]

    def test_over_its_limit_with_all_its_children(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        hours_pass(monkeypatch, out / "ready", 70)
        monkeypatch.setattr(runner, "GRACE", 0.2)
        long = (
            "trap '' INT",  # deaf to the first word
            "(trap '' INT; sleep 600) & echo $! > out/child",
            "echo half > out/long.json",
            "echo begun",
            "touch out/ready; sleep 600",
        )
        ran = check(out, stage("long", *long, writes=("long.json",)), stage("next", "true"))
        assert not ran.run()
        assert outcome(out)["long"] == ("over its limit", "begun")
        assert outcome(out)["next"] == ("ok", "it printed nothing")
        ended(int((out / "child").read_text()))
        assert (out / "long.json").read_text() == "half\n"

    def test_asked_before_it_is_killed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        hours_pass(monkeypatch, out / "ready", 70)
        slow = "trap 'echo kept; exit 0' INT; touch out/ready; while :; do sleep 0.05; done"
        assert not check(out, stage("long", slow)).run()
        assert outcome(out)["long"] == ("over its limit", "kept")

    def test_children_that_outlive_a_stage_end_with_it(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert check(out, stage("a", "sleep 600 & echo $! > out/child")).run()
        ended(int((out / "child").read_text()))

    @pytest.mark.parametrize(("status", "later"), [(WRONG, "stopped"), (1, "ok")])
    def test_wrong_results_stop_the_rest(self, status: int, later: str, tmp_path: Path) -> None:
        ran = check(
            tmp_path / "out",
            stage("smoke", "echo 2 wrong", f"exit {status}", decisive=WRONG),
            stage("measure", "exit 3"),
            stage("tests", "true"),
        )
        assert not ran.run()
        found = outcome(tmp_path / "out")
        assert found["smoke"] == ("failed", "2 wrong")
        assert found["tests"][0] == later
        assert found["measure"][0] == ("stopped" if later == "stopped" else "failed")
        if later == "stopped":
            assert found["tests"][1] == "as smoke found wrong results"

    def test_the_budget_is_for_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out = tmp_path / "out"
        hours_pass(monkeypatch, out / "ready", 700)
        check(out, stage("a", "touch out/ready; sleep 600"), stage("b", "true")).run()
        found = outcome(out)
        assert found["a"][0] == "over its limit"
        assert found["b"] == ("no time left", "of 600 s for all stages")

    def test_what_is_reserved_for_a_later_stage_is_left_to_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        hours_pass(monkeypatch, out / "ready", 110)
        first = stage("a", "touch out/ready; sleep 20", seconds=600)
        check(out, first, stage("b", "true", reserve=500)).run()
        assert [status for status, _ in outcome(out).values()] == ["over its limit", "ok"]

    def test_files_of_an_earlier_check_are_not_taken_for_new(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        for name in ("a.log", "a.json", "mine.txt"):
            (out / name).write_text("old")
        check(out, stage("a", "true", writes=("a.json",)))
        assert sorted(p.name for p in out.iterdir()) == ["mine.txt", "summary.json", "summary.md"]
        assert outcome(out) == {"a": ("not yet run", "")}

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_killed_in_the_middle(self, number: signal.Signals, tmp_path: Path) -> None:
        out = tmp_path / "out"
        program = (
            f"import sys; sys.path.append({str(BENCHMARKS)!r})\n"
            "from pathlib import Path; from gpu import runner\n"
            "stages = [runner.Stage('a', '', ('true',), 60), runner.Stage('b', '', ('sh', '-c', "
            "'echo begun; echo $$ > out/pid.tmp; mv out/pid.tmp out/pid; exec sleep 600'), 60),"
            " runner.Stage('c', '', ('true',), 60)]\n"
            "check = runner.Check(stages, Path('out'), {}, 600, Path('.'))\n"
            "try: check.run()\n"
            "except runner.Interrupted as end: sys.exit(int(end.args[0]))\n"
        )
        process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
        end = time.monotonic() + PATIENCE
        while not (out / "pid").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        running = int((out / "pid").read_text())
        process.send_signal(number)
        status = process.wait(PATIENCE)
        found = outcome(out)
        assert found["a"][0] == "ok"
        assert found["c"] == ("not yet run", "")
        assert (out / "b.log").read_text() == "begun\n"
        if number == signal.SIGKILL:  # nobody is left to end it
            os.kill(running, signal.SIGKILL)
            assert found["b"][0] == "running"
        else:
            assert status == number
            assert found["b"] == ("stopped", f"by {number.name}")
        ended(running)
