"""Consoles on standard output and standard error."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # Not rich's own way out: the trace is still to be written.


def console(stderr: bool = False) -> Console:
    """A console; where its width cannot be known it is 100 columns."""
    screen = _Console(stderr=stderr, highlight=False)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = 100
    return screen


def progress(**options: Any) -> Progress:
    """A progress bar with the time left, on standard error, where that is a terminal."""
    screen = console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
        **options,
    )
