"""The large model's verdict on drafts.

One pass over the drafts of all rows that wait, and one call of ``accept_drafts`` for all that are
drawn alike: a place each, a draft's or the one behind the last.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from steer_kernels import accept_drafts, sample_logits_packed

from ...core.requests import Row
from ...core.sampling import Sampling
from .gradients import without_gradients
from .grading import behind_drafts
from .lane import Lane
from .sampler import options, ranks_for


class Places(NamedTuple):
    """What was found at the places of one row.

    Those are the places of its drafts, and the one behind them.

    Fields:
        packed: [n + 1, columns] as ``sample_logits_packed``, float64. Its token is the one to be
            written where the draft does not stay.
        stays: [n] bool, of each draft, as if those before it stayed.
        logits: raw [n + 1, V].
    """

    packed: Tensor
    stays: Tensor
    logits: Tensor


def verify(
    lane: Lane, rows: Sequence[int], answers: Mapping[int, Row], vocab_size: int
) -> dict[int, Places]:
    """Read the drafts of ``rows``, and judge each.

    By the rule of its row.

    Args:
        lane: of the large model.
        rows: each with at least one draft, at the end of its transcript.
        answers: of all rows of the lane.
        vocab_size: ids that may be drawn.
    """
    with without_gradients(lane.model):
        counts = [len(answers[row].drafts) for row in rows]
        read = {row: logits for row, _, logits in behind_drafts(lane, rows, counts)}
        alike: dict[Hashable, list[int]] = {}
        for row in rows:
            answer = answers[row]
            key = answer.sampling, answer.drafting, _has_logits(answer)
            alike.setdefault(key, []).append(row)
        found: dict[int, Places] = {}
        for some in alike.values():
            together = [answers[row] for row in some]
            logits = _joined([read[row] for row in some])
            judge = _exact if together[0].drafting.lossless else _lossy  # type: ignore[union-attr]
            packed, stays = judge(logits, together, vocab_size)
            sizes = [len(answer.drafts) + 1 for answer in together]
            for row, p, s in zip(some, packed.split(sizes), stays.split(sizes), strict=True):
                found[row] = Places(p, s[:-1], read[row])
        return found


def _exact(logits: Tensor, rows: Sequence[Row], vocab_size: int) -> tuple[Tensor, Tensor]:
    sampling = rows[0].sampling
    drawn_from = None
    if sampling.temperature and _has_logits(rows[0]):
        # The place behind the last draft has none: any row does.
        each = [d.logits for row in rows for d in (*row.drafts, row.drafts[-1])]
        drawn_from = torch.stack(each).to(logits.device)
    drafts = _ids(rows, logits.device)
    uniform = _uniform(rows, logits.device)
    found = accept_drafts(
        logits, drafts, uniform, drawn_from, *options(sampling), ranks_for(rows), vocab_size
    )
    return found[:, :-2], found[:, -1] > 0


def _lossy(logits: Tensor, rows: Sequence[Row], vocab_size: int) -> tuple[Tensor, Tensor]:
    sampling = rows[0].sampling
    uniform = _uniform(rows, logits.device)
    packed = sample_logits_packed(logits, uniform, *options(sampling), ranks_for(rows), vocab_size)
    log_p = _log_p(logits[:, :vocab_size].float(), sampling)
    drafts, verdicts, at = _ids(rows, logits.device), [], 0
    for row in rows:
        end = at + len(row.drafts)
        verdicts += [
            row.drafting.stays(log_p[at:end], drafts[at:end]),  # type: ignore[union-attr]
            drafts.new_zeros(1).bool(),
        ]
        at = end + 1
    return packed, torch.cat(verdicts)


def _log_p(logits: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities after temperature and cuts; of a greedy model those of the raw softmax."""
    cuts = LogitsProcessorList()
    if sampling.temperature:
        cuts.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            cuts.append(TopKLogitsWarper(min(sampling.top_k, logits.shape[1])))
        if sampling.top_p < 1:
            cuts.append(TopPLogitsWarper(sampling.top_p))
        if sampling.min_p:
            cuts.append(MinPLogitsWarper(sampling.min_p))
    return cuts(None, logits).log_softmax(1)


def _has_logits(row: Row) -> bool:
    return all(draft.logits is not None for draft in row.drafts)


def _ids(rows: Sequence[Row], device: torch.device) -> Tensor:
    """The drafted id at each place; -1 behind the last of a row."""
    return torch.tensor([t for row in rows for t in (*(d.token for d in row.drafts), -1)]).to(
        device
    )


def _uniform(rows: Sequence[Row], device: torch.device) -> Tensor:
    numbers = [u for row in rows for u in row.uniforms(len(row.drafts) + 1)]
    return torch.tensor(numbers, dtype=torch.float64).to(device)


def _joined(logits: Sequence[Tensor]) -> Tensor:
    return logits[0] if len(logits) == 1 else torch.cat([*logits])
