"""Formulas compared by math-verify, in a process of its own.

That process can be killed. It starts with the first formula and serves the rest of the run; each
forked worker has its own. It ends when the process that asks does, however that ends: its input
closes, and a limit on processor time ends what does not listen.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from ...errors import SteerError
from .child import command, environment

SECONDS = 4
"""Processor time for one comparison; on a busy machine it may take four times as long."""
_PATIENCE = 4
_START = 120.0


class Undecided(Exception):
    """Two formulas that time or memory did not suffice for."""


class Formulas:
    """The process, asked by any number of threads.

    They ask one after another.

    Args:
        seconds: of processor time for one question.
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, latex: str) -> str | None:
        """Read a formula with math-verify, in sympy's words.

        None where it reads nothing.

        Raises:
            Undecided: it took too long.
            SteerError: the process cannot be had.
        """
        return self._ask({"read": latex})["read"]

    def same(self, reference: tuple[str, str | None], answer: tuple[str, str | None]) -> bool:
        """Whether two formulas agree.

        Each is its LaTeX and the unit of its last digit, if any.

        Raises:
            Undecided: it took too long.
            SteerError: the process cannot be had.
        """
        return bool(self._ask({"same": [reference, answer]})["same"])

    def end(self) -> None:
        """End the process; the next question starts another."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """Leave the process to the parent, in a forked child.

        It is the parent's.
        """
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # not ours to wait for
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        line = json.dumps({**question, "seconds": self.seconds}).encode() + b"\n"
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                said = self._exchange(line, self.seconds * _PATIENCE)
            except BaseException:
                self._end()
                raise
            if said is None or "error" in said:
                self._end()
                why = "in the memory it may have" if said else f"within {self.seconds} s"
                raise Undecided(f"math-verify came to no verdict {why}")
            return said

    def _start(self) -> None:
        self._end()
        self._process = subprocess.Popen(
            command("formula_process.py"),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,  # Ctrl-C is for whoever asks
        )
        if self._exchange(b"", _START) is None:
            self._end()
            raise SteerError(
                "math-verify does not start in a process of its own: check that "
                f"`{sys.executable} -c 'import math_verify'` works, or choose --checker exact"
            )

    def _exchange(self, line: bytes, seconds: float) -> dict[str, Any] | None:
        """The next line that the process says; None if it ends or is late."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        until, heard = time.monotonic() + seconds, b""
        try:
            process.stdin.write(line)
        except OSError:
            return None
        while not heard.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                return None
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                return None
            heard += part
        return json.loads(heard)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


formulas = Formulas()
"""That of this process."""
atexit.register(formulas.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=formulas.forget)
