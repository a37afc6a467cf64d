"""One page from the results of evaluations: accuracy against cost, chance, confidence, answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..calibration import write_whole
from ..errors import SteerError
from .bootstrap import RESAMPLES
from .data import Results, load
from .traces import ANSWERS

__all__ = ["Report", "Results", "build", "check_packages", "load"]

_DOMAINS = 6
_ROUTERS = 6


def check_packages() -> None:
    """
    Raises:
        SteerError: matplotlib or jinja2 is missing.
    """
    missing = [name for name in ("matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        raise SteerError(
            f"a report needs {' and '.join(missing)}: pip install steer-kernels[report]"
        )


@dataclass(frozen=True)
class Report:
    """A page, its pictures and its numbers, still in memory."""

    page: str
    pictures: Sequence[Any]
    numbers: Sequence[dict[str, Any]]

    def write(self, path: Path, figures: Path | None = None) -> None:
        """Writes the page; and into the folder ``figures`` every picture and routers.json."""
        if figures is not None:
            figures.mkdir(parents=True, exist_ok=True)
            for picture in self.pictures:
                picture.save(figures)
            write_whole(figures / "routers.json", json.dumps(self.numbers, indent=1) + "\n")
        write_whole(path, self.page)


def build(
    results: Results,
    *,
    title: str = "Routing between two language models",
    seconds: bool = False,
    answers: int = ANSWERS,
    resamples: int = RESAMPLES,
) -> Report:
    """Measures, draws and writes the page.

    Args:
        results: of :func:`load`.
        seconds: show seconds as a fifth cost. They depend on the machine and what else it did.
        answers: most answers that the page carries.
        resamples: of the bootstrap.
    """
    from . import draw, draw_steps, page
    from .bootstrap import Bootstrap
    from .confidence import calibration, scores
    from .measure import measure
    from .palette import styles as assign
    from .traces import choose

    boot = Bootstrap([domain for domain, _ in results.names], resamples)
    domains: list[str | None] = [None]
    if len(results.domains) > 1:
        domains += results.domains
    scopes = [measure(results, boot, domain, seconds) for domain in domains]
    every = scopes[0]
    styles = assign([(r.router, r.kind) for r in every.routers])
    processed = next(cost for cost in every.costs if cost.key == "flops_processed")
    drawn = results.routed()[:_ROUTERS] or results.routers[:_ROUTERS]
    chance = draw.above_chance(every, styles, "above-chance")
    curves = [c for router in drawn if (c := calibration(results, boot, router)) is not None]
    sections = [
        (
            "cost",
            [
                draw.accuracy_against_cost(every, cost, styles, f"accuracy-{_slug(cost.key)}")
                for cost in every.costs
            ],
        ),
        ("chance", [] if chance is None else [chance]),
        (
            "domains",
            [
                draw.accuracy_against_cost(scope, processed, styles, f"domain-{number}")
                for number, scope in enumerate(scopes[1 : 1 + _DOMAINS], 1)
            ],
        ),
        (
            "use",
            [
                draw_steps.use_by_position(results, boot, styles, drawn),
                *draw_steps.use_by_difficulty(results, boot, styles, drawn),
            ],
        ),
        (
            "confidence",
            [
                *(draw_steps.right_and_wrong(name, g) for name, g in scores(results).items() if g),
                *(draw_steps.calibration_curve(c, i) for i, c in enumerate(curves, 1)),
            ],
        ),
    ]
    return Report(
        page=page.render(
            results, scopes, sections, styles, choose(results, answers), drawn, title, resamples
        ),
        pictures=[picture for _, pictures in sections for picture in pictures],
        numbers=[_numbers(scope) for scope in scopes],
    )


def _slug(key: str) -> str:
    return key.replace("_", "-")


def _numbers(scope: Any) -> dict[str, Any]:
    """The table of a scope as plain data; a figure is [value, low, high], null where unknown."""

    def plain(value: Sequence[float]) -> list[float | None]:
        return [v if v == v else None for v in value]

    return {
        "domain": scope.name,
        "problems": scope.problems,
        "costs_relative_to_large": scope.relative,
        "routers": [
            {
                "router": r.router,
                "accuracy": plain(r.accuracy),
                "costs": {key: plain(value) for key, value in r.costs.items()},
                "absolute": r.absolute,
                "above_chance": {key: plain(value) for key, value in r.above_chance.items()},
                "hand_overs": r.hand_overs,
                "discarded_tokens": r.discarded,
            }
            for r in scope.routers
        ],
    }
