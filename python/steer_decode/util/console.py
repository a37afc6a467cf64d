"""A console of rich that obeys only this package.

What else it is given, it shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ..errors import OutputError
from .text import printable


class SafeConsole(Console):
    """A console that sends no control character of a text.

    It reads neither markup nor emoji codes. A text is made printable before it is laid out, so that
    columns line up. What a renderable of rich makes of it is looked at once more on its way out:
    styles and cursor movements of rich are no text and pass.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        if isinstance(renderable, str):
            renderable = printable(renderable)
        elif isinstance(renderable, Text):
            shown = printable(renderable.plain)
            if shown != renderable.plain:
                renderable = renderable.copy()
                renderable.plain = shown
        for segment in super().render(renderable, options):
            if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's.

        Raises:
            OutputError: what shows it cannot take it: the disk behind standard output is full, say.
        """
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = "standard error" if self.stderr else "standard output"
            raise OutputError(f"cannot write to {where}: {error.strerror or error}") from error

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # Not rich's own way out: the trace is still to be written.
