"""Results of an evaluation: a JSONL that survives interruptions, and the summary made from it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .calibration import write_whole
from .errors import SteerError

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Row:
    """One answer of one router to one problem; costs are totals of that answer."""

    router: str
    domain: str
    index: int
    difficulty: int
    correct: bool
    steps: int
    large_steps: int
    tokens: int
    large_tokens: int
    hand_overs: int
    discarded_tokens: int
    flops_paper: float
    flops_processed: float
    bytes_read: float
    seconds: float
    stop_reason: str
    text: str

    @property
    def key(self) -> Key:
        return self.router, self.domain, self.index


class ResultsFolder:
    """``results.jsonl``, one line an answer, and ``settings.json``, what they were made with.

    Raises:
        SteerError: the folder cannot be written, holds results made with other settings, or a
            line that is not a result.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._path = folder / "results.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._keep_settings(settings)
            self.rows = self._read()
            self._file: TextIO = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise SteerError(
                f"cannot write results to {str(folder)!r}: {error.strerror}; choose another --out"
            ) from error

    def add(self, row: Row) -> None:
        """Appends one line and hands it to the system at once."""
        self._file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        self._file.flush()
        self.rows[row.key] = row

    def close(self) -> None:
        self._file.close()

    def write_summary(self, summary: Sequence[Mapping[str, Any]]) -> None:
        """Writes ``summary.json`` and ``summary.md``."""
        write_whole(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        write_whole(self.folder / "summary.md", markdown(summary))

    def _keep_settings(self, settings: Mapping[str, Any]) -> None:
        path = self.folder / "settings.json"
        # Through JSON and back, so that tuples and lists are the same.
        new = json.loads(json.dumps(settings))
        if path.exists():
            try:
                old = json.loads(path.read_text(encoding="utf-8"))
                changed = _first_difference(old, new)
            except (ValueError, KeyError, AttributeError) as error:
                raise SteerError(
                    f"{str(path)!r} is not the settings of an evaluation: choose another --out"
                ) from error
            if changed:
                raise SteerError(
                    f"{str(self.folder)!r} holds results made with other settings ({changed}): "
                    "choose another --out, or go back to those settings"
                )
            new["routers"] = {**old["routers"], **new["routers"]}
        write_whole(path, json.dumps(new, indent=1) + "\n")

    def _read(self) -> dict[Key, Row]:
        if not self._path.exists():
            return {}
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            # The last line was being written when the run was killed; that answer is made again.
            os.truncate(self._path, whole)
        rows = {}
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                row = Row(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise SteerError(
                    f"line {number} of {str(self._path)!r} is not a result: choose another --out"
                ) from error
            rows[row.key] = row
        return rows


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    for key in old.keys() | new.keys():
        if key != "routers" and old.get(key) != new.get(key):
            return f"{key} was {old.get(key)}, now {new.get(key)}"
    for name, router in new["routers"].items():
        if old["routers"].get(name, router) != router:
            return f"router {name!r} was another one"
    return ""


def digest(settings: Mapping[str, Any]) -> str:
    """Eight characters that name settings other than the routers."""
    rest = {key: value for key, value in settings.items() if key != "routers"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:8]


def summarise(
    rows: Iterable[Row], *, curve: Sequence[str] = (), order: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One record for each router and domain, and for all domains together under "all".

    Shares are pooled (tokens or steps of the large model over all kept ones); costs, seconds,
    hand-overs and discarded tokens are means per answer; ``accuracy_se`` is the binomial standard
    error sqrt(p (1 - p) / n).

    ``random_accuracy_at_share``: the routers named by ``curve`` (random ones, and both models
    alone) give points (large token share reached, accuracy). The straight line between the two
    neighbouring points, read at a router's own large token share, is the accuracy of a random
    router that spends as much. Each domain, and "all", has a curve of its own. None without one.

    Args:
        rows: any number of answers.
        curve: names of the routers that make the random curve.
        order: names of routers in the order wanted; others follow.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
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


def _record(router: str, domain: str, rows: Sequence[Row]) -> dict[str, Any]:
    n = len(rows)
    accuracy = sum(row.correct for row in rows) / n
    return {
        "router": router,
        "domain": domain,
        "n": n,
        "accuracy": accuracy,
        "accuracy_se": math.sqrt(accuracy * (1 - accuracy) / n),
        "large_token_share": sum(r.large_tokens for r in rows)
        / max(1, sum(r.tokens for r in rows)),
        "large_step_share": sum(r.large_steps for r in rows) / max(1, sum(r.steps for r in rows)),
        "flops_paper": sum(r.flops_paper for r in rows) / n,
        "flops_processed": sum(r.flops_processed for r in rows) / n,
        "bytes_read": sum(r.bytes_read for r in rows) / n,
        "seconds": sum(r.seconds for r in rows) / n,
        "hand_overs": sum(r.hand_overs for r in rows) / n,
        "discarded_tokens": sum(r.discarded_tokens for r in rows) / n,
    }


COLUMNS = (
    "router",
    "accuracy %",
    "random %",
    "large tokens %",
    "large steps %",
    "hand-overs",
    "MFLOP as papers",
    "MFLOP processed",
    "MB read",
    "s",
)


def cells(record: Mapping[str, Any]) -> list[str]:
    """The figures of one record under :data:`COLUMNS`; costs are means per answer."""
    chance = record["random_accuracy_at_share"]
    return [
        record["router"],
        f"{100 * record['accuracy']:.1f} ± {100 * record['accuracy_se']:.1f}",
        "" if chance is None else f"{100 * chance:.1f}",
        f"{100 * record['large_token_share']:.1f}",
        f"{100 * record['large_step_share']:.1f}",
        f"{record['hand_overs']:.2f}",
        *(f"{record[key] / 1e6:.4g}" for key in ("flops_paper", "flops_processed", "bytes_read")),
        f"{record['seconds']:.3f}",
    ]


def markdown(summary: Sequence[Mapping[str, Any]]) -> str:
    """The summary as one Markdown table a domain."""
    parts = []
    for domain in dict.fromkeys(record["domain"] for record in summary):
        here = [record for record in summary if record["domain"] == domain]
        lines = [f"### {domain}, n = {max(r['n'] for r in here)}", ""]
        lines.append("| " + " | ".join(COLUMNS) + " |")
        lines.append("|---|" + "---:|" * (len(COLUMNS) - 1))
        lines += ["| " + " | ".join(cells(record)) + " |" for record in here]
        parts.append("\n".join(lines) + "\n")
    note = (
        "Costs, seconds and hand-overs are means per answer; random % is the accuracy of random "
        "routing at the router's own share of large-model tokens.\n"
    )
    return "\n".join([*parts, note])
