"""The large model as judge of the small one's drafts.

It judges several answers in one pass. A grade is the logits that the tokens of a draft would have
been drawn from; a question is asked behind the transcript and forgotten again. Both read ragged
rows, so the weights are read once for all answers whose drafts wait, not once for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import groupby
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from steer_kernels import logit_stats

from ...core.requests import Graded, Question
from .gradients import without_gradients
from .lane import Lane

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _without_gradients(
    judge: Callable[Concatenate[Lane, _P], _T],
) -> Callable[Concatenate[Lane, _P], _T]:
    """``judge`` as it is, in the mode that the lane's model asks for."""

    @wraps(judge)
    def judged(lane: Lane, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with without_gradients(lane.model):
            return judge(lane, *args, **kwargs)

    return judged


class _Draft(NamedTuple):
    """A draft whose tokens are to be judged: ``n`` of them, the last ones of the transcript."""

    row: int
    n: int
    before: list[Tensor]  # logits [1, V] of its first token, where they are known
    ids: list[int]  # of the transcript

    @property
    def keep(self) -> int:
        """Positions whose logits are wanted, one more where the first token's are gone."""
        return self.n if self.before else self.n + 1


@_without_gradients
def grade(
    lane: Lane, rows: Sequence[int], counts: Sequence[int], vocab_size: int
) -> dict[int, Graded | None]:
    """Grade the last ``counts`` tokens of ``rows``.

    What is pending before them is read with them. One answer alone takes one pass. Of several, what
    lies before the drafts (the prompt, say) is read first, so that the head sees drafts only; then
    the drafts together, as many as fit into the lane's ``part``, since their logits need memory.

    Returns:
        Of each row what the model makes of these tokens; None where its logits are not sound.
    """
    graded: dict[int, Graded | None] = {}
    for row, ids, logits in behind_drafts(lane, rows, counts):
        n = len(logits) - 1
        found = _graded(logits[:-1], ids[-n:], vocab_size)
        if found is not None:
            # The large model may be asked for what it would have written in such a place.
            refused = [j for j, agrees in enumerate(found.likeliest) if not agrees]
            held = logits[refused][:, None].unbind()  # one copy, not views of all of it
            at = (len(ids) - n + j for j in refused)
            lane.last.hold(row, dict(zip(at, held, strict=True)))
        graded[row] = found
    return graded


def behind_drafts(
    lane: Lane, rows: Sequence[int], counts: Sequence[int]
) -> Iterator[tuple[int, list[int], Tensor]]:
    """Read the last ``counts`` tokens of ``rows``.

    What is pending before them is read with them.

    Yields:
        For each row, in any order, the ids of its transcript, and raw logits [n + 1, V]: those
        that its last n tokens would have been drawn from, and those behind the last.
    """
    drafts = {row: _draft(lane, row, n) for row, n in zip(rows, counts, strict=True)}
    together = len(rows) > 1 and lane.takes_masks
    order = lane.cache.arrange(rows) if together else list(rows)
    if together:
        for behind, run in groupby(order, key=lambda r: lane.pending(r) > drafts[r].keep):
            if behind:
                some = list(run)
                lane.fill(some, [_new(lane, drafts[r])[: -drafts[r].keep] for r in some])
    for group in _groups([drafts[r] for r in order], lane.part if together else 0):
        new = [_new(lane, draft) for draft in group]
        longest = max(map(len, new))
        keep = max(longest - len(ids) + d.keep for ids, d in zip(new, group, strict=True))
        heads = [draft.keep for draft in group]
        logits = lane.read([draft.row for draft in group], new, keep, heads)
        for i, (ids, draft) in enumerate(zip(new, group, strict=True)):
            end = len(ids) - longest + keep  # padding lies behind
            own = logits[i, end - draft.keep : end]
            lane.last.keep([draft.row], own[-1:].clone())  # a view would keep all of them
            yield draft.row, draft.ids, torch.cat([*draft.before, own]) if draft.before else own


def _graded(logits: Tensor, ids: list[int], vocab_size: int) -> Graded | None:
    stats = logit_stats(logits, vocab_size=vocab_size)
    if not bool(stats.valid.all()):
        return None
    tokens = torch.tensor(ids, device=logits.device)
    log_probs = logits.gather(1, tokens[:, None])[:, 0].float() - stats.lse
    return Graded(log_probs.tolist(), (stats.topk_ids[:, 0] == tokens).tolist())


def _draft(lane: Lane, row: int, n: int) -> _Draft:
    """Move the read mark of ``row`` to where its judge has to begin."""
    ids = lane.transcript(row).ids
    start = len(ids) - n
    lane.roll_back(row, start)
    before = lane.last.of(row) if lane.read_mark(row) == start else None
    if before is None:
        lane.roll_back(row, start - 1)
        lane.shorten(row, n + 1)
    return _Draft(row, n, [] if before is None else [before[None]], ids)


def _new(lane: Lane, draft: _Draft) -> list[int]:
    return draft.ids[lane.read_mark(draft.row) :]


def _groups(drafts: Sequence[_Draft], most: int) -> Iterator[list[_Draft]]:
    """Neighbours whose padded drafts together have at most ``most`` positions, or one alone."""
    group: list[_Draft] = []
    for draft in drafts:
        if group and (len(group) + 1) * max(d.keep for d in [*group, draft]) > most:
            yield group
            group = []
        group.append(draft)
    yield group


@_without_gradients
def ask(
    lane: Lane, rows: Sequence[int], question: Question, vocab_size: int
) -> dict[int, Graded | None]:
    """Answer ``question`` behind the texts of ``rows``.

    What is pending in them is read with it, and the question is forgotten. Rows that differ in
    length run packed, or are read but for its last token first and that one together, so that the
    head sees one position of each.

    Returns:
        Of each row the log-probability of each choice; None where the logits are not sound.
    """
    for row in rows:
        lane.roll_back(row, len(lane.transcript(row)))
    together = len(rows) > 1 and lane.takes_masks
    order = lane.cache.arrange(rows) if together else rows
    answers: dict[int, Graded | None] = {}
    choices = list(question.choices)
    for group in [order] if together else [[row] for row in order]:
        new = [[*lane.transcript(row).ids[lane.read_mark(row) :], *question.ids] for row in group]
        alike = min(map(len, new)) == max(map(len, new))
        logits = None if alike else lane.read_packed(group, new)
        if logits is None:
            if not alike:
                lane.fill(group, [some[:-1] for some in new])
                new = [some[-1:] for some in new]
            logits = lane.read(group, new)
        stats = logit_stats(logits, vocab_size=vocab_size)
        log_probs = (logits[:, choices].float() - stats.lse[:, None]).tolist()
        for row, valid, values in zip(group, stats.valid.tolist(), log_probs, strict=True):
            lane.roll_back(row, len(lane.transcript(row)))
            answers[row] = Graded(values, []) if valid else None
    return answers
