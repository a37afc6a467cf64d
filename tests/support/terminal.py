"""A program in a pseudo-terminal: type at it, wait for what it prints. Nothing sleeps."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Mapping, Sequence

from support.preloaded import Launch

PATIENCE = 600.0  # seconds for one thing to be printed; a machine may be slow and busy


class Terminal:
    """Runs a program in a terminal of its own. A context manager; the program ends with it."""

    def __init__(
        self,
        launch: Launch,
        args: Sequence[str],
        environment: Mapping[str, str | None] | None = None,
        size: tuple[int, int] = (40, 100),
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.process = launch(
            args,
            streams=(theirs, theirs, theirs),
            terminal=True,
            environment={
                "NO_COLOR": None,
                "COLUMNS": None,
                "TERM": "xterm-256color",
                "COLORTERM": "truecolor",
                **(environment or {}),
            },
        )
        os.close(theirs)
        self.seen = ""  # everything that was printed
        self._read = 0  # how much of it has been waited for

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, pattern: str) -> str:
        """Waits until ``pattern`` is printed after what was waited for; returns all up to there."""
        end = time.monotonic() + PATIENCE
        while True:
            match = re.compile(pattern).search(self.seen, self._read)
            if match:
                text = self.seen[self._read : match.end()]
                self._read = match.end()
                return text
            if not self._more(end - time.monotonic()):
                raise AssertionError(
                    f"{pattern!r} was not printed; {self.seen[self._read :]!r} was"
                )

    def wait_for_end(self) -> int:
        """Waits until the program has ended; returns its status."""
        end = time.monotonic() + PATIENCE
        while self._more(end - time.monotonic()):
            pass
        return self.process.wait(PATIENCE)

    def _more(self, patience: float) -> bool:
        if not select.select([self._ours], [], [], max(0.0, patience))[0]:
            return False
        data = b""
        with contextlib.suppress(OSError):  # As Linux says that the other side is closed.
            data = os.read(self._ours, 65536)
        self.seen += data.decode("utf-8", "replace")
        return bool(data)


def plain(text: str) -> str:
    """``text`` without the sequences that colour it or move the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")
