"""The summary of an evaluation, as a table and JSON.

There is one record for each router and domain.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..util.files import write_whole
from ..util.intervals import shares
from ..util.text import cell, dump, prefix, significant
from .rows import ResultRow


def summarise(
    rows: Iterable[ResultRow], *, curve: Sequence[str] = (), order: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One record for each router and domain.

    All domains together stand under "all". Shares are pooled (tokens or steps of the large model
    over all kept ones); costs, seconds, hand-overs and discarded tokens are means per answer. ``n``
    counts problems; ``accuracy_se`` is the standard error over them, the seeds of a problem taken
    together (with one seed, the binomial sqrt(p (1 - p) / n)), ``accuracy_low`` and
    ``accuracy_high`` are its 95 % interval (Wilson's). ``accuracy_per_tflop`` is the A/F of STEER's
    tables: accuracy in per cent over FLOPs as papers count, x 1e-12, per answer. Of a router that
    drafts, ``tokens_per_large_pass`` is how many kept tokens a pass of the large model wrote, the
    passes that read the prompt included, and ``drafts_stayed`` the share of verified drafted tokens
    that stayed; None of others.

    ``random_accuracy_at_share``: the routers named by ``curve`` (random ones, and both models
    alone) give points (large token share reached, accuracy). The straight line between the two
    neighbouring points, read at a router's own large token share, is the accuracy of a random
    router that spends as much. Each domain, and "all", has a curve of its own. None without one.

    Args:
        rows: any number of answers.
        curve: names of the routers that make the random curve.
        order: names of routers in the order wanted; others follow.
    """
    groups: dict[tuple[str, str], list[ResultRow]] = {}
    for row in rows:
        for domain in (row.domain, "all"):
            groups.setdefault((domain, row.router), []).append(row)
    records = [_record(router, domain, group) for (domain, router), group in groups.items()]
    for domain in {record["domain"] for record in records}:
        here = [record for record in records if record["domain"] == domain]
        points = sorted(
            (record["large_token_share"], record["accuracy"])
            for record in here
            if record["router"] in curve
        )
        shares, accuracies = [x for x, _ in points], [y for _, y in points]
        for record in here:
            share = record["large_token_share"]
            at_share = float(np.interp(share, shares, accuracies)) if points else None
            record["random_accuracy_at_share"] = at_share
    rank = {name: place for place, name in enumerate(order)}
    domains = list(
        dict.fromkeys(record["domain"] for record in records if record["domain"] != "all")
    )
    place = {name: i for i, name in enumerate(["all", *domains])}
    return sorted(records, key=lambda r: (place[r["domain"]], rank.get(r["router"], len(rank))))


def _record(router: str, domain: str, rows: Sequence[ResultRow]) -> dict[str, Any]:
    n = len(rows)
    flops = sum(r.flops_paper for r in rows) / n
    by_problem: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in rows:
        by_problem[row.domain, row.problem].append(row.correct)
    means = np.array([np.mean(correct) for correct in by_problem.values()])
    column = means[:, None]
    _, low, high = shares(column, np.ones_like(column), [name[0] for name in by_problem])
    return {
        "router": router,
        "domain": domain,
        "n": len(means),
        "answers": n,
        "accuracy": float(means.mean()),
        "accuracy_se": float(means.std() / math.sqrt(len(means))),
        "accuracy_low": float(low[0]),
        "accuracy_high": float(high[0]),
        "large_token_share": sum(r.large_tokens for r in rows)
        / max(1, sum(r.tokens for r in rows)),
        "large_step_share": sum(r.large_steps for r in rows) / max(1, sum(r.steps for r in rows)),
        "flops_paper": flops,
        "accuracy_per_tflop": 100 * float(means.mean()) / (flops / 1e12) if flops else None,
        "flops_processed": sum(r.flops_processed for r in rows) / n,
        "bytes_read": sum(r.bytes_read for r in rows) / n,
        "seconds": sum(r.seconds for r in rows) / n,
        "hand_overs": sum(r.hand_overs for r in rows) / n,
        "discarded_tokens": sum(r.discarded_tokens for r in rows) / n,
        **_drafting(rows),
    }


