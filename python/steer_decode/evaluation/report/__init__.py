"""One page from the results of evaluations.

Accuracy against cost, chance, confidence, and answers to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SteerError
from ...util.files import write_whole
from ...util.text import dump
from .bootstrap import RESAMPLES
from .data import Results, load
from .traces import ANSWERS

if TYPE_CHECKING:
    from .area import Areas
    from .bootstrap import Bootstrap
    from .drafts import DraftFigures
    from .measure import Scope
    from .picture import Picture
    from .styles import Style

__all__ = ["Report", "Results", "build", "check_packages", "load"]

_DOMAINS = 6
_ROUTERS = 6


def check_packages() -> None:
    """Check that the packages of a report are there.

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
    pictures: Sequence[Picture]
    numbers: Sequence[dict[str, Any]]

    def write(self, path: Path, figures: Path | None = None) -> None:
        """Write the page, and pictures if there is a folder.

        The folder ``figures`` gets every picture and routers.json.
        """
        if figures is not None:
            for picture in self.pictures:
                picture.save(figures)
            write_whole(figures / "routers.json", dump(list(self.numbers), indent=1) + "\n")
        write_whole(path, self.page)


def build(
    results: Results,
    *,
    title: str = "Routing between two language models",
    seconds: bool = False,
    answers: int = ANSWERS,
    resamples: int = RESAMPLES,
) -> Report:
    """Measure, draw and write the page.

    Args:
        results: of :func:`load`.
        seconds: show seconds as a fifth cost. They depend on the machine and what else it did.
        answers: most answers that the page carries.
        resamples: of the bootstrap.
    """
    from . import draw_drafts, page
    from .bootstrap import Bootstrap
    from .measure import measure
    from .styles import styles as assign
    from .traces import choose

    boot = Bootstrap([domain for domain, _ in results.names], resamples)
    domains = [None, *results.domains] if len(results.domains) > 1 else [None]
    scopes = [measure(results, boot, domain, seconds) for domain in domains]
    described = {name: str(text) for name, text in results.settings["routers"].items()}
    styles = assign([(r.router, r.kind) for r in scopes[0].routers], described)
    drawn = results.routed()[:_ROUTERS] or results.routers[:_ROUTERS]
    sections = {
        **_draw_costs(scopes, styles),
        **_draw_steps(results, boot, styles, drawn),
        "drafts": draw_drafts.pictures(results, boot, styles, list(scopes[0].drafts)),
    }
    chosen = choose(results, answers)
    return Report(
        page=page.render(results, scopes, sections, styles, chosen, drawn, title, resamples),
        pictures=[picture for pictures in sections.values() for picture in pictures],
        numbers=[_numbers(scope) for scope in scopes],
    )


def _draw_costs(scopes: Sequence[Scope], styles: Mapping[str, Style]) -> dict[str, list[Picture]]:
    from .draw import above_chance, accuracy_against_cost
    from .draw_area import curves

    every = scopes[0]
    processed = next(cost for cost in every.costs if cost.key == "flops_processed")
    chance = above_chance(every, styles, "above-chance")
    return {
        "cost": [
            accuracy_against_cost(every, cost, styles, f"accuracy-{cost.key.replace('_', '-')}")
            for cost in every.costs
        ],
        "chance": [] if chance is None else [chance],
        "area": curves(every, styles),
        "domains": [
            accuracy_against_cost(scope, processed, styles, f"domain-{number}")
            for number, scope in enumerate(scopes[1 : 1 + _DOMAINS], 1)
        ],
    }


def _draw_steps(
    results: Results, boot: Bootstrap, styles: Mapping[str, Style], drawn: Sequence[str]
) -> dict[str, list[Picture]]:
    from . import draw_steps
    from .confidence import calibration, scores

    curves = [c for router in drawn if (c := calibration(results, boot, router)) is not None]
    histograms = [
        draw_steps.right_and_wrong(name, groups)
        for name, groups in scores(results).items()
        if groups
    ]
    return {
        "use": [
            draw_steps.use_by_position(results, boot, styles, drawn),
            *draw_steps.use_by_difficulty(results, boot, styles, drawn),
        ],
        "confidence": [
            *histograms,
            *(draw_steps.calibration_curve(c, i) for i, c in enumerate(curves, 1)),
        ],
    }


def _numbers(scope: Scope) -> dict[str, Any]:
    """The table of a scope as plain data; a figure is [value, low, high], null where unknown."""

    return {
        "domain": scope.name,
        "problems": scope.problems,
        "costs_relative_to_large": scope.relative,
        "routers": [
            {
                "router": r.router,
                "accuracy": _plain(r.accuracy),
                "costs": {key: _plain(value) for key, value in r.costs.items()},
                "absolute": r.absolute,
                "above_chance": {key: _plain(value) for key, value in r.above_chance.items()},
                "hand_overs": r.hand_overs,
                "discarded_tokens": r.discarded,
                "drafts": _drafts(scope.drafts.get(r.router)),
            }
            for r in scope.routers
        ],
        "pairs": [
            {
                "routers": [p.first, p.second],
                "accuracy": _plain(p.accuracy),
                "costs": {key: _plain(value) for key, value in p.costs.items()},
            }
            for p in scope.pairs
        ],
        "areas": _areas(scope.areas),
    }


def _drafts(figures: DraftFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    return {
        "verified": figures.drafts,
        "tokens_per_large_pass": _plain(figures.a_pass),
        "stayed": _plain(figures.stayed),
    }


def _areas(areas: Areas | None) -> dict[str, Any] | None:
    if areas is None:
        return None
    return {
        "families": [
            {
                "family": family.name,
                "routers": family.routers,
                "area": {key: _plain(value) for key, value in family.areas.items()},
                "routers_counted": family.counted,
                "curve": family.curves,
            }
            for family in areas.families
        ],
        "differences": [
            {
                "families": [first, second],
                "area": {key: _plain(value) for key, value in by_cost.items()},
            }
            for (first, second), by_cost in areas.differences.items()
        ],
    }


def _plain(value: Sequence[float]) -> list[float | None]:
    return [v if v == v else None for v in value]
