"""Runs stages one after another, each under its own limit, and writes down how it went.

A stage is a command in a process group of its own. When its time is up the group is asked to end
(SIGINT, so that Python and pytest write what they have) and then killed. What it printed is in
NAME.log from the first line on. `summary.json` and `summary.md` are whole after every change: a
check that is killed in the middle leaves what was known until then, with the stage that was running
then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .files import now, write_json, write_whole

GRACE = 6.0  # seconds between asking and killing
LEAST = 5.0  # seconds that a stage must be able to have
LOOK = 0.1  # seconds between two looks for a signal
TAIL = 12  # lines of a failed stage that are shown

SWITCHES = ("TRITON_INTERPRET", "STEER_KERNELS_BACKEND", "STEER_SKIP_EXT")  # of other ways to run

OK, FAILED, OVER, MISSING = "ok", "failed", "over its limit", "missing"
STOPPED, LATE, RUNNING, WAITING = "stopped", "no time left", "running", "not yet run"


@dataclass(frozen=True)
class Stage:
    """A command and what to expect of it.

    Attributes:
        about: what it does, in a few words.
        seconds: its limit.
        writes: files in the folder, beside its log.
        missing: the program that it cannot be run without and that is not here, if any.
        reserve: seconds of the budget that stages before it must leave.
        decisive: exit status after which no further stage runs.
        environment: what is set for it.
    """

    name: str
    about: str
    command: tuple[str, ...]
    seconds: float
    writes: tuple[str, ...] = ()
    missing: str = ""
    reserve: float = 0.0
    decisive: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """How a stage went. `said` is the last line that it printed."""

    name: str
    about: str
    limit: float
    status: str = WAITING
    seconds: float = 0.0
    said: str = ""
    files: list[str] = field(default_factory=list)


class Interrupted(Exception):
    """Somebody ends the check; `args[0]` is the signal."""


class Check:
    """Stages over one folder.

    Args:
        folder: made if need be; files of these stages that an earlier check left are removed.
        head: what the summary says first: card, date and the like.
        budget: seconds for all stages together.
        root: where commands run.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        folder: Path,
        head: Mapping[str, Any],
        budget: float,
        root: Path,
    ) -> None:
        self.stages, self.folder, self.root = list(stages), folder, root
        self.head, self.budget = dict(head), budget
        self.results = [Result(s.name, s.about, s.seconds) for s in stages]
        folder.mkdir(parents=True, exist_ok=True)
        for stage in stages:
            for name in self._names(stage):
                (folder / name).unlink(missing_ok=True)
        self._begin = time.monotonic()
        self._signal: int | None = None
        self._write()

    @property
    def passed(self) -> bool:
        return all(result.status == OK for result in self.results)

    def run(self) -> bool:
        """Runs all of them; whether every one passed.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the summary is written, the stage has ended.
        """
        with self._signals():
            wrong = ""
            for place, (stage, result) in enumerate(zip(self.stages, self.results, strict=True)):
                if self._signal is not None:  # it came between two stages
                    raise Interrupted(self._signal)
                left = self.budget - (time.monotonic() - self._begin)
                left -= sum(later.reserve for later in self.stages[place + 1 :])
                if wrong:
                    result.status, result.said = STOPPED, f"as {wrong} found wrong results"
                elif stage.missing:
                    result.status, result.said = MISSING, f"{stage.missing} is not here"
                elif left < LEAST:
                    result.status, result.said = LATE, f"of {self.budget:g} s for all stages"
                elif self._run(stage, result, min(stage.seconds, left)):
                    wrong = stage.name
                self._write()
                print(_line(result), flush=True)
        return self.passed

    def _run(self, stage: Stage, result: Result, seconds: float) -> bool:
        """Runs one stage; whether it ended with its decisive status."""
        result.status, result.limit = RUNNING, seconds
        self._write()
        print(f"gpu-check: {stage.name}: {stage.about} (at most {seconds:.0f} s)", flush=True)
        log = self.folder / f"{stage.name}.log"
        begin = time.monotonic()
        try:
            status = self._wait(stage, log, seconds)
        except Interrupted as end:
            result.status, result.said = STOPPED, f"by {signal.Signals(end.args[0]).name}"
            raise
        finally:
            result.seconds = time.monotonic() - begin
            result.files = [n for n in self._names(stage) if (self.folder / n).exists()]
            self._write()
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.strip("= ") for line in lines if line.strip("= ")]
        result.said = (said or ["it printed nothing"])[-1][:160]
        result.status = OK if status == 0 else OVER if status is None else FAILED
        if result.status != OK:
            print("\n".join(f"    {line[:200]}" for line in lines[-TAIL:]), flush=True)
        return status is not None and status == stage.decisive

    def _wait(self, stage: Stage, log: Path, seconds: float) -> int | None:
        """Exit status of the command, or None if its time was up. Leaves no process of it."""
        end = time.monotonic() + seconds
        kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
        environment = {**kept, **stage.environment, "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as file:
            try:
                process = subprocess.Popen(
                    stage.command,
                    cwd=self.root,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                file.write(f"{stage.command[0]}: {error.strerror}\n".encode())
                return 127
            try:
                while (left := end - time.monotonic()) > 0:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        return process.wait(min(left, LOOK))
                    if self._signal is not None:
                        raise Interrupted(self._signal)
                return None
            finally:
                end_group(process)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM are noted, for `_wait` to see: an exception out of a handler could
        come between the start of a process and the first line that knows of it."""

        def note(number: int, frame: object) -> None:
            self._signal = number

        before = {name: signal.signal(name, note) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _names(self, stage: Stage) -> list[str]:
        return [f"{stage.name}.log", *stage.writes]

    def _write(self) -> None:
        total = time.monotonic() - self._begin
        value = {
            **self.head,
            "written": now(),
            "passed": self.passed,
            "seconds": round(total, 1),
            "budget": self.budget,
            "stages": [
                {**asdict(result), "seconds": round(result.seconds, 1)} for result in self.results
            ],
        }
        write_json(self.folder / "summary.json", value)
        write_whole(self.folder / "summary.md", self.markdown())

    def markdown(self) -> str:
        """The table of all stages."""
        title = self.head.get("card", "gpu-check")
        facts = [f"{name}: {value}" for name, value in self.head.items() if value not in ("", None)]
        lines = [
            f"# {title}\n",
            *(f"- {fact}" for fact in facts),
            "",
            "| stage | | seconds | limit | in this folder | last line |",
            "|---|---|---:|---:|---|---|",
        ]
        for result in self.results:
            cells = [
                result.name,
                result.status,
                f"{result.seconds:.0f}",
                f"{result.limit:.0f}",
                ", ".join(result.files),
                result.said.replace("|", "\\|"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of a process and its children: asked first, then killed."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _line(result: Result) -> str:
    return f"gpu-check: {result.name}: {result.status}, {result.seconds:.0f} s: {result.said}"
