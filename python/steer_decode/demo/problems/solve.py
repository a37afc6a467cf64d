"""Greedy answers in bulk.

Prompts of equal length run together, with one KV cache a group.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .problem import Problem
from .tasks import grade

MAX_NEW_TOKENS = 80  # the longest reference solution has 51


def _continue(model: PreTrainedModel, ids: torch.Tensor, eos: int, limit: int) -> list[list[int]]:
    """Greedy continuations of (batch, length) prompts, each up to its end token."""
    written = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    rows = written[:, ids.shape[1] :].tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]


def completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[Problem],
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch: int = 128,
) -> list[str]:
    """The greedy completion of every problem, in the order given."""
    prompts = [tokenizer(problem.prompt)["input_ids"] for problem in problems]
    groups: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[len(prompt)].append(i)
    texts = [""] * len(problems)
    for members in groups.values():
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            ids = torch.tensor([prompts[i] for i in part])
            rows = _continue(model, ids, tokenizer.eos_token_id, max_new_tokens)
            for i, row in zip(part, rows, strict=True):
                texts[i] = tokenizer.decode(row)
    return texts


def solved(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: list[Problem]
) -> list[bool]:
    """Whether the greedy completion of each problem is right."""
    texts = completions(model, tokenizer, problems)
    return [grade(problem, text) for problem, text in zip(problems, texts, strict=True)]
