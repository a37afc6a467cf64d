"""The figures of `measure` as Markdown: ratios to peers, and the distance to one read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

# Microseconds of logit_stats at V = 151 936, bfloat16, k = 20, by a word of the card's name.
TARGETS = {
    "H100": {1: 6.0, 8: 7.0, 64: 9.0, 256: 29.0},
    "H200": {1: 6.0, 8: 7.0, 64: 9.0, 256: 20.0},
}
SAMPLING_TARGET = 2.0  # times logit_stats by the same clock
TARGET_CLOCKS = ("graph", "wall")  # "in a graph and eager"
DEVICE_CLOCKS = ("graph", "events", "host")  # the ratios are of the first that was measured
_CASE = ("op", "sampling", "dtype", "batch", "vocab", "k")

HOW_TO_READ = (
    "us: medians of one call, with a cold L2. events: the device's time of a call alone; graph: of "
    "a call among 20 in a CUDA graph; wall: the host's, from the call to the end of the "
    "synchronisation. One read: the bytes that the op has to move, at the bandwidth of a large "
    "copy on this card in the same run. Over it, and the columns of peers (their time over ours, "
    "so above 1 ours is faster), are of graph where it was measured, else of events; what cannot "
    "be captured stands in brackets, by events or wall."
)


def markdown(found: Mapping[str, Any]) -> str:
    """The whole document of one run, whether or not it has come to its end."""
    title = found.get("card", "Rehearsal on a CPU: no figure here is of a GPU")
    lines = [f"# {title}\n", f"{found['date']}. {_versions(found)}.\n"]
    if found["floors"]:
        lines.append(_floors(found["floors"]) + "\n")
    missing = [name for name in found["of"] if name not in found["done"]]
    if missing:
        lines.append(f"**Cut short: {len(missing)} of {len(found['of'])} cases are missing.**\n")
    for name, error in found["errors"].items():
        lines.append(f"**{name} failed: {error}**\n")
    for op in dict.fromkeys(row["op"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["op"] == op]
        head, body = table(rows, found)
        lines += [
            f"## {op}, {', '.join(dict.fromkeys(row['backend'] for row in rows))}\n",
            f"| {' | '.join(head)} |",
            f"|---|{'---:|' * (len(head) - 1)}",
            *(f"| {' | '.join(line)} |" for line in body),
            "",
        ]
    lines.append(HOW_TO_READ + "\n")
    lines += [f"- left out: {peer}: {why}" for peer, why in found["left_out"].items()]
    return "\n".join(lines) + "\n"


def _versions(found: Mapping[str, Any]) -> str:
    words = [f"{name} {version}" for name, version in found["versions"].items()]
    return ", ".join([*words, f"CUDA {found['torch_cuda']}"] if found["torch_cuda"] else words)


def _floors(floors: Mapping[str, Any]) -> str:
    words = [f"A large copy moves {floors['copy_gbps']:.0f} GB/s, read and written."]
    for clock, us in floors.items():
        if isinstance(us, dict):
            times = ", ".join(f"{name} {value:.1f} us" for name, value in us.items())
            words.append(f"{clock}: {times}.")
    return " ".join(words)


def table(rows: Sequence[Record], found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of one op: a line a case."""
    cases: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        cases.setdefault(tuple(row[key] for key in _CASE), []).append(row)
    clocks = list(dict.fromkeys(row["clock"] for row in rows))
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    targets = {case: target(records, found) for case, records in cases.items()}
    samplings = any(case[1] for case in cases)
    head = [
        *(["sampling"] if samplings else []),
        "B",
        "one read, us",
        *(f"{clock}, us" for clock in clocks),
        "over it",
    ]
    head += ["target, us"] if any(targets.values()) else []
    lines = []
    for case, records in cases.items():
        ours = {row["clock"]: row["median_us"] for row in records}
        clock = next(name for name in DEVICE_CLOCKS if name in ours)
        read = one_read(records[0], found["floors"])
        line = [*([str(case[1])] if samplings else []), str(case[3]), f"{read:.2f}"]
        line += [f"{ours[name]:.1f}" if name in ours else "" for name in clocks]
        line.append(f"{ours[clock] / read:.1f}x")
        if any(targets.values()):
            line.append(targets[case])
        by_peer = {row["peer"]: row["ratio"] for row in records if row["clock"] == clock}
        eager = {row["peer"]: row["ratio"] for row in records if row["clock"] != clock}
        line += [_ratio(by_peer.get(peer), eager.get(peer)) for peer in peers]
        lines.append(line)
    return [*head, *peers], lines


def _ratio(first: float | None, other: float | None) -> str:
    """A peer that cannot be captured has a ratio by another clock, in brackets."""
    if first is not None:
        return f"{first:.2f}x"
    return "" if other is None else f"({other:.2f}x)"


def one_read(row: Record, floors: Mapping[str, Any]) -> float:
    """Microseconds in which the card's copy would have moved the bytes of the op."""
    return row["gbps"] * row["median_us"] / floors["copy_gbps"]


def target(records: Sequence[Record], found: Mapping[str, Any]) -> str:
    """The target, and by which of the clocks that it names it is met; "" where none is set."""
    card, first = found.get("card", ""), records[0]
    named = next((by_batch for word, by_batch in TARGETS.items() if word in card), None)
    if named is None or first["vocab"] != 151_936 or first["batch"] not in named:
        return ""
    words, limits = [], []
    for clock in TARGET_CLOCKS:
        rows = [row for row in records if row["clock"] == clock]
        limit = _limit(rows, named[first["batch"]])
        if limit is not None:
            limits.append(limit)
            words.append(f"{clock} {'met' if rows[0]['median_us'] <= limit else 'missed'}")
    numbers = " / ".join(dict.fromkeys(f"{limit:.1f}" for limit in limits))
    return f"{numbers}: {', '.join(words)}" if words else ""


def _limit(rows: Sequence[Record], us: float) -> float | None:
    """What our call may take by the clock of ``rows``."""
    if not rows or rows[0]["op"] not in ("logit_stats", "sample_logits"):
        return None
    if rows[0]["op"] == "logit_stats":
        return us
    beside = [row["peer_us"] for row in rows if row["peer"] == "logit_stats"]
    return SAMPLING_TARGET * beside[0] if beside else None
