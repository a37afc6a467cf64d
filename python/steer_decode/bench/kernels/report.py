"""Rows as tables, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import SteerError
from ...util import files
from ...util.files import write_whole
from ...util.text import significant

KEYS = (
    "op",
    "backend",
    "device",
    "dtype",
    "batch",
    "vocab",
    "k",
    "sampling",
    "threads",
    "clock",
    "median_us",
    "gbps",
    "peer",
    "peer_us",
    "ratio",
)
_CASE = KEYS[:10]
_SETTINGS = ("dtype", "batch", "vocab", "k", "sampling", "threads", "clock")
_HEAD = (*_SETTINGS, "us", "GB/s", "% of copy")
EARLIER = "earlier us"  # of the file that the cases are from
# By a copy, which writes what these only read.
MOVED_TWICE = ("logit_stats", "sample_logits", "accept_drafts")

NOTE = (
    "A peer's column is peer time / our time: how many times faster ours is. "
    "% of copy: our GB/s over that of a copy of the same input, which reads and writes, in the "
    "same run; above 100 % the input came from a cache."
)

Record = Mapping[str, Any]


class JsonFile:
    """A list of rows in a file of JSON.

    The file is whole JSON after every `add`.

    Raises:
        SteerError: the file cannot be written.
    """

    def __init__(self, path: Path, option: str = "--json") -> None:
        check_writable(path, option)
        self._path = path
        self._rows: list[Record] = []

    def add(self, rows: Iterable[Record]) -> None:
        self._rows += rows
        lines = ",\n ".join(json.dumps(dict(row)) for row in self._rows)
        write_whole(self._path, f"[{lines}]\n")


def check_writable(path: Path, option: str) -> None:
    """Check that the file can be written.

    Raises:
        SteerError: the path is a folder, or nothing can be written beside it.
    """
    if path.is_dir():
        raise SteerError(f"cannot write {str(path)!r}, which is a folder: choose another {option}")
    try:
        files.check_writable(path)
    except SteerError as error:
        raise SteerError(f"{error}; choose another {option}") from error


def copy_share(row: Record) -> float | None:
    """Our bandwidth over that of a copy.

    From the row whose peer is the copy.
    """
    if row["peer"] != "copy":
        return None
    return float(row["ratio"]) / (2 if row["op"] in MOVED_TWICE else 1)


Tables = dict[str, tuple[list[str], list[list[str]]]]


def tables(rows: Sequence[Record], width: int | None = None) -> Tables:
    """Head and lines of each table, by its title.

    The title names op and backend. A line is a case and a clock, and each peer has a column. Where
    that is wider than `width` characters, every peer has a line. With a width, what is the same in
    all lines stands in the title; a sampling or a clock that is the same in all of them always
    does.
    """
    found: Tables = {}
    for op in dict.fromkeys(row["op"] for row in rows):
        here = [row for row in rows if row["op"] == op]
        peers = list(dict.fromkeys(row["peer"] for row in here))
        cases: dict[tuple[Any, ...], dict[str, Record]] = {}
        for row in here:
            cases.setdefault(tuple(row.get(key) for key in _CASE), {})[row["peer"]] = row
        title = f"{op}, " + ", ".join(dict.fromkeys(row["backend"] for row in here))
        compared = any("earlier_us" in row for row in here)
        head = [*_HEAD, *([EARLIER] if compared else []), *peers]
        lines = [_line(case, peers, compared) for case in cases.values()]
        common = _take_out_constants(head, lines, "sampling", "clock")
        if width is not None:
            if _width(head, lines) > width:
                head, lines = _a_line_a_peer(list(cases.values()), compared)
                _take_out_constants(head, lines, "sampling", "clock")
            common = _take_out_constants(head, lines, "k", "threads") + common
        title += common
        found[title] = head, lines
    return found


def _width(head: Sequence[str], lines: Sequence[Sequence[str]]) -> int:
    """Characters of a table whose head may be broken between words, with a space after a column."""
    words = [max(map(len, name.split())) for name in head]
    cells = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return sum(max(pair) + 1 for pair in zip(words, cells, strict=True))


def _a_line_a_peer(
    cases: Sequence[Mapping[str, Record]], compared: bool
) -> tuple[list[str], list[list[str]]]:
    lines = []
    for by_peer in cases:
        left = _line(by_peer, [], compared)
        for peer, row in by_peer.items():
            lines.append([*left, peer, f"{row['peer_us']:.1f}", f"{row['ratio']:.2f}x"])
            ours = len(left) - len(_SETTINGS)
            left = [*left[: len(_SETTINGS)], *[""] * ours]  # our figures once
    return [*_HEAD, *([EARLIER] if compared else []), "peer", "peer us", "ratio"], lines


def _take_out_constants(head: list[str], lines: list[list[str]], *names: str) -> str:
    """Removes those columns of ``names`` that say the same everywhere; returns what they say."""
    taken = ""
    for name in names:
        place = head.index(name)
        values = {line[place] for line in lines}
        if len(values) > 1:
            continue
        del head[place]
        for line in lines:
            del line[place]
        value = values.pop()
        taken += f", {name} = {value}" if value not in ("", "plain", "host") else ""
    return taken


def _line(by_peer: Mapping[str, Record], peers: Sequence[str], compared: bool) -> list[str]:
    first = next(iter(by_peer.values()))
    earlier = first.get("earlier_us")
    told = "" if earlier is None else f"{earlier:.1f} ({earlier / first['median_us']:.2f}x)"
    share = copy_share(by_peer["copy"]) if "copy" in by_peer else None
    return [
        first["dtype"],
        *("" if first.get(key) is None else str(first[key]) for key in _SETTINGS[1:]),
        f"{first['median_us']:.1f}",
        significant(first["gbps"]),
        "" if share is None else f"{100 * share:.0f}",
        *([told] if compared else []),
        *(f"{by_peer[peer]['ratio']:.2f}x" if peer in by_peer else "" for peer in peers),
    ]


def markdown(rows: Sequence[Record], title: str) -> str:
    """All of it under one title, as Markdown.

    A table an op, and how to read it.
    """
    parts = [f"# {title}\n"]
    for name, (head, lines) in tables(rows).items():
        table = [
            f"| {' | '.join(head)} |",
            f"|---|{'---:|' * (len(head) - 1)}",
            *(f"| {' | '.join(line)} |" for line in lines),
        ]
        parts.append(f"## {name}\n\n" + "\n".join(table) + "\n")
    return "\n".join([*parts, NOTE + "\n"])
