"""What both models make of a finished answer.

One prefill of each, see ``evaluation/prefill.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steer_kernels import logit_stats
from steer_kernels.reference import kept

from ...core.sampling import Sampling
from ...core.transcript import WRITERS, Writer
from ...errors import BrokenModelError
from ...models.pair import Pair
from ..prefill import PART, prefilled
from .record import TOP, Array, TokenView

_CUT = 32  # rows that are sorted at a time, where cuts ask for an order


def view(
    pair: Pair, writer: Writer, prompt_ids: Sequence[int], ids: Sequence[int], sampling: Sampling
) -> TokenView:
    """What ``writer`` makes of every token of an answer.

    Args:
        pair, writer, prompt_ids: as for :func:`~steer_decode.evaluation.prefill.prefilled`.
        ids: [T], of the answer.
        sampling: how the answer was drawn, for ``drawn``.

    Raises:
        BrokenModelError: logits with a NaN, or without anything finite.
    """
    pieces = [ids[start : start + PART] for start in range(0, len(ids), PART)]
    top = min(TOP, pair.vocab_size)
    columns: dict[str, list[Tensor]] = {}
    at = 0
    for _, logits in prefilled(pair, writer, prompt_ids, pieces):
        tokens = torch.tensor(ids[at : at + len(logits)], device=logits.device)
        stats = logit_stats(logits, k=top, vocab_size=pair.vocab_size)
        sound = stats.valid & stats.max_logit.isfinite()
        if not bool(sound.all()):
            where = at + int((~sound).nonzero()[0])
            raise BrokenModelError(
                f"the {writer} model's logits before token {where} of the answer hold a NaN, an "
                "infinity or nothing finite: no record can be made with this model"
            )
        own = logits.gather(1, tokens[:, None])[:, 0].float() - stats.lse
        found = {
            "logprob": own,
            "top_ids": stats.topk_ids,
            "top_logprobs": stats.topk_logprobs,
            "max_logit": stats.max_logit,
            "entropy": stats.entropy,
        }
        if changes(sampling):
            found["drawn"] = drawn(logits[:, : pair.vocab_size], tokens, sampling)
        for name, column in found.items():
            columns.setdefault(name, []).append(column.cpu())
        at += len(logits)
    if not columns:
        empty = np.zeros(0)
        none = np.zeros((0, top))
        return TokenView(empty, none.astype(np.int64), none, empty, empty)
    ids_of_top = torch.cat(columns.pop("top_ids")).numpy()
    arrays = {name: _array(torch.cat(parts)) for name, parts in columns.items()}
    return TokenView(top_ids=ids_of_top, **arrays)


def views(
    pair: Pair, prompt_ids: Sequence[int], ids: Sequence[int], sampling: Sampling
) -> dict[Writer, TokenView]:
    """What both models make of an answer; see :func:`view`."""
    return {writer: view(pair, writer, prompt_ids, ids, sampling) for writer in WRITERS}


def changes(sampling: Sampling) -> bool:
    """Whether tokens are drawn from another distribution than the softmax."""
    cuts = sampling.top_k or sampling.top_p < 1 or sampling.min_p
    return sampling.temperature > 0 and bool(sampling.temperature != 1 or cuts)


def drawn(logits: Tensor, tokens: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities of tokens after temperature and cuts, [n] float64.

    As ``sample_logits`` defines them; -inf for a token that the cuts leave out.

    Args:
        logits: [n, V].
        tokens: [n] int64.
        sampling: with a temperature above 0.
    """
    found = []
    for part, ids in zip(logits.split(_CUT), tokens.split(_CUT), strict=True):
        x = part.double() + 0.0
        m = x.amax(-1, keepdim=True)
        d = torch.where(x == m, 0.0, (x - m) / sampling.temperature)
        if sampling.top_k or sampling.top_p < 1 or sampling.min_p:
            keep = kept(x, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
            d = d.where(keep, -torch.inf)
        found.append(d.gather(1, ids[:, None])[:, 0] - d.logsumexp(-1))
    return torch.cat(found)


def _array(column: Tensor) -> Array:
    return column.double().numpy()
