"""An engine of vLLM's kind, driven by hand: what it does to the rows of a logits processor.

Requests come and go, are preempted and added again, and their prompts are read in parts, whose row
of logits does not count; by chance, from a seed. The model behind it is any function from ids to
logits. One subclass drives the interface of the model runner V1, one that of V2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from support.vllm_interfaces import parameters, v1, v2
from torch import Tensor

Logits = Callable[[Sequence[int]], Tensor]


@dataclass(eq=False)
class Asked:
    """A request: what is read, by which arguments, and what has been written."""

    prompt: list[int]
    extra: dict[str, Any] | None
    stops: frozenset[int]
    most: int
    until: Callable[[list[int]], bool] = lambda out: False
    out: list[int] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)  # logits, before the gate
    done: bool = False
    parts: int = 0  # of what is to be read that bring a row before it is read
    slot: int = -1

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.out

    def take(self, token: int, raw: Tensor) -> bool:
        """Append a token; whether the request goes on."""
        self.out.append(token)
        self.raw.append(raw)
        over = token in self.stops or len(self.out) >= self.most or self.until(self.out)
        self.done = over
        return not over


class HandEngine:
    """Rows of requests over a gate, or over none.

    Attributes:
        size: columns of logits that are tokens, of which one without a gate draws.
        preempted: how often a request was.
    """

    def __init__(
        self, logits: Logits, rows: int, seed: int, rough: bool = True, size: int | None = None
    ) -> None:
        self.logits, self.rows, self.rough, self.size = logits, rows, rough, size
        self.chance = random.Random(seed)
        self.waiting: list[Asked] = []
        self.running: list[Asked] = []
        self.preempted = 0

    def ask(self, request: Asked) -> None:
        self.waiting.append(request)

    def step(self) -> list[Asked]:
        """One pass; the requests that ended with it."""
        if self.rough and len(self.running) > 1 and self.chance.random() < 0.15:
            victim = self.chance.choice(self.running)
            self._drop(victim)
            self.waiting.insert(0, victim)
            self.preempted += 1
        while self.waiting and len(self.running) < self.rows:
            request = self.waiting.pop(0)
            request.parts = self.chance.randrange(3) if self.rough else 0
            self._join(request)
        if not self.running:
            return []
        self._pass()
        ended = [request for request in self.running if request.done]
        for request in ended:
            self._drop(request)
        return ended

    def _row(self, request: Asked, ids: list[int]) -> Tensor:
        """The logits behind ``ids``, or behind a part of them while that is all that is read."""
        return self.logits(ids[: max(1, len(ids) // 2)] if request.parts else ids).clone()

    def _join(self, request: Asked) -> None:
        self.running.append(request)

    def _drop(self, request: Asked) -> None:
        self.running.remove(request)

    def _pass(self) -> None:
        for request in self.running:
            row = self.logits(request.ids)
            request.take(int(row[: self.size].argmax()), row)


class HandV1(HandEngine):
    """The batch of the model runner V1: rows in one piece, told of by ``BatchUpdate``."""

    def __init__(self, gate: Any, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.gate = gate
        self.batch: list[Asked | None] = []
        self.removed: list[int] = []
        self.added: list[tuple[int, Any, list[int] | None, list[int]]] = []
        self.moved: list[tuple[int, int, Any]] = []

    def _join(self, request: Asked) -> None:
        super()._join(request)
        if self.chance.random() < 0.5:
            request.out = list(request.out)  # a resumed request may come with another list
        if None in self.batch:  # a place that is filled again is not among those removed
            row = self.batch.index(None)
            self.batch[row] = request
            self.removed.remove(row)
        else:
            row = len(self.batch)
            self.batch.append(request)
        params = parameters(request.extra, request.stops)
        self.added.append((row, params, request.prompt, request.out))

    def _drop(self, request: Asked) -> None:
        super()._drop(request)
        row = self.batch.index(request)
        self.batch[row] = None
        self.removed.append(row)

    def _condense(self) -> None:
        """Close gaps with the last rows, and swap two rows now and then."""
        way = v1.MoveDirectionality
        while None in self.batch:
            gap, last = self.batch.index(None), len(self.batch) - 1
            if self.batch[last] is not None:
                self.batch[gap] = self.batch[last]
                self.moved.append((last, gap, way.UNIDIRECTIONAL))
            self.batch.pop()
        if self.rough and len(self.batch) > 1 and self.chance.random() < 0.3:
            a, b = self.chance.sample(range(len(self.batch)), 2)
            self.batch[a], self.batch[b] = self.batch[b], self.batch[a]
            self.moved.append((a, b, way.SWAP))

    def _pass(self) -> None:
        self._condense()
        changed = self.removed or self.added or self.moved
        told = v1.BatchUpdate(len(self.batch), self.removed, self.added, self.moved)
        # An asynchronous step is told of before the last tokens are known, and read after.
        last = [(r, r.out[-1]) for r in self.running if r.out]
        for request, _ in last:
            request.out[-1] = -1
        self.gate.update_state(told if changed else None)
        for request, token in last:
            request.out[-1] = token
        self.removed, self.added, self.moved = [], [], []
        batch = [request for request in self.batch if request is not None]
        raw = torch.stack([self._row(request, request.ids) for request in batch])
        found = self.gate.apply(raw.clone()).argmax(-1).tolist()
        for request, token, row in zip(batch, found, raw, strict=True):
            if request.parts:
                request.parts -= 1
            else:
                request.take(token, row)


class HandV2(HandEngine):
    """The batch of the model runner V2: slots that are used again, rows in any order.

    Args:
        make: the gate, of the states of requests.
        drafts: tokens that are guessed for each request, some of them rightly.
    """

    def __init__(
        self, make: Callable[[Any], Any], columns: int, *given: Any, drafts: int = 0, **more: Any
    ) -> None:
        device = more.pop("device", torch.device("cpu"))
        super().__init__(*given, **more)
        slots = self.rows + 2

        def buffer() -> Any:
            return SimpleNamespace(gpu=torch.zeros(slots, dtype=torch.int32, device=device))

        self.states = SimpleNamespace(
            device=device,
            max_num_reqs=slots,
            vocab_size=columns,
            prompt_len=buffer(),
            prefill_len=buffer(),
        )
        self.gate, self.drafts, self.device = make(self.states), drafts, device
        self.free = list(range(slots))

    def _join(self, request: Asked) -> None:
        super()._join(request)
        request.slot = self.free.pop()
        self.states.prompt_len.gpu[request.slot] = len(request.prompt)
        self.states.prefill_len.gpu[request.slot] = len(request.ids)
        self.gate.add_request(request.slot, parameters(request.extra, request.stops))

    def _drop(self, request: Asked) -> None:
        super()._drop(request)
        self.free.append(request.slot)

    def _guesses(self, request: Asked) -> list[int]:
        """Drafts, of which the first few are what the model writes."""
        if request.parts or not request.out:
            return []
        ids, right = request.ids, self.chance.randrange(self.drafts + 1)
        for i in range(self.drafts):
            best = int(self.logits(ids).argmax())
            ids.append(best if i < right else self.chance.randrange(2, 30))
        return ids[len(request.ids) :]

    def _pass(self) -> None:
        self.gate.apply_staged_writes()
        batch = list(self.running)
        self.chance.shuffle(batch)
        guesses = [self._guesses(request) for request in batch]
        slots, local, tokens, places, rows = [], [], [], [], []
        for request, guessed in zip(batch, guesses, strict=True):
            for at in range(len(guessed) + 1):
                ids = request.ids + guessed[:at]
                fed = ids[: max(1, len(ids) // 2)] if request.parts else ids
                slots.append(request.slot)
                local.append(at)
                tokens.append(fed[-1])
                places.append(len(fed) - 1)
                rows.append(self.logits(fed))
        raw = torch.stack(rows)
        mine = [request.slot for request in batch]
        context = v2.LogitsContext(
            expanded_idx_mapping=self._tensor(slots, torch.int32),
            idx_mapping=self._tensor(mine, torch.int32),
            idx_mapping_np=np.array(mine),
            expanded_local_pos=self._tensor(local, torch.int32),
            input_ids=self._tensor(tokens, torch.int32),
            pos=self._tensor(places, torch.int64),
            seq_lens_upper_bound_np=None,
        )
        masked = self.apply(raw.clone().to(self.device), context)
        found, at = masked.argmax(-1).tolist(), 0
        for request, guessed in zip(batch, guesses, strict=True):
            for i in range(len(guessed) + 1):
                if request.parts:
                    request.parts -= 1
                    break
                token = found[at + i]
                if not request.take(token, raw[at + i]) or guessed[i : i + 1] != [token]:
                    break
            at += len(guessed) + 1

    def apply(self, logits: Tensor, context: Any) -> Tensor:
        """What the engine calls; a test may stand between."""
        return self.gate.apply(logits, context)

    def _tensor(self, values: list[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)
