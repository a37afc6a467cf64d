"""The one way on which a command says something.

It is printable for people, and as it is for programs. What goes to a terminal, or to standard
error, is for people, and nothing in it is obeyed. What goes to standard output where that is no
terminal is data for another program and stays as it is. Tables go through :mod:`.terminal`, whose
consoles do the same.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from ..errors import OutputError
from ..util.text import one_line, printable


def note(message: str) -> None:
    """One sentence on standard error.

    Raises:
        OutputError: it cannot take it.
    """
    _print(f"steer: {one_line(message)}\n", sys.stderr, "standard error")


def log(line: str) -> None:
    """A line of a log, on standard error.

    Raises:
        OutputError: it cannot take it.
    """
    _print(f"{printable(line)}\n", sys.stderr, "standard error")


def out(text: str = "", *, end: str = "\n", data: bool = False) -> None:
    """Text on standard output, at once.

    Args:
        text: what is said.
        end: comes after it.
        data: an answer, which another program may want exactly as it is.

    Raises:
        OutputError: standard output cannot take it: the disk behind it is full, say.
    """
    shown = text if data and not sys.stdout.isatty() else printable(text)
    _print(shown + end, sys.stdout, "standard output")


def guard() -> None:
    """Show logs and warnings of other packages, without obeying them."""
    plain = warnings.formatwarning

    def shown(*args: Any, **options: Any) -> str:
        return printable(plain(*args, **options))

    warnings.formatwarning = shown
    logging.setLogRecordFactory(_Record)


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        return printable(super().getMessage())


def _print(text: str, stream: Any, name: str) -> None:
    try:
        print(text, end="", file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to {name}: {error.strerror or error}") from error
