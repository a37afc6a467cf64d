"""Answers, chunks and usage as OpenAI's clients read them."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from ..core.log_probs import LogProbs
from ..core.token_text import decode
from ..core.trace import Step
from ..core.transcript import WRITERS
from ..models.two_models import TwoModels
from .metrics import finish_reason
from .requests import Door
from .tickets import Ended, Ticket, Token

_LEAST = -9999.0  # OpenAI's word for a probability of nothing


class Bodies:
    """The bodies of one request, with one id and time.

    Args:
        door: which of the two interfaces.
        model: as it was asked for.
        pair: for the texts of tokens.
    """

    def __init__(self, door: Door, model: str, pair: TwoModels) -> None:
        self._chat = door == "chat"
        self.id = f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._model, self._tokenizer = model, pair.tokenizer
        self._created = int(time.time())
        self._shown: dict[int, int] = {}  # characters of each choice
        self._last: dict[int, int] = {}  # its last token

    def whole(self, answers: Sequence[tuple[str, list[Token], Ended]], usage: Any) -> Any:
        """One body for all choices.

        Each is given as its text, its tokens and its end.
        """
        choices = []
        for index, (text, tokens, ended) in enumerate(answers):
            choice: dict[str, Any] = {"index": index}
            if self._chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            choice["logprobs"] = self._log_probs(index, tokens)
            choice["finish_reason"] = finish_reason(ended.reason)
            choices.append(choice)
        return {**self._head(), "choices": choices, "usage": usage}

    def first(self, index: int) -> Any:
        """The chunk that begins a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""}) if self._chat else None

    def delta(self, index: int, tokens: Sequence[Token], steer: Any = None) -> Any:
        """A chunk of what some tokens bring.

        With ``steer``, where it was asked for.
        """
        text = "".join(token.text for token in tokens)
        log_probs = self._log_probs(index, tokens)
        if self._chat:
            chunk = self._chunk(index, {"content": text}, log_probs)
        else:
            chunk = self._chunk(index, text, log_probs)
        return {**chunk, "steer": steer} if steer else chunk

    def last(self, index: int, ended: Ended) -> Any:
        """The chunk that ends a choice."""
        reason = finish_reason(ended.reason)
        return self._chunk(index, {} if self._chat else "", None, reason)

    def usage(self, usage: Any) -> Any:
        """The chunk behind the last one."""
        return {**self._head(), "choices": [], "usage": usage}

    def _head(self) -> dict[str, Any]:
        kind = "chat.completion" if self._chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self._created, "model": self._model}

    def _chunk(
        self, index: int, delta: Any, log_probs: Any = None, reason: str | None = None
    ) -> dict[str, Any]:
        head = self._head()
        if self._chat:
            head["object"] = "chat.completion.chunk"
        choice = {
            "index": index,
            ("delta" if self._chat else "text"): delta,
            "logprobs": log_probs,
            "finish_reason": reason,
        }
        return {**head, "choices": [choice]}

    def _log_probs(self, index: int, tokens: Iterable[Token]) -> Any:
        known, offsets = [], []
        for token in tokens:
            at = self._shown.get(index, 0)
            if token.log_probs is not None:
                known.append((token.whole, self._named(index, token.log_probs), token.log_probs))
                offsets.append(at)
            if token.token_id >= 0:
                self._last[index] = token.token_id
            self._shown[index] = at + len(token.text)
        if not known:
            return None
        if self._chat:
            content = [
                {
                    **_told(text, found.log_prob),
                    "top_logprobs": [_told(name, p) for name, p in top],
                }
                for text, top, found in known
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [text for text, _, _ in known],
            "token_logprobs": [_finite(found.log_prob) for _, _, found in known],
            "top_logprobs": [{name: _finite(p) for name, p in top} for _, top, _ in known],
            "text_offset": offsets,
        }

    def _named(self, index: int, found: LogProbs) -> list[tuple[str, float]]:
        """The texts that the likeliest tokens would bring here, with their log-probabilities."""
        before = [self._last[index]] if index in self._last else []
        lead = decode(self._tokenizer, before)
        texts = (decode(self._tokenizer, [*before, i]).removeprefix(lead) for i in found.ids)
        return list(zip(texts, found.log_probs, strict=True))


def _told(text: str, log_prob: float) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(log_prob), "bytes": list(text.encode())}


def _finite(log_prob: float) -> float:
    return log_prob if math.isfinite(log_prob) else _LEAST


def usage_of(answers: Sequence[tuple[Ticket, Ended]], prompts: int, trace: bool) -> dict[str, Any]:
    """What a request has cost.

    A prompt counts once, however many choices it has.

    Args:
        answers: of all choices.
        prompts: how many different prompts there are.
        trace: with the steps of each answer.
    """
    each = len(answers) // prompts
    prompt = sum(len(ticket.request.ids) for ticket, _ in answers[::each])
    written = sum(ended.tokens for _, ended in answers)
    cached = sum(min(ended.reused.values()) for _, ended in answers[::each])
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
        "steer": _steer(answers, trace),
    }


def _steer(answers: Sequence[tuple[Ticket, Ended]], trace: bool) -> dict[str, Any]:
    """What routing did: sums over the choices."""
    outputs = [ended.output for _, ended in answers]
    costs = [output.cost for output in outputs]
    steps = [step for output in outputs for step in output.trace.steps]
    kept = [step for step in steps if not step.discarded]
    drafts = [draft for step in steps for draft in step.drafts]
    told: dict[str, Any] = {
        "router": outputs[0].trace.policy,
        "signal": outputs[0].trace.signal,
        "tokens": {w: sum(step.by(w) for step in kept) for w in WRITERS},
        "hand_overs": sum(cost.hand_overs for cost in costs),
        "prefilled": sum(step.prefilled + step.probed for step in steps),
        "discarded": sum(cost.discarded_tokens for cost in costs),
        "cached": {w: sum(ended.reused[w] for _, ended in answers) for w in WRITERS},
        "cost": {
            name: sum(getattr(cost, name) for cost in costs)
            for name in ("flops_paper", "flops_processed", "bytes_read", "seconds")
        },
    }
    if drafts:
        told["drafted"] = sum(drafted for drafted, _ in drafts)
        told["accepted"] = sum(stayed for _, stayed in drafts)
    if trace:
        told["steps"] = [[step_of(s) for s in output.trace.steps] for output in outputs]
    return told


def step_of(step: Step) -> dict[str, Any]:
    """What a client is told of a step."""
    score = step.score
    return {
        "index": step.index,
        "writer": step.writer,
        "text": step.text,
        "tokens": len(step.token_ids),
        "by": {w: step.by(w) for w in WRITERS},
        "score": score if math.isfinite(score) else None,
        "before": step.before,
        "posterior": step.posterior,
        "discarded": step.discarded,
        "refused": step.refused,
        "prefilled": step.prefilled,
        "drafts": [list(draft) for draft in step.drafts],
        "milliseconds": round(step.milliseconds, 3),
    }
