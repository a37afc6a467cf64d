"""The stages of a check: limits, budget, children, and what ends the rest."""

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
from support.gpu_path import BENCHMARKS

from gpu import runner  # isort: skip
from gpu.stages import WRONG  # isort: skip

PATIENCE = 60.0  # seconds, for what takes a few


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
