"""Routed greedy decoding the slow way: everything is computed again from scratch at every token.

No cache, no read mark, no kernel, no table of tokens: a full forward pass a token, statistics in
float64 by their definitions, step ends by decoding the step. Routers are written out anew as plain
functions, so that a mistake in the package's own has nothing to agree with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from steer_decode import Pair


@dataclass
class RefStep:
    writer: str
    ids: list[int] = field(default_factory=list)
    max_logits: list[float] = field(default_factory=list)
    discarded: bool = False


Before = Callable[[int, str, torch.Tensor], str]
After = Callable[[int, RefStep], str]


Known = dict[tuple[str, tuple[int, ...]], torch.Tensor]


def next_logits(
    pair: Pair, writer: str, ids: list[int], known: Known | None = None
) -> torch.Tensor:
    """Float64 logits [vocabulary] after ``ids``, from one full pass without a cache.

    Without the mask of ones transformers 4.57 looks for packed texts, at five times the cost.

    Args:
        known: by writer and ids, the passes that were made for other cases of the same pair, whose
            weights stay what they are. Nothing is made twice, nor taken from a shorter text.
    """
    if known is not None and (found := known.get((writer, tuple(ids)))) is not None:
        return found
    text = torch.tensor([ids])
    ones = torch.ones_like(text)
    with torch.no_grad():
        out = pair.model(writer)(text, attention_mask=ones, use_cache=False)  # type: ignore[arg-type]
    logits = out.logits[0, -1, : pair.vocab_size].double()
    if known is not None:
        known[writer, tuple(ids)] = logits
    return logits


def entropy(logits: torch.Tensor) -> float:
    p = logits.softmax(-1)
    return float(-(p * p.clamp_min(1e-300).log()).sum())


def ends_step(pair: Pair, ids: list[int]) -> bool:
    text, before = pair.tokenizer.decode(ids), pair.tokenizer.decode(ids[:-1])
    completed = "\n\n" in text[max(0, len(before) - 1) :]
    return completed and any(c.isalnum() for c in text)


def generate(
    pair: Pair,
    prompt: list[int],
    limit: int,
    before: Before,
    after: After,
    known: Known | None = None,
) -> tuple[list[int], list[RefStep]]:
    """Ids after the prompt, and all steps, discarded ones included."""
    ids, steps = list(prompt), []
    index, writer, again = 0, "small", False
    while True:
        if not again:
            writer = before(index, writer, next_logits(pair, "small", ids, known))
        step, start, done = RefStep(writer), len(ids), False
        closed = False
        while not closed and not done:
            logits = next_logits(pair, writer, ids, known)
            token = int(logits.argmax())
            ids.append(token)
            step.ids.append(token)
            step.max_logits.append(float(logits.max()))
            ended = token == pair.tokenizer.eos_token_id
            closed = ended or ends_step(pair, step.ids)
            done = ended or len(ids) - len(prompt) >= limit
        steps.append(step)
        verdict = after(index, step) if closed else writer
        if verdict == "redo":
            step.discarded, done = True, False
            del ids[start:]
            writer, again = ("large" if writer == "small" else "small"), True
        else:
            index, writer, again = index + 1, verdict, False
        if done:
            return ids[len(prompt) :], steps
