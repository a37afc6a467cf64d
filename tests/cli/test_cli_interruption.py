"""`steer generate`, ended from outside: by Ctrl-C, and by a reader that has gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import PROMPT, save
from support.preloaded import Launch


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return ["--small", save(folder / "small", 0), "--large", save(folder / "large", 1)]


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "steer_decode", *(str(a) for a in args)]


def interrupt(process: Any, number: int) -> tuple[int, str, str]:
    """Sends a command Ctrl-C once it has printed a line; (status, stdout, stderr)."""
    first = process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    return process.returncode, first + out, err


@pytest.mark.parametrize(
    ("number", "ended", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.few(1)
def test_ctrl_c_leaves_whole_steps_and_a_whole_trace(
    pair: list[str], tmp_path: Path, number: int, ended: int, word: str, launch: Launch
) -> None:
    trace = tmp_path / "t.json"
    args = ["--router", "small", "--max-new-tokens", 480, "--trace", trace]
    status, out, err = interrupt(
        launch(["-m", "steer_decode", "generate", PROMPT, *pair, *args, "--threads", 1]), number
    )
    assert status == ended
    assert err.splitlines() == [f"steer: {word}"]
    data = json.loads(trace.read_text())
    assert data["trace"]["stop_reason"] == "interrupted"
    ids = [i for step in data["trace"]["steps"] for i in step["token_ids"]]
    assert data["token_ids"] == ids
    closed = "".join(s["text"] for s in data["trace"]["steps"] if s["closed"])
    assert closed.startswith(out)


def test_closed_pipe_is_quiet(pair: list[str], tmp_path: Path, launch: Launch) -> None:
    trace = tmp_path / "t.json"
    args = ["--router", "small", "--max-new-tokens", 300, "--trace", trace]
    process = launch(["-m", "steer_decode", "generate", PROMPT, *pair, *args, "--threads", 1])
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(timeout=300) == 141
    assert error == ""
    assert json.loads(trace.read_text())["trace"]["stop_reason"] == "interrupted"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.few(2)
def test_a_stream_that_is_closed_from_the_start_is_nothing(closed: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command("generate", "--file", "/dev/null")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    told = "" if "2>" in closed else "steer: prompt is empty: give the question that is to be "
    assert ran.stderr.startswith(told)
    assert len(ran.stderr.splitlines()) == bool(told)
