"""What a trace shows of drafts: how many tokens of a step stayed, and how many stand unread."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from steer_decode.cli.view.answer import page
from steer_decode.cli.view.trace import TraceView
from steer_decode.core.cost import Cost, Usage
from steer_decode.core.events import RoutedOutput
from steer_decode.core.saved import SavedAnswer, document, load
from steer_decode.core.trace import Step, Trace
from steer_decode.policies import parse_policy

DRAFTS = [(4, 4), (4, 1)]


def answer(*steps: Step) -> SavedAnswer:
    cost = Cost(2e6, 3.5e6, 12e6, 0.0123, Usage(3, 2), Usage(2), 2 / 3, 0.5, 2, 2)
    trace = Trace("both-sides:part=4", "max-logit", [5, 6], list(steps), "eos")
    output = RoutedOutput("a b cd", [1, 2, 3, 4], trace, cost)
    models = {"small": "a", "large": "b"}
    return SavedAnswer("?", models, {"small": 1, "large": 9}, output, True)  # type: ignore[arg-type]


def shown(one: SavedAnswer) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    for part in page(one):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def drafted() -> SavedAnswer:
    first = Step(0, "large", [1, 2, 3], "a b c", [1.0] * 3, ends=[1, 3, 5], drafts=DRAFTS)
    first.others = [2]
    return answer(first, Step(1, "small", [4], "d", [2.0], ends=[1]))


def test_a_step_with_drafts_says_how_many_stayed() -> None:
    text = shown(drafted())
    lines = [line.split() for line in text.splitlines()]
    assert ["step", "max-logit", "drafts", "ms"] in lines
    assert ["0", "L", "a", "b", "c", "1.00", "5/8", "0.0"] in lines
    assert ["1", "S", "d", "2.00", "0.0"] in lines
    assert "2 drafts read by L: 5 of 8 tokens stayed, 1 more stands unread" in text


def test_without_drafts_there_is_no_column() -> None:
    assert "draft" not in shown(answer(Step(0, "large", [1], "a", [1.0], ends=[1])))


def test_a_router_that_drafts_has_the_column_before_it_has_drafted() -> None:
    titles = {
        name: [column.title for column in TraceView.of(parse_policy(name)).columns]
        for name in ("speculative", "large:draft=4", "large")
    }
    assert ["drafts" in of for of in titles.values()] == [True, True, False]


def test_a_saved_trace_keeps_its_drafts(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(document(drafted(), {}))
    assert [step.drafts for step in load(path)[0].output.trace.steps] == [DRAFTS, []]
