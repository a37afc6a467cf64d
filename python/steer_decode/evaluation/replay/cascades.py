"""Query cascades from recorded answers of either model alone.

A cascade lets the small model answer, and has the large one answer from the beginning where the
small one was not sure (`corea`, policies/query_cascade.py). Nothing that the small model wrote is
seen by the large one, so both answers are known from the two control runs, for every signal, every
way to sum the steps up, and every threshold: no model runs here. What is exact:

- accuracy, FLOPs as papers count them, tokens and discarded tokens: always;
- FLOPs processed and bytes read: for answers that were written one at a time. In a cohort a prompt
  may be read in one pass or in two, which is one position of the head, and the reading of the
  weights is shared by whoever is in the pass, who would be others;
- seconds: a sum of two measurements.

With sampling a cascade's large model draws other numbers than its small one did. The control runs
draw the same ones for the same problem and seed, so the answer of the large model is taken from the
next seed of the problem: exact in distribution, and two seeds are the least.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.signals import SIGNALS
from ...core.transcript import WRITERS, Writer
from ...errors import SteerError
from ...policies import POLICIES, AlwaysLarge, AlwaysSmall, QueryCascade
from ...policies.query_cascade import OVER, summed_up
from ..results import read_results
from ..rows import ResultRow

Array = NDArray[np.float64]
COSTS = ("flops_paper", "flops_processed", "bytes_read", "seconds")
EXACT = (AlwaysSmall.name, AlwaysLarge.name, QueryCascade.name)
"""Routers that can be replayed; all others hand over inside an answer."""


@dataclass(frozen=True)
class Recorded:
    """Answers of either model alone to the same questions.

    Arrays have one entry an answer, [A].

    Attributes:
        names: domain and problem of each answer.
        right: by writer, 1.0 for a right answer.
        tokens: by writer, of the answer.
        costs: by writer and name of the cost.
        first, first_tokens: costs of the small model up to the end of its first step, by name,
            and how many tokens that is.
        confidences: of the small model's answer, higher is surer, by signal and way to sum up;
            NaN where it has none.
        ended, began: whether the small model ended its answer, and its first step, by itself; what
            is cut off is not judged and stays.
        left_out: answers of one model that have no partner.
        settings: what the answers were made with.
    """

    names: Sequence[tuple[str, str]]
    right: Mapping[Writer, Array]
    tokens: Mapping[Writer, Array]
    costs: Mapping[Writer, Mapping[str, Array]]
    first: Mapping[str, Array]
    first_tokens: Array
    confidences: Mapping[tuple[str, str], Array]
    ended: NDArray[np.bool_]
    began: NDArray[np.bool_]
    left_out: int
    settings: Mapping[str, Any]

    def judged(self, over: str) -> NDArray[np.bool_]:
        """Which answers a cascade of this kind looks at."""
        return self.began if over == "first" else self.ended


@dataclass(frozen=True)
class Outcome:
    """A cascade on the recorded answers, [A] each.

    What it would have answered, and what it would have cost.
    """

    sent: NDArray[np.bool_]
    right: Array
    costs: Mapping[str, Array]
    discarded: Array
    tokens: Array
    large_tokens: Array


def cascade(recorded: Recorded, signal: str, over: str, threshold: float) -> Outcome:
    """`corea:signal=SIGNAL:over=OVER:threshold=THRESHOLD` on the recorded answers.

    Args:
        threshold: least confidence of an answer that stays, in the signal's own unit.
    """
    limit = SIGNALS[signal].confidence(threshold)
    # Not "below the limit": an answer without a confidence is not a confident one.
    sent = recorded.judged(over) & ~(recorded.confidences[signal, over] >= limit)
    small, large = (recorded.costs[w] for w in WRITERS)
    draft = recorded.first if over == "first" else small
    drafted = recorded.first_tokens if over == "first" else recorded.tokens["small"]
    return Outcome(
        sent=sent,
        right=np.where(sent, recorded.right["large"], recorded.right["small"]),
        costs={c: np.where(sent, draft[c] + large[c], small[c]) for c in COSTS},
        discarded=np.where(sent, drafted, 0.0),
        tokens=np.where(sent, recorded.tokens["large"], recorded.tokens["small"]),
        large_tokens=np.where(sent, recorded.tokens["large"], 0.0),
    )


def threshold_for(recorded: Recorded, signal: str, over: str, share: float) -> float:
    """The threshold that sends nearest to ``share`` of all answers.

    It is in the signal's own unit. It lies halfway between two confidences that occur, so that
    rounding decides nothing; equal ones go together. Infinite where all or none are to be sent.
    """
    judged = recorded.confidences[signal, over][recorded.judged(over)]
    known = np.sort(judged[~np.isnan(judged)])
    values = np.unique(known)
    cuts = np.array([-np.inf, *((values[:-1] + values[1:]) / 2), np.inf])
    unknown = len(judged) - len(known)
    sent = (unknown + np.searchsorted(known, cuts)) / len(recorded.names)
    return SIGNALS[signal].confidence(float(cuts[np.abs(sent - share).argmin()]))


def load(folder: Path) -> Recorded:
    """Read the control runs in a folder of `steer eval`.

    Raises:
        SteerError: no results; no router small or large; answers without recorded scores, which
            older versions wrote; sampled answers with one seed.
    """
    settings, rows = read_results(folder)
    answers: dict[Writer, dict[tuple[str, str], dict[int, ResultRow]]] = {}
    for writer in WRITERS:
        name = next((n for n, spec in settings["routers"].items() if spec == writer), None)
        mine: dict[tuple[str, str], dict[int, ResultRow]] = defaultdict(dict)
        for row in rows:
            if row.router == name:
                mine[row.domain, row.problem][row.seed] = row
        if not mine:
            raise SteerError(
                f"{str(folder)!r} holds no answers of router {writer!r} alone: run its "
                f"`steer eval` again with --routers small,large --out {folder}"
            )
        answers[writer] = mine
    pairs, left_out = _paired(answers, float(settings.get("temperature", 0.0)), folder)
    bare = next(
        (s for s, _ in pairs if not s.trace or any(step.scores is None for step in s.trace)), None
    )
    if bare is not None:
        raise SteerError(
            f"answer {bare.domain}:{bare.problem} (seed {bare.seed}) in {str(folder)!r} has no "
            "scores by signal, as an older version wrote it: run `steer eval --routers "
            "small,large` into another --out"
        )
    return _arrays(pairs, left_out, settings)


def _paired(
    answers: Mapping[Writer, Mapping[tuple[str, str], Mapping[int, ResultRow]]],
    temperature: float,
    folder: Path,
) -> tuple[list[tuple[ResultRow, ResultRow]], int]:
    """Answers of the small model with those that the large one would have given instead."""
    pairs: list[tuple[ResultRow, ResultRow]] = []
    left_out = 0
    for name, by_seed in answers["small"].items():
        others = answers["large"].get(name, {})
        seeds = sorted(by_seed.keys() & others.keys())
        left_out += len(by_seed.keys() ^ others.keys())
        if temperature and len(seeds) == 1:
            raise SteerError(
                f"{name[0]}:{name[1]} in {str(folder)!r} was sampled with one seed, and a cascade "
                "draws anew for its second answer: add seeds to the folder, as in --seeds 0,1"
            )
        shift = 1 if temperature else 0
        pairs += [
            (by_seed[seed], others[seeds[(i + shift) % len(seeds)]]) for i, seed in enumerate(seeds)
        ]
    left_out += sum(len(a) for name, a in answers["large"].items() if name not in answers["small"])
    if not pairs:
        raise SteerError(
            f"no problem in {str(folder)!r} was answered by both models: let `steer eval` finish"
        )
    return pairs, left_out


def _arrays(
    pairs: Sequence[tuple[ResultRow, ResultRow]], left_out: int, settings: Mapping[str, Any]
) -> Recorded:
    rows: dict[Writer, list[ResultRow]] = {
        "small": [s for s, _ in pairs],
        "large": [b for _, b in pairs],
    }

    def column(writer: Writer, name: str) -> Array:
        return np.array([getattr(row, name) for row in rows[writer]], dtype=np.float64)

    small = rows["small"]
    return Recorded(
        names=[(row.domain, row.problem) for row in small],
        right={w: column(w, "correct") for w in WRITERS},
        tokens={w: column(w, "tokens") for w in WRITERS},
        costs={w: {c: column(w, c) for c in COSTS} for w in WRITERS},
        first={c: np.array([r.first_step.get(c, np.nan) for r in small]) for c in COSTS},
        first_tokens=np.array([float(r.trace[0].tokens) for r in small]),
        confidences={(s, o): _confidences(small, s, o) for s in SIGNALS for o in OVER},
        ended=np.array([row.stop_reason == "eos" for row in small]),
        began=np.array([bool(row.first_step) for row in small]),
        left_out=left_out,
        settings=settings,
    )


def _confidences(rows: Sequence[ResultRow], signal: str, over: str) -> Array:
    found = []
    for row in rows:
        scores = [(step.scores or {}).get(signal) for step in row.trace]
        each = [np.nan if x is None else SIGNALS[signal].confidence(x) for x in scores]
        found.append(summed_up(each, over))
    return np.array(found, dtype=np.float64)


def needs_a_run(folder: Path) -> str:
    """Which routers cannot be replayed, in words.

    Says why, and what to do.
    """
    rest = ", ".join(name for name in POLICIES if name not in EXACT)
    return (
        f"Not replayed: {rest}. They hand over inside an answer, and from the first hand-over on "
        "the text, its scores and its costs are others than those recorded. They need a run: the "
        f"command that made this folder, with --routers ROUTER --out {folder}; it adds to what is "
        "there."
    )