def _drafting(rows: Sequence[ResultRow]) -> dict[str, float | None]:
    """What drafts brought; None where none was verified, or where the passes are not known."""
    drafted = sum(r.drafted_tokens for r in rows)
    passes = [r.large_passes for r in rows if r.large_passes is not None]
    known = drafted and sum(passes) and len(passes) == len(rows)
    return {
        "tokens_per_large_pass": sum(r.large_tokens for r in rows) / sum(passes) if known else None,
        "drafts_stayed": sum(r.stayed_tokens for r in rows) / drafted if drafted else None,
    }


_COSTS = (
    ("flops_paper", "FLOP as papers"),
    ("flops_processed", "FLOP processed"),
    ("bytes_read", "B read"),
)
Scales = Mapping[str, tuple[float, str]]


def never_right(rows: Sequence[ResultRow]) -> list[str]:
    """Domains in which no answer of any router is right."""
    right: dict[str, bool] = {}
    for row in rows:
        right[row.domain] = right.get(row.domain, False) or row.correct
    return [domain for domain, any_right in right.items() if not any_right]


def scales(summary: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, str]]:
    """Each cost's factor, and the prefix of its unit.

    All figures of a cost share them.
    """
    records = list(summary)
    return {key: prefix(record[key] for record in records) for key, _ in _COSTS}


def drafts(summary: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any router drafts."""
    return any(record["drafts_stayed"] is not None for record in summary)


def columns(units: Scales, drafts: bool = False) -> list[str]:
    """Titles of the columns of a table, with their units.

    With ``drafts`` two more, of what they brought.
    """
    return [
        "router",
        "accuracy %",
        "random %",
        "large tokens %",
        "large steps %",
        "hand-overs",
        *(f"{units[key][1]}{title}" for key, title in _COSTS),
        "s",
        *(("tokens a large pass", "drafts kept %") if drafts else ()),
    ]


def cells(record: Mapping[str, Any], units: Scales, drafts: bool = False) -> list[str]:
    """The figures of one record under :func:`columns`.

    Costs are means per answer.
    """
    chance = record["random_accuracy_at_share"]
    value, low, high = (100 * record[f"accuracy{end}"] for end in ("", "_low", "_high"))
    a_pass, stayed = record["tokens_per_large_pass"], record["drafts_stayed"]
    more = (
        "" if a_pass is None else f"{a_pass:.2f}",
        "" if stayed is None else f"{100 * stayed:.1f}",
    )
    return [
        record["router"],
        f"{value:.1f} ({low:.1f} to {high:.1f})",
        "" if chance is None else f"{100 * chance:.1f}",
        f"{100 * record['large_token_share']:.1f}",
        f"{100 * record['large_step_share']:.1f}",
        f"{record['hand_overs']:.2f}",
        *(significant(record[key] / units[key][0], 4) for key, _ in _COSTS),
        f"{record['seconds']:.3f}",
        *(more if drafts else ()),
    ]


def markdown(summary: Sequence[Mapping[str, Any]]) -> str:
    """The summary as one Markdown table a domain."""
    parts = []
    units = scales(summary)
    drafted = drafts(summary)
    titles = columns(units, drafted)
    for domain in dict.fromkeys(record["domain"] for record in summary):
        here = [record for record in summary if record["domain"] == domain]
        lines = [f"### {cell(domain)}, n = {max(r['n'] for r in here)}", ""]
        lines.append("| " + " | ".join(titles) + " |")
        lines.append("|---|" + "---:|" * (len(titles) - 1))
        lines += [
            "| " + " | ".join(map(cell, cells(record, units, drafted))) + " |" for record in here
        ]
        parts.append("\n".join(lines) + "\n")
    note = (
        "In brackets 95 % intervals. Costs, seconds and hand-overs are means per answer; random % "
        "is the accuracy of random routing at the router's own share of large-model tokens.\n"
    )
    if drafted:
        note += (
            "Of routers that draft: kept tokens that a pass of the large model wrote, and how many "
            "of the drafted tokens that it read stayed.\n"
        )
    return "\n".join([*parts, note])


def write(folder: Path, summary: Sequence[Mapping[str, Any]]) -> None:
    """Write ``summary.json`` and ``summary.md``."""
    write_whole(folder / "summary.json", dump(list(summary), indent=1) + "\n")
    write_whole(folder / "summary.md", markdown(summary))
