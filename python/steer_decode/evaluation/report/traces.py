"""The answers that a page carries for its browser.

Whole problems, up to a cap.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest
from typing import Any

from ...util.text import printable
from ..rows import ResultRow, StepRecord
from .confidence import signal_of
from .data import Name, Results

ANSWERS = 300
BYTES = 3_000_000
_TEXT = 6_000


@dataclass(frozen=True)
class Traces:
    """``data`` for the page, and how many answers it holds."""

    data: dict[str, Any]
    shown: int
    total: int
    problems: int

    def json(self) -> str:
        """JSON that may stand inside a script element.

        No "<" in it can close the element.
        """
        shown = _shown(self.data)
        text = json.dumps(shown, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        for character in "<>&\u2028\u2029":
            text = text.replace(character, f"\\u{ord(character):04x}")
        return text


def _shown(data: Any) -> Any:
    """``data`` with every text in it printable."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, dict):
        return {_shown(key): _shown(value) for key, value in data.items()}
    return [_shown(value) for value in data] if isinstance(data, list | tuple) else data


def choose(results: Results, answers: int = ANSWERS, size: int = BYTES) -> Traces:
    """Choose problems in turn from each domain.

    They come with the answers of all routers, while there is room.
    """
    by_problem: dict[Name, list[ResultRow]] = defaultdict(list)
    for rows in results.rows.values():
        for row in rows:
            by_problem[row.domain, row.problem].append(row)
    total = sum(map(len, by_problem.values()))
    chosen: list[dict[str, Any]] = []
    problems: dict[str, dict[str, Any]] = {}
    room = size
    for name in _in_turn(results):
        group = [_answer(row) for row in by_problem[name]]
        room -= sum(len(json.dumps(answer)) for answer in group)
        # The first problem is shown however long it is.
        if problems and (len(chosen) + len(group) > answers or room < 0):
            break
        chosen += group
        problems[":".join(name)] = _problem(results, name)
    data = {
        "answers": chosen,
        "problems": problems,
        "signals": {router: signal_of(results, router)[0] for router in results.routers},
    }
    return Traces(data, len(chosen), total, len(problems))


def _in_turn(results: Results) -> list[Name]:
    lists = [[n for n in results.names if n[0] == domain] for domain in results.domains]
    return [name for turn in zip_longest(*lists) for name in turn if name is not None]


def _problem(results: Results, name: Name) -> dict[str, Any]:
    problem = results.problems.get(name)
    if problem is None:
        return {"prompt": "", "answer": "", "difficulty": None}
    return {
        "prompt": _cut(problem.prompt),
        "answer": _cut(problem.answer),
        "difficulty": problem.difficulty,
    }


def _answer(row: ResultRow) -> dict[str, Any]:
    steps = [_step(step) for step in row.trace]
    record: dict[str, Any] = {
        "router": row.router,
        "domain": row.domain,
        "problem": row.problem,
        "seed": row.seed,
        "correct": row.correct,
        "large": row.large_tokens,
        "tokens": row.tokens,
        "handOvers": row.hand_overs,
        "stop": row.stop_reason,
        "steps": steps,
    }
    return {**record, "error": _cut(row.error)} if row.error else record


def _step(step: StepRecord) -> dict[str, Any]:
    record = {**step.to_dict(), "text": _cut(step.text)}
    for name in ("prefilled", "inherited", "patches"):
        record.pop(name, None)
    if step.patches and len(step.text) <= _TEXT:
        cuts = [0, *chain.from_iterable(step.patches), len(step.text)]
        parts = [printable(step.text[start:end]) for start, end in pairwise(cuts)]
        record["parts"] = [parts[0].lstrip(), *parts[1:-1], parts[-1].rstrip()]
    return record


def _cut(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _TEXT else f"{shown[:_TEXT]} ... ({len(shown):,} characters)"
