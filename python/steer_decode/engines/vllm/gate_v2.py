"""The gate for vLLM's model runner V2.

That is the one that runs wherever Triton is.

Named on the server by its path: ``--logits-processors`` takes it as
``steer_decode.engines.vllm.gate_v2:GateV2``. All that it keeps lies on the device and is changed
there by the batch's own tensors, so that the host waits for nothing: one pass of ``logit_stats``
over the engine's logits, and operations of a few numbers a row.

What holds after a position of a text follows from what held after the one before it, the token
there and the row of logits behind it. So states are kept by position, a few for each request, and
each is made from its predecessor:

- a place in the batch is used again without notice: states lie in places of their own, which a
  request finds by its id, also when it was preempted and is added again;
- a part of a prompt brings a row of logits that do not count: it is told by its position;
- a row that is computed again, and a draft that was refused, start from the predecessor again;
- under speculation a request has a row a draft: they are taken in their order.

Where the predecessor is not there, the request is told (HANDOFF within a step).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from steer_kernels import logit_stats

from ...core.signals import SIGNALS
from ...errors import SteerError
from .gate_args import SIGNALS as NAMES
from .gate_args import GateArgs, check_request
from .gate_state import RULE, STATE, Rules, State, advance, put, tell
from .gate_tokens import Deeds, GateTokens, check_delimiter

_KEPT = 4  # places of requests, for each that may run
_POSITIONS = 8  # whose states are kept, of each request, beside those of drafts


class GateV2(LogitsProcessor):
    """Ends requests where their model is to hand over.

    Those that carry the arguments of :class:`GateArgs`; it leaves others alone.
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request that the gate cannot follow.

        Raises:
            SteerError: a ``ValueError``; the server answers 400 with its sentence.
        """
        check_request(sampling_params)
        args = GateArgs.read(sampling_params.extra_args)
        if args is not None:
            check_delimiter(args.delimiter)

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._requests = req_states
        device, columns, slots = req_states.device, req_states.vocab_size, req_states.max_num_reqs
        tokens = GateTokens.of(vllm_config.model_config)
        self._size = min(tokens.size, columns)
        self._columns = columns
        self._table = tokens.table(columns).to(device)
        speculative = getattr(vllm_config, "speculative_config", None)
        self._drafts = 0 if speculative is None else int(speculative.num_speculative_tokens or 0)
        self._ring = _POSITIONS + self._drafts
        self._places = _KEPT * slots
        self._off = self._places  # of the rows that are left alone
        shape = self._places + 1, self._ring, STATE
        self._states = torch.full(shape, -1.0, dtype=torch.float64, device=device)
        self._rules = torch.zeros(self._places + 1, RULE, dtype=torch.float64, device=device)
        self._place = torch.full((slots,), self._off, dtype=torch.int64, device=device)
        self._gated = np.zeros(slots, dtype=bool)
        self._signal = np.zeros(slots, dtype=np.int64)
        self._of_slot: list[int] = [self._off] * slots
        self._of_id: OrderedDict[str, int] = OrderedDict()  # the last one that was added comes last
        self._free = list(range(self._places))
        self._staged: dict[int, int] = {}
        self._told: dict[int, GateArgs] = {}
        self._new: list[int] = []  # places that had another request before
        # What cannot run is to fail here, before there are requests.
        logit_stats(torch.zeros(1, columns, device=device), 1, self._size)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Follow the request that comes into a slot."""
        try:
            args = GateArgs.read(getattr(sampling_params, "extra_args", None))
        except SteerError:  # the door has refused it already; what came past it is left alone
            args = None
        if args is not None and args.handoff >= self._columns:
            args = None
        place = self._off if args is None else self._find(args.id)
        self._of_slot[req_idx] = self._staged[req_idx] = place
        self._gated[req_idx] = args is not None
        if args is not None:
            self._told[place] = args
            self._signal[req_idx] = NAMES.index(args.rule.signal)
        return args is not None

    def apply_staged_writes(self) -> None:
        """Bring what was added to the device."""
        if self._staged:
            put(self._place, list(self._staged), list(self._staged.values()))
            self._staged.clear()
        if self._told:
            tell(self._rules, self._told)
            self._told.clear()
        if self._new:
            put(self._states, self._new, [[[-1.0] * STATE] * self._ring] * len(self._new))
            self._new.clear()

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Mask HANDOFF, or all else, in followed rows.

        Args:
            logits: [rows, columns] float32; changed in place.
            ctx: which requests the rows belong to, and where they stand.
        """
        if not self._gated[ctx.idx_mapping_np].any():
            return logits
        slot = ctx.expanded_idx_mapping.long()
        place, position = self._place[slot], ctx.pos.long()
        # A part of a prompt has rows that do not count.
        reached = position + 1 >= self._requests.prefill_len.gpu[slot]
        followed = (place != self._off) & reached
        first = position + 1 == self._requests.prompt_len.gpu[slot]
        rules = Rules.of(self._rules[place])
        value = self._values(logits, rules, ctx.idx_mapping_np)
        deeds = Deeds(*self._table[ctx.input_ids.long().clamp(0, self._columns - 1)].unbind(1))
        before, here = (position - 1) % self._ring, position % self._ring
        forced = torch.zeros_like(followed)
        drafts = self._drafts if len(slot) > len(ctx.idx_mapping_np) else 0
        for at in range(drafts + 1):
            now = followed & (ctx.expanded_local_pos == at) if drafts else followed
            old = State.of(self._states[place, before])
            new, ends = advance(rules, old, position, first, deeds, value)
            self._states[torch.where(now, place, self._off), here] = new.packed()
            forced |= now & ends
        self._mask(logits, rules.handoff, followed, forced)
        return logits

    def _values(self, logits: Tensor, rules: Rules, slots: np.ndarray) -> Tensor:
        """The signal of each row, as its request has it: [rows] float64."""
        stats = logit_stats(logits, min(2, self._size), self._size)
        wanted = np.unique(self._signal[slots][self._gated[slots]])
        if len(wanted) == 1:
            return SIGNALS[NAMES[wanted[0]]].read(stats).double()
        every = torch.stack([SIGNALS[name].read(stats) for name in NAMES])
        return every.gather(0, rules.signal[None])[0].double()

    def _mask(self, logits: Tensor, handoff: Tensor, followed: Tensor, forced: Tensor) -> None:
        if self._size < self._columns:
            logits[:, self._size :].masked_fill_(followed[:, None], -torch.inf)
        logits.masked_fill_(forced[:, None], -torch.inf)
        column = handoff[:, None]
        own = torch.where(followed[:, None], -torch.inf, logits.gather(1, column))
        logits.scatter_(1, column, torch.where(forced[:, None], 0.0, own))

    def _find(self, name: str) -> int:
        """The place of a request: its own, where it was here before."""
        place = self._of_id.pop(name, None)
        if place is None:
            place = self._free.pop() if self._free else self._taken()
            self._new.append(place)
        self._of_id[name] = place
        return place

    def _taken(self) -> int:
        """The place of the request that was added first, of those in no slot."""
        running = set(self._of_slot)
        name = next(name for name, place in self._of_id.items() if place not in running)
        return self._of_id.pop(name)
