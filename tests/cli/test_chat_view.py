"""An answer as it is written: colours, line breaks that wait, and steps that are struck through."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from steer_decode.cli.view.chat import AnswerPrinter
from steer_decode.core.events import StepClosed, TextDelta
from steer_decode.core.trace import Step
from steer_decode.core.transcript import Writer
from support.terminal import plain


def console(
    width: int = 40, height: int = 20, terminal: bool = True, colour: bool = True
) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        no_color=not colour,
        legacy_windows=False,
        _environ={"TERM": "xterm"},
    )


def text(screen: Console) -> str:
    return screen.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def write(printer: AnswerPrinter, steps: list[tuple[Writer, list[str], bool]]) -> None:
    for writer, pieces, discarded in steps:
        for piece in pieces:
            printer.show(TextDelta(piece, 1, writer, 0))
        printer.show(StepClosed(Step(0, writer, text="".join(pieces), discarded=discarded)))
    printer.finish()


def picture(output: str, width: int) -> list[str]:
    """What a terminal of ``width`` columns shows; struck text stands in brackets."""
    rows: list[list[str]] = [[]]
    row = column = 0
    struck = False
    for match in re.finditer(r"\x1b\[([0-9;]*)([A-Za-z])|(.|\n)", output):
        numbers, code, character = match.groups()
        if code == "m":
            struck = numbers not in ("", "0") and ("9" in numbers.split(";"))
        elif code == "A":
            row -= int(numbers)
        elif code == "C":
            column += int(numbers)
        elif code == "J":
            rows[row:] = [rows[row][:column]]
        elif character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
        elif character:
            if column == width:
                row, column = row + 1, 0
            rows += [[] for _ in range(row - len(rows) + 1)]
            cells = rows[row]
            cells += [" "] * (column - len(cells) + 1)
            cells[column] = f"[{character}]" if struck else character
            column += 1
        rows += [[] for _ in range(row - len(rows) + 1)]
    return ["".join(cells).replace("][", "") for cells in rows]


def test_text_comes_in_the_colour_of_its_writer() -> None:
    screen = console()
    write(AnswerPrinter(screen), [("small", ["one\n\n"], False), ("large", ["tw", "o"], False)])
    assert "38;2;42;157;143mone" in text(screen)
    assert "38;2;224;122;63mtw" in text(screen)
    assert plain(text(screen)) == "one\n\ntwo\n"


def test_without_colours_each_step_names_its_writer() -> None:
    screen = console(colour=False)
    write(AnswerPrinter(screen), [("small", ["one\n", "\n"], False), ("large", ["two"], False)])
    assert "38;2" not in text(screen)
    assert plain(text(screen)) == "S one\n\nL two\n"


def test_a_token_is_shown_before_the_next_one_comes() -> None:
    screen = console()
    printer = AnswerPrinter(screen)
    printer.show(TextDelta("one", 1, "small", 0))
    assert plain(text(screen)) == "one"


@pytest.mark.parametrize("width", [3, 7, 8, 9, 16, 40])
@pytest.mark.parametrize("first", ["", "first\n\n", "first "])
def test_a_step_that_is_taken_back_is_struck_where_it_stands(width: int, first: str) -> None:
    screen = console(width)
    steps: list[tuple[Writer, list[str], bool]] = [("small", [first], False)] if first else []
    wrong, right = ["wro", "ng\nst", "ep one", "\n\n"], ["right", "\n\n", "end"]
    write(AnswerPrinter(screen), [*steps, ("small", wrong, True), ("large", right, False)])
    shown = "".join(picture(text(screen), width))
    assert shown.replace("][", "") == f"{first.rstrip(chr(10))}[wrongstep one]  taken backrightend"


@pytest.mark.parametrize("width", [5, 7, 8, 40])
@pytest.mark.parametrize("colour", [True, False])
def test_of_a_step_that_is_mended_only_what_stays_is_left(width: int, colour: bool) -> None:
    screen = console(width, colour=colour)
    printer = AnswerPrinter(screen)
    write(printer, [("small", ["first\n\n"], False)])
    for piece in ["2 + 2", " = 5", "\n\n"]:
        printer.show(TextDelta(piece, 1, "small", 1))
    draft = Step(1, "small", text="2 + 2 = 5\n\n", discarded=True, refused=1)
    printer.show(StepClosed(draft))
    pieces: list[tuple[str, Writer]] = [("2 + 2", "small"), (" = 4", "large"), ("\n\n", "small")]
    for piece, writer in pieces:
        printer.show(TextDelta(piece, 1, writer, 1))
    printer.show(StepClosed(Step(1, "small", text="2 + 2 = 4\n\n", others=[1], inherited=1)))
    printer.finish()
    shown = "".join(picture(text(screen), width))
    assert shown == ("first2 + 2 = 4" if colour else "S firstS 2 + 2 = 4")
    assert ("38;2;224;122;63" in text(screen)) == colour  # the mended token, in its colour


def test_where_the_cursor_cannot_go_back_a_mended_step_is_shown_twice() -> None:
    screen = console(terminal=False)
    printer = AnswerPrinter(screen)
    printer.show(TextDelta("wrong", 1, "small", 0))
    printer.show(StepClosed(Step(0, "small", text="wrong", discarded=True, refused=0)))
    printer.show(TextDelta("right", 1, "large", 0))
    printer.finish()
    assert [line.split() for line in text(screen).splitlines() if line] == [
        ["S", "wrong", "taken", "back"],
        ["L", "right"],
    ]


def test_what_has_left_the_screen_is_only_named() -> None:
    screen = console(height=4)
    write(AnswerPrinter(screen), [("small", ["a\nb\nc\nd\ne\n\n"], True), ("large", ["x"], False)])
    assert "\x1b[J" not in text(screen)
    assert plain(text(screen)) == "a\nb\nc\nd\ne  taken back\n\nx\n"


def test_model_output_is_neither_markup_nor_control_sequence() -> None:
    screen = console()
    write(AnswerPrinter(screen), [("small", ["[bold]x[/bold]\x1b[2J\r\tz"], False)])
    assert plain(text(screen)) == "[bold]x[/bold]\u241b[2J\u240d    z\n"


def test_an_answer_without_text_leaves_nothing() -> None:
    screen = console()
    write(AnswerPrinter(screen), [("small", ["\n", "\n"], False)])
    assert text(screen) == ""
