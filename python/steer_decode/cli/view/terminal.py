"""Consoles on standard output and standard error.

What they are given is shown, not obeyed.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ...util.console import SafeConsole
from ...util.interruption import at_the_end
from ...util.progress import Lines


def console(stderr: bool = False) -> SafeConsole:
    """A console of rich, 100 columns wide by default.

    The default serves where its width cannot be known.
    """
    screen = SafeConsole(stderr=stderr)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = 100
    return screen


def lines(what: str, total: int | None = None, bound: str = "") -> Lines:
    """Lines for work that has no bar.

    They come where standard error is no terminal; else nothing is said.
    """
    made = Lines(what, say=(lambda _: None) if console(stderr=True).is_terminal else None)
    if total is not None:
        made.expect(total, bound)
    return made


class Bar:
    """A progress bar with the time left, on standard error.

    Where that is no terminal, lines. A context manager; see :class:`Lines`, whose methods it has.
    """

    def __init__(self, what: str, total: int | None = None, done: int = 0) -> None:
        self._lines: Lines | None = None
        self._screen = console(stderr=True)
        if not self._screen.is_terminal:
            self._lines = Lines(what, total, done)
            return
        self._stack = ExitStack()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left", markup=False),
            TimeRemainingColumn(),
            console=self._screen,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> Bar:
        if self._lines is not None:
            self._lines.__enter__()
        else:
            self._stack.enter_context(at_the_end(_clear))
            self._stack.enter_context(self._bar)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._lines is not None:
            self._lines.__exit__(*exception)
        else:
            self._stack.__exit__(*exception)

    def advance(self, number: int = 1) -> None:
        if self._lines is not None:
            self._lines.advance(number)
        else:
            self._bar.advance(self._task, number)

    def expect(self, total: int, bound: str = "") -> None:
        if self._lines is not None:
            self._lines.expect(total, bound)
        elif not bound:  # a bar whose end moves tells nothing
            self._bar.update(self._task, total=total)

    def describe(self, detail: str) -> None:
        if self._lines is not None:
            self._lines.describe(detail)
        else:
            self._bar.update(self._task, description=detail)


def _clear() -> None:
    """Takes a bar off the line and shows the cursor, which it has hidden."""
    os.write(2, b"\r\x1b[2K\x1b[?25h")
