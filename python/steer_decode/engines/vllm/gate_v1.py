"""The gate for vLLM's model runner V1.

That is the one that runs on a CPU and where Triton is not.

Named on the server by its path, not as an entry point: to one that is installed, vLLM shows the
tokens of an asynchronous step too late. ``--logits-processors`` takes it as
``steer_decode.engines.vllm.gate_v1:GateV1``. It reads a batch in one pass of ``logit_stats`` over
the engine's own logits, and copies the signals to the host at once; the rest is a scan of the new
token in each row.

A step's last token is seen when the logits of the next one are at hand; HANDOFF is forced there.
What the engine does to requests on the way is met so:

- a preempted request is added again with its tokens and without what was read: its values are kept
  by the request's own id;
- a part of a prompt brings a row of logits that do not count: values are kept by position, and the
  last one that is written there stays;
- a token that the engine has not shown yet stands as -1: it is judged when it is known, too late
  for HANDOFF at the step's end, so that HANDOFF says that the gate could not judge.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor

from steer_kernels import LogitStats, logit_stats

from ...core.signals import SIGNALS
from ...errors import SteerError
from .gate_args import GateArgs, check_request
from .gate_tokens import GateTokens

_KEPT = 4  # requests that are remembered, for each that may run

_log = logging.getLogger(__name__)


class _Request:
    """A request that the gate follows, and the scan of its open step.

    Attributes:
        out: the tokens that it has written; the engine's own list, which grows.
        values: the signal at each position of ``out`` and at the next one; NaN where none is known.
    """

    def __init__(self, args: GateArgs, out: list[int], tokens: GateTokens) -> None:
        self.args, self._tokens = args, tokens
        self.values: list[float] = []
        self.follow(out)

    def follow(self, out: list[int]) -> None:
        """Scan ``out`` from its beginning, with the values that are known."""
        self.out = out
        self.unjudged = False  # a step has closed of which not all values are known
        self._ends = False
        self._seen = self._start = 0
        self._index = self.args.step
        self._open()

    def _open(self) -> None:
        self._scan = self._tokens.scan(self.args.delimiter, self.args.max_step)

    def was(self, args: GateArgs, out: Sequence[int]) -> bool:
        """Whether a request that is added with ``out`` is this one, preempted."""
        n = min(self._seen, len(out))
        while n and out[n - 1] < 0:  # not shown yet
            n -= 1
        return args == self.args and list(out[:n]) == self.out[:n]

    def hands_over(self, value: float) -> bool:
        """Whether the request is to end here.

        It may be asked again about the same place, and then the last answer counts.

        Args:
            value: the signal of the logits from which the next token is to be drawn.
        """
        n = len(self.out)
        self.values += [math.nan] * (n - len(self.values))  # what the engine has lost
        self.values[n:] = [value]
        while self._seen < n and self.out[self._seen] >= 0:
            self._push(self.out[self._seen])
        if self._ends:
            return True
        known = not (self.unjudged or self._seen < n or math.isnan(value))
        if self._start < n:  # within a step
            return not known or math.isnan(self.values[n - 1])
        return known and not self.args.rule.opens(value)

    def _push(self, token: int) -> None:
        """Scan a token, and judge the step that it closes."""
        self._seen += 1
        if not self._scan.push(token):
            return
        values = self.values[self._start : self._seen]
        rule = self.args.rule
        if any(map(math.isnan, values)):
            self.unjudged = True
        else:
            score = min(values) if rule.score == "min" else sum(values) / len(values)
            self._ends |= not rule.stays(self._index, score)
        self._start = self._seen
        self._index += 1
        self._open()


class GateV1(LogitsProcessor):
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

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._tokens = GateTokens.of(vllm_config.model_config)
        self._most = _KEPT * max(1, vllm_config.scheduler_config.max_num_seqs)
        self._columns: int = vllm_config.model_config.get_vocab_size()
        self._known: OrderedDict[str, _Request] = OrderedDict()
        self._rows: dict[int, _Request] = {}
        self._arrange()
        # What cannot run is to fail here, before there are requests.
        self._read(torch.zeros(1, self._columns, device=device))

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow requests into, out of and within the batch."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, _, out in batch_update.added:
            self._rows.pop(row, None)
            request = self._added(params, out)
            if request is not None:
                self._rows[row] = request
        for a, b, direction in batch_update.moved:
            moved, replaced = self._rows.pop(a, None), self._rows.pop(b, None)
            if moved is not None:
                self._rows[b] = moved
            if direction.name == "SWAP" and replaced is not None:
                self._rows[a] = replaced
        self._arrange()

    def apply(self, logits: Tensor) -> Tensor:
        """Mask HANDOFF, or all else, in followed rows.

        Args:
            logits: [requests, columns] float32; changed in place.
        """
        if not self._rows:
            return logits
        try:
            self._apply(logits)
        except Exception:  # it would end the engine, and with it everybody's requests
            _log.exception("the gate failed; the requests of this batch are told")
            for request in self._rows.values():
                request.unjudged = True
        return logits

    def _apply(self, logits: Tensor) -> None:
        values = self._read(logits)
        forced = [
            (row, request.args.handoff)
            for row, request in self._rows.items()
            if request.hands_over(values[request.args.rule.signal][row])
        ]
        if self._tokens.size < logits.shape[1]:
            logits[self._gated, self._tokens.size :] = -torch.inf
        logits[self._gated, self._handoffs] = -torch.inf
        for row, handoff in forced:
            logits[row] = -torch.inf
            logits[row, handoff] = 0.0

    def _read(self, logits: Tensor) -> dict[str, list[float]]:
        """The signals that the rows want, of all rows."""
        size = min(self._tokens.size, logits.shape[1])
        stats: LogitStats = logit_stats(logits, min(self._k, size), size)
        read = torch.stack([SIGNALS[name].read(stats) for name in self._signals])
        return dict(zip(self._signals, read.tolist(), strict=True))

    def _arrange(self) -> None:
        """Keep what is the same for a batch until the batch changes."""
        names = {request.args.rule.signal for request in self._rows.values()}
        self._signals = sorted(names) or ["max-logit"]
        self._k = 2 if "margin" in names else 1
        handoffs = [request.args.handoff for request in self._rows.values()]
        both = torch.tensor([list(self._rows), handoffs], dtype=torch.int64, device=self._device)
        self._gated, self._handoffs = both

    def _added(self, params: Any, out: list[int]) -> _Request | None:
        """The request that is added, or added again."""
        try:
            args = GateArgs.read(getattr(params, "extra_args", None))
        except SteerError:  # the door has refused it already; what came past it is left alone
            return None
        if args is None or args.handoff >= self._columns:
            return None
        known = self._known.pop(args.id, None)
        if known is not None and out and known.was(args, out):
            known.follow(out)
        else:
            known = _Request(args, out, self._tokens)
        self._known[args.id] = known
        while len(self._known) > self._most:
            self._forget()
        return known

    def _forget(self) -> None:
        """Drop the oldest request that is in no row."""
        running = {id(request) for request in self._rows.values()}
        oldest = next((k for k, r in self._known.items() if id(r) not in running), None)
        self._known.pop(oldest if oldest is not None else next(iter(self._known)))
