"""The lines of a chat, typed or from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from ...util.interruption import forgive
from .. import say

PROMPT = "> "


def piped() -> Iterator[str]:
    """The lines of standard input, until it ends."""
    for line in sys.stdin:
        yield line.rstrip("\r\n")


def typed(tell: Callable[..., None]) -> Iterator[str]:
    """The lines that a person types.

    Until Ctrl-D or a second Ctrl-C.

    ``tell`` shows what the first Ctrl-C means.
    """
    warned = False
    while True:
        try:
            line = clean(input(PROMPT))
        except EOFError:
            say.out()
            return
        except KeyboardInterrupt as error:
            forgive(error)
            say.out()
            if warned:
                return
            tell("Ctrl-C again leaves, as does Ctrl-D", style="dim")
            warned = True
            continue
        warned = False
        yield line


def clean(line: str) -> str:
    """A typed line whose bytes need not have been UTF-8."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def edit_lines(commands: list[str]) -> None:
    """Set up line editing, where readline is installed.

    History, and commands completed with Tab.
    """
    try:
        import readline
    except ImportError:
        return

    def complete(text: str, state: int) -> str | None:
        fitting = [name for name in commands if name.startswith(text)] if text else []
        return fitting[state] if state < len(fitting) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \n")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
