"""Interrupts `steer` at given moments; a program, run by the tests of interruptions.

    interrupted.py FOLDER jobs.json > outcomes.json

A job is {"args": [...], "signal": 2, "taps": 1, "stdin": "", "listens": true} and a moment:
{"fork": n}, behind the n-th fork; {"call": n}, at the n-th call of any function in the main thread,
which is that many calls into the command on every machine; or neither, for an end by itself. A job
that does not listen has Python's own handlers, as whoever calls the functions has. An outcome is
{"status", "stderr", "left", "calls"}: how the command ended, what it said, how many processes of
its session are left when it has, and how many calls it had made, if they were counted.

Each job is a fork of one process that has imported everything, for imports take seconds.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from support.forks import default_signals

PATIENCE = 600  # seconds, after which a command that hangs is ended with a trace of where


def _left(session: int) -> int:
    """Processes of a session that still run."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += int(fields[3]) == session and fields[0] != "Z"
    return found


def _arm(job: dict[str, Any], calls: list[int]) -> None:
    """Has the signal sent to the whole group at the job's moment."""

    def hit() -> None:
        for _ in range(job.get("taps", 1)):
            os.killpg(0, job["signal"])

    if "fork" in job:
        forks = [0]

        def forked() -> None:
            forks[0] += 1
            if forks[0] == job["fork"]:
                hit()

        os.register_at_fork(after_in_parent=forked)
        return

    def called(frame: object, event: str, argument: object) -> None:
        if event == "call":
            calls[0] += 1
            if calls[0] == job.get("call"):
                hit()

    sys.setprofile(called)


def _run(job: dict[str, Any], error: Path, counted: Path) -> None:
    """The command, in the child; does not return."""
    os.setsid()
    given = os.memfd_create("stdin")
    os.write(given, job.get("stdin", "").encode())
    os.lseek(given, 0, os.SEEK_SET)
    os.dup2(given, 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    default_signals()
    calls = [0]
    sys.argv = ["steer", *job["args"]]
    status = 0
    from steer_decode import __main__, cli

    if not job.get("listens", True):
        __main__.listen = cli.listen = lambda: None
    try:
        _arm(job, calls)
        __main__.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        sys.setprofile(None)
    counted.write_text(str(calls[0]))
    os._exit(status)


def main() -> None:
    import steer_decode.cli.eval_run
    import steer_decode.evaluation.evaluate
    import steer_decode.evaluation.summary
    import steer_decode.evaluation.tasks  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    outcomes = []
    for number, job in enumerate(json.loads(Path(sys.argv[2]).read_text())):
        error, counted = folder / f"{number}.err", folder / f"{number}.calls"
        child = os.fork()
        if not child:
            try:
                _run(job, error, counted)
            finally:
                os._exit(99)
        _, status = os.waitpid(child, 0)
        outcomes.append(
            {
                "status": os.waitstatus_to_exitcode(status),
                "left": _left(child),
                "stderr": error.read_text(),
                "calls": int(counted.read_text()) if counted.exists() else None,
            }
        )
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
