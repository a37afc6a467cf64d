"""Lines that say how far long work is.

They serve where no progress bar can be drawn.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

EVERY = 30.0  # seconds without a word, at most


class Lines:
    """A context manager that says how far the work is.

    At least every :data:`EVERY` seconds it says what is done and what is left. A thread does it, as
    work need not come by: one answer of a large model may take minutes.

    Args:
        what: is done or counted, as in "answers".
        total: how many there will be; None where nobody knows.
        done: how many there were at the start, which tell nothing of the speed.
        every: seconds between two lines; by default :data:`EVERY`.
        clock: seconds from any start.
        say: takes each line; by default it goes to standard error.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        done: int = 0,
        *,
        every: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._what, self._detail = what, ""
        self._total, self._bound = total, ""
        self._done = self._before = done
        self._every = EVERY if every is None else every
        self._clock = clock
        self._say = say or _to_stderr
        self._begin = self._spoke = clock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def __enter__(self) -> Lines:
        self._begin = self._spoke = self._clock()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    def advance(self, number: int = 1) -> None:
        self._done += number

    def at(self, done: int) -> None:
        """So many are done now."""
        self._done = done

    def expect(self, total: int, bound: str = "") -> None:
        """Expect ``total``, or ``bound`` so many.

        ``bound`` is "at most" or "at least".
        """
        self._total, self._bound = total, bound and f"{bound} "

    def describe(self, detail: str) -> None:
        """What is worked at now."""
        self._detail = f" ({detail})"

    def spoke(self) -> None:
        """Let a line wait, as the work was heard of."""
        self._spoke = self._clock()

    def line(self) -> str:
        """What there is to say now."""
        gone = self._clock() - self._begin
        if self._total is None:
            count = f": {self._done}" if self._done else ""
        else:
            count = f": {self._done} of {self._bound}{self._total}"
        text = f"steer: {self._what}{self._detail}{count} after {span(gone)}"
        made = self._done - self._before
        if self._total is not None and made > 0 and self._total > self._done:
            left = gone / made * (self._total - self._done)
            text += f", {self._bound or 'about '}{span(left)} left"
        return text

    def _talk(self) -> None:
        wait = self._every
        while not self._ended.wait(wait):
            silent = self._clock() - self._spoke
            if silent >= self._every:
                self._say(self.line())
                self._spoke, silent = self._clock(), 0.0
            wait = self._every - silent


def span(seconds: float) -> str:
    """A length of time in its two largest units.

    "41 s", "3 min 20 s", "2 h 5 min".
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _to_stderr(line: str) -> None:
    """Past the stream and its lock, which a process that is forked meanwhile would find taken."""
    with suppress(OSError, ValueError):  # whoever read it has gone
        try:
            number = sys.stderr.fileno()
        except (OSError, ValueError, AttributeError):
            print(line, file=sys.stderr, flush=True)  # no file, as under a test
            return
        os.write(number, f"{line}\n".encode(errors="replace"))
