"""Consoles on standard output and standard error; what they are given is shown, not obeyed."""

from __future__ import annotations

import os
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..util.console import SafeConsole


def console(stderr: bool = False) -> SafeConsole:
    """A console; where its width cannot be known it is 100 columns."""
    screen = SafeConsole(stderr=stderr)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = 100
    return screen


def progress(**options: Any) -> Progress:
    """A progress bar with the time left, on standard error, where that is a terminal."""
    screen = console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left", markup=False),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
        **options,
    )
