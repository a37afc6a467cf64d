"""What a trace looks like: columns, marks, colours, numbers, and nothing that the text commands."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from steer_decode.cli.view.answer import page, svg
from steer_decode.cli.view.chat import status
from steer_decode.cli.view.trace import TracePrinter, TraceView
from steer_decode.core.cost import Cost, Usage
from steer_decode.core.events import HandOver, RoutedOutput, StepClosed, TextDelta
from steer_decode.core.saved import SavedAnswer, document, load
from steer_decode.core.trace import Step, Trace
from steer_decode.decode.session import Turn
from steer_decode.errors import SteerError
from steer_decode.evaluation.summary import markdown, summarise
from steer_decode.util.text import duration, printable, si, significant
from support import made_results as made

STEPS = [
    Step(
        *(0, "small", [1, 2], "31 = 5 *6\n\n", [9.0, 10.0]),
        posterior=0.1,
        prefilled=4,
        discarded=True,
        milliseconds=3.21,
    ),
    Step(
        *(0, "large", [3, 2], "30 = 5 *6\n\n", [14.0, 15.0]),
        posterior=0.9,
        prefilled=4,
        milliseconds=7.0,
    ),
    Step(1, "small", [4], "answer 30", [float("inf")], prefilled=2, milliseconds=1.0),
]


def answer(steps: list[Step] = STEPS, correct: bool | None = True) -> SavedAnswer:
    cost = Cost(2e6, 3.5e6, 12e6, 0.0123, Usage(3, 2), Usage(2), 2 / 3, 0.5, 2, 2)
    trace = Trace("steer:gamma=0.6", "max-logit", [5, 6], steps, "eos")
    output = RoutedOutput("30 = 5 *6\n\nanswer 30", [3, 2, 4], trace, cost)
    models = {"small": "a", "large": "b"}
    parameters = {"small": 246_000, "large": 3_470_000}
    return SavedAnswer("Compute 5 *6 ?", models, parameters, output, correct)  # type: ignore[arg-type]


def plain(*parts: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for part in parts:
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_step_has_its_index_writer_text_and_figures() -> None:
    lines = [line.split() for line in plain(*page(answer())).splitlines()]
    assert ["0", "S", "31", "=", "5", "*6", "9.50", "0.10", "3.2"] in lines
    assert ["0", "L", "30", "=", "5", "*6", "14.50", "0.90", "7.0"] in lines
    assert ["step", "max-logit", "P(conf)", "ms"] in lines


def test_hand_overs_and_discards_have_lines_of_their_own() -> None:
    text = plain(*page(answer()))
    assert "→ large model takes over, reads 4 tokens" in text
    assert "→ small model takes over, reads 2 tokens" in text
    assert text.count("taken back:") == 1


def test_the_four_costs_have_units() -> None:
    text = plain(*page(answer()))
    assert "2.00 MFLOP as papers count, 3.50 MFLOP processed, 12.0 MB read, 0.0123 s" in text
    assert "S 1 step, 1 token   L 1 step, 2 tokens   67 % of tokens by L" in text


@pytest.mark.parametrize(
    ("shown", "milliseconds"),
    [
        ("0.1", 0.1),
        ("9999.9", 9999.9),
        ("14313", 14313.0),
        ("143135", 143135.4),
        ("1431 s", 1431351.0),
        ("9999 s", 9998999.0),
        ("4 h", 14313510.0),
    ],
)
def test_no_figure_of_a_slow_model_is_cut_off(shown: str, milliseconds: float) -> None:
    step = Step(0, "small", [1], "word", [-123456789.25], milliseconds=milliseconds)
    line = plain(TraceView("max-logit").step(step))
    assert "…" not in line
    assert line.split()[-len(shown.split()) :] == shown.split()
    assert "-1.23e+08" in line


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("294 G", 2.943e11),
        ("1.00 E", 1e18),
        ("12.3 Y", 1.23e25),
        ("999 k", 999_400),
        ("1.00 M", 999_600),
        ("999 ", 999.0),
        ("0.0000100 ", 1e-5),
    ],
)
def test_metric_prefixes(shown: str, value: float) -> None:
    assert si(value) == shown


def test_no_figure_is_a_power_of_ten() -> None:
    assert [significant(x) for x in (0.0, 0.0123, 2.0, 71.66, 14313.4, 2e-6, -5e9)] == [
        "0",
        "0.0123",
        "2",
        "71.7",
        "14,313",
        "0.00000200",
        "-5,000,000,000",
    ]
    assert duration(14313.4) == "14,313 s"


def test_a_column_of_the_summary_has_one_unit_that_fits() -> None:
    rows = [
        made.row("small", "math", 0, flops_paper=2.1e9, flops_processed=3e14, bytes_read=12.0),
        made.row("large", "math", 0, flops_paper=2.943e11, flops_processed=2e15, bytes_read=0.0),
    ]
    table = markdown(summarise(rows))
    assert "| GFLOP as papers | PFLOP processed | B read |" in table
    assert "| 2.1 | 0.3 | 12 |" in table
    assert "| 294.3 | 2 | 0 |" in table
    assert "e+" not in table


def test_comparison_gives_ratios_to_the_large_model_alone() -> None:
    text = plain(*page(answer(), {"small": answer(correct=False), "large": answer()}))
    assert "3.50 MFLOP  1.00x" in text
    assert "answer 30  wrong" in text
    assert "answer 30  right" in text


def test_columns_line_up_and_long_steps_wrap() -> None:
    long = Step(12, "small", [1], "word " * 60, [1.0], milliseconds=1.0)
    lines = plain(TraceView.of(answer().output.trace).step(long), width=80).splitlines()
    assert len(lines) > 3
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert lines[-1].split()[-1] == "1.0"


def test_colours_follow_the_writer() -> None:
    console = Console(
        file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor", no_color=False
    )
    console.print(TraceView.of(answer().output.trace).steps(answer().output.trace))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "38;2;42;157;143" in text
    assert "38;2;224;122;63" in text


def test_model_output_is_neither_markup_nor_control_sequence() -> None:
    step = Step(0, "small", [1], "[bold]x[/bold] \x1b[31mred\x07", [1.0])
    text = plain(TraceView("entropy").step(step))
    assert "[bold]x[/bold]" in text
    assert "\x1b" not in text
    assert printable("a\x1bb\nc") == "a\u241bb\nc"


def test_printer_shows_the_same_steps_as_the_finished_trace() -> None:
    trace = answer().output.trace
    view = TraceView.of(trace)
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with TracePrinter(console, view) as printer:
        printer.show(TextDelta("31", 1, "small", 0))
        printer.show(StepClosed(STEPS[0]))
        printer.show(HandOver(0, "large", 4))
        printer.show(StepClosed(STEPS[1]))
        printer.show(HandOver(1, "small", 2))
        printer.show(StepClosed(STEPS[2]))
    assert console.file.getvalue() == plain(view.steps(trace))  # type: ignore[attr-defined]


MENDED = [
    Step(
        *(0, "small", [1, 2, 3], "31 = 5 *6\n\n", [9.0, 10.0, 9.0]),
        discarded=True,
        refused=0,
        ends=[2, 9, 11],
    ),
    Step(*(0, "small", [4, 2, 3], "30 = 5 *6\n\n", [9.0] * 3), others=[0], ends=[2, 9, 11]),
    Step(1, "small", [5, 6], "answer 31", [1.0, 1.0], discarded=True, refused=1, ends=[7, 9]),
    Step(1, "small", [5, 7], "answer 30", [1.0, 1.0], others=[1], inherited=1, ends=[7, 9]),
]


def test_a_mended_step_says_so_and_shows_whose_token_it_is() -> None:
    text = plain(*page(answer(MENDED)))
    assert text.count("refused at token 0: the large model writes that one") == 1
    assert text.count("refused at token 1: the large model writes that one") == 1
    assert "S 2 steps, 3 tokens   L 0 steps, 2 tokens" in text
    assert "0 steps taken back, 2 tokens mended" in text
    bodies = {i: TraceView("margin")._body(step) for i, step in enumerate(MENDED)}
    assert [body.plain for body in bodies.values()] == [
        *("31 = 5 *6", "30 = 5 *6", "answer 31", "answer 30")
    ]
    large = {
        i: [b.plain[s.start : s.end] for s in b.spans if "e07a3f" in str(s.style)]
        for i, b in bodies.items()
    }
    assert large == {0: [], 1: ["30"], 2: [], 3: ["30"]}
    struck = {
        i: [b.plain[s.start : s.end] for s in b.spans if "strike" in str(s.style)]
        for i, b in bodies.items()
    }
    assert struck == {0: ["31 = 5 *6"], 1: [], 2: ["31"], 3: []}


def test_printer_shows_mended_steps_as_the_finished_trace_does() -> None:
    trace = answer(MENDED).output.trace
    view = TraceView.of(trace)
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with TracePrinter(console, view) as printer:
        for step in MENDED:
            if step.others:  # the pen goes over and comes back within the step
                printer.show(HandOver(step.index, "large", 0))
                printer.show(HandOver(step.index, "small", 1))
            printer.show(StepClosed(step))
    assert console.file.getvalue() == plain(view.steps(trace))  # type: ignore[attr-defined]


def test_printer_keeps_a_step_that_was_cut_short() -> None:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with TracePrinter(console, TraceView("max-logit")) as printer:
        printer.show(TextDelta("31 =", 1, "small", 0))
    assert "31 = ..." in console.file.getvalue()  # type: ignore[attr-defined]


def test_svg_is_the_same_every_time() -> None:
    picture = svg(answer())
    assert picture.startswith("<svg")
    assert picture == svg(answer())
    assert "#2a9d8f" in picture


def test_document_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(document(answer(), {"large": answer()}))
    assert json.loads(path.read_text())["trace"]["steps"][2]["values"] == [None]
    again, alone = load(path)
    assert plain(*page(again, alone)) == plain(*page(answer(), {"large": answer()}))


def test_other_json_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"version": 1}')
    with pytest.raises(SteerError, match="is not a trace"):
        load(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 "), (999.4, "999 "), (999.6, "1.00 k"), (1234567, "1.23 M"), (123e9, "123 G")],
)
def test_units(value: float, text: str) -> None:
    assert si(value) == text


def test_of_a_mixture_of_experts_active_parameters_are_shown_and_counted(tmp_path: Path) -> None:
    dense = answer()
    mixture = replace(dense, active={"large": 1_000_000})
    assert "active" not in plain(*page(dense))
    assert "3.47 M parameters, 1.00 M active" in plain(*page(mixture))
    (tmp_path / "trace.json").write_text(document(mixture))
    assert load(tmp_path / "trace.json")[0].active == mixture.active
    assert "active" not in dense.to_dict()["models"]["large"]
    turn = Turn.__new__(Turn)  # of which nothing is asked
    ratios = [plain(status(one, turn, False)).split("x L's")[0] for one in (dense, mixture)]
    tokens = len(dense.output.token_ids)
    for ratio, n in zip(ratios, (3_470_000, 1_000_000), strict=True):
        assert ratio.endswith(f"{dense.output.cost.flops_paper / (2 * n * tokens):.2f}")
