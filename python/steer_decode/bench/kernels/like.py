"""The cases of an earlier run or plan.

A file of rows says what to measure, and where it has times it says what was found there: the table
of one card stands beside that of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import SteerError
from ...util.documents import listed, number, one_of, optional, read, record, whole
from .plan import CLOCKS, DTYPES, MAX_K, OPS, SAMPLINGS, Case

# Of one case: a file is data, and must not fill the memory.
MOST_ROWS, MOST_COLUMNS, MOST_LOGITS = 2**16, 2**22, 2**30
_HOST = "host"  # the clock of a CPU
_KEY = ("op", "dtype", "batch", "vocab", "k", "sampling", "threads", "clock")

_ROWS = listed(
    record(
        {
            "op": one_of(OPS),
            "dtype": one_of(DTYPES),
            "batch": whole(1, MOST_ROWS),
            "vocab": optional(whole(1, MOST_COLUMNS)),
            "k": optional(whole(1, MAX_K)),
        },
        {
            "sampling": optional(one_of(tuple(SAMPLINGS))),
            "threads": whole(1, 1024),
            "clock": one_of((*CLOCKS, _HOST)),
            "median_us": number(0),
        },
        others="dropped",
    ),
    least=1,
)


@dataclass(frozen=True)
class Earlier:
    """What a file of rows holds.

    Attributes:
        cases: in its order, for the device that is measured now.
        clocks: that it was measured by, of :data:`CLOCKS`.
        found: microseconds of a row, by its case and clock; none where it is a plan.
    """

    cases: Sequence[Case]
    clocks: Sequence[str]
    found: Mapping[tuple[Any, ...], float]

    def beside(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with ``earlier_us``, microseconds in the file.

        None where the file has no time of it; a row of a CPU stands beside one of a CPU alone.
        """
        return {**row, "earlier_us": self.found.get(tuple(row.get(key) for key in _KEY))}


def read_like(path: Path, device: str) -> Earlier:
    """Read the cases of a file, for ``device``.

    Raises:
        SteerError: it cannot be read, is no list of such rows, or has a case that cannot be.
    """
    rows = read(
        path,
        "file of rows",
        _ROWS,
        "is no file of kernel measurements",
        "give one that `steer bench kernels --json` has written, or a list of such rows without "
        "times",
    )
    cases: dict[Case, None] = {}
    found: dict[tuple[Any, ...], float] = {}
    for i, row in enumerate(rows):
        case = _case(path, i, row, device)
        cases[case] = None
        # What files of before had no word for.
        row = {"clock": _HOST, **row, "sampling": case.sampling, "threads": case.threads}
        if "median_us" in row:
            found[tuple(row.get(key) for key in _KEY)] = row["median_us"]
    clocks = [clock for clock in CLOCKS if any(row.get("clock") == clock for row in rows)]
    return Earlier(tuple(cases), clocks or ["events"], found)


def _case(path: Path, index: int, row: Mapping[str, Any], device: str) -> Case:
    op, vocab, k = row["op"], row["vocab"], row["k"]
    has_columns, has_k = op != "kv_append_", op not in ("kv_append_", "step_update_")
    for name, value, wanted in (("vocab", vocab, has_columns), ("k", k, has_k)):
        if (value is not None) != wanted:
            raise SteerError(
                f"[{index}] of {str(path)!r}: {name} of {op} must be "
                f"{'a number' if wanted else 'null'}, got {value}"
            )
    if has_k and k > vocab:
        raise SteerError(f"[{index}] of {str(path)!r}: k must be at most vocab, got {k} of {vocab}")
    if has_columns and row["batch"] * vocab > MOST_LOGITS:
        raise SteerError(
            f"[{index}] of {str(path)!r}: batch times vocab must be at most {MOST_LOGITS:,}, got "
            f"{row['batch']} times {vocab}"
        )
    sampling = row.get("sampling") or "plain" if op == "sample_logits" else None
    return Case(op, row["dtype"], row["batch"], vocab, k, row.get("threads", 1), device, sampling)
