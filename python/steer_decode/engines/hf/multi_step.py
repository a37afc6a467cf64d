"""Several tokens between two looks of the host.

Forward, sampling and bookkeeping are on the device. A GPU writes a token in less time than the host
needs to read one and to launch the next forward pass. Here the host prepares a few passes, and each
stays on the device: a forward pass over buffers of fixed size and place, ``sample_logits``,
the signal, and ``step_update_``, which notices the end of a step and takes no token beyond it.
After the last one the host reads what was written, once. Keys and values of tokens beyond the end
are forgotten by moving the read mark back.

On CUDA a pass is captured as a graph, one for each number of rows and width of the cache, both
rounded up so that few are needed, and of these few are kept (``graphs.py``). Elsewhere, and with
models whose code reads on the host (which no graph can hold), the same code runs pass by pass; it
writes the same tokens as a loop that looks at each, and tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steer_kernels import RowFlag, StepState, sample_logits, step_update_

from ...core.requests import Draw, Row
from ...core.signals import signal_of
from .gradients import without_gradients
from .graphs import Graphs
from .host_reads import host_reads
from .lane import Lane
from .placing import is_spread
from .span import rounded_up


class WrittenAhead(NamedTuple):
    """What the passes have written for one row.

    Fields:
        draws: at least one, unless the row is not valid.
        valid: false if the model returned NaN or nothing finite, right after ``draws``.
    """

    draws: list[Draw]
    valid: bool


class MultiStep:
    """Passes of one lane, for rows of one kind.

    Args:
        lane: the model and its cache.
        like: a row of that kind: its sampling, signal, boundary and ends are those of all.
        vocab_size: ids that may be drawn.
        ahead: tokens between two looks of the host.
    """

    def __init__(self, lane: Lane, like: Row, vocab_size: int, ahead: int) -> None:
        self._lane = lane
        self._signal, self._sampling = like.signal, like.sampling
        self._device = lane.model.device
        self._token_class = like.boundary.token_classes(like.ends, vocab_size).to(self._device)
        self._vocab_size = vocab_size
        self._ahead = ahead
        # A graph is of one device.
        self._captures = self._device.type == "cuda" and not is_spread(lane.model)
        self._buffers: dict[int, _Buffers] = {}
        self._graphs = Graphs()

    def write(self, rows: Sequence[int], answers: Mapping[int, Row]) -> dict[int, WrittenAhead]:
        """Write up to ``ahead`` tokens for each row.

        At least one, and none beyond the open step.

        Args:
            rows: of the lane; each asks for a token.
            answers: of all rows of the lane.
        """
        with without_gradients(self._lane.model):
            return self._write(rows, answers)

    def _write(self, rows: Sequence[int], answers: Mapping[int, Row]) -> dict[int, WrittenAhead]:
        lane = self._lane
        rows = lane.prefill(rows)
        tokens = min(self._ahead, *(answers[r].room for r in rows))
        size = rounded_up(len(rows), 1, lane.cache.rows - lane.cache.first(rows))
        if size not in self._buffers:
            self._buffers[size] = _Buffers(size, self._ahead, self._device)
        buffers = self._buffers[size]
        known = [lane.known_logits(row) for row in rows]
        buffers.fill(rows, [answers[row] for row in rows], lane, known)
        if any(logits is not None for logits in known):
            # The small model was asked before the step: its first token needs no forward pass.
            like = next(logits for logits in known if logits is not None)
            void = torch.zeros_like(like)
            stacked = [void if logits is None else logits for logits in known]
            stacked += [void] * (size - len(rows))
            self._take(buffers, torch.stack(stacked))
            buffers.active.copy_(buffers.running)
        passes = tokens - 1 if all(logits is not None for logits in known) else tokens
        width = lane.cache.reserve(max(lane.read_mark(row) for row in rows) + tokens)
        for _ in range(passes):
            self._pass(rows, buffers, width)
        lane.count_passes(rows, passes)
        return dict(zip(rows, buffers.read(len(rows)), strict=True))

    def _pass(self, rows: Sequence[int], buffers: _Buffers, width: int) -> None:
        cache = self._lane.cache
        key = (buffers.size, width, cache.first(rows), cache.state.made)
        if self._captures and key not in self._graphs:
            # A graph writes where the buffers were: once they have moved it is of no use.
            self._graphs.keep(lambda kept: kept[-1] == cache.state.made)
            graph = self._capture(rows, buffers, width)
            self._captures = graph is not None
            if graph is not None:
                self._graphs.put(key, graph)
        if self._captures:
            self._graphs.replay(key)
        else:
            self._forward(rows, buffers, width)

    def _capture(
        self, rows: Sequence[int], buffers: _Buffers, width: int
    ) -> torch.cuda.CUDAGraph | None:
        """Record a pass; None where it reads on the host.

        Trial runs come first, as capture asks; what they change is put back. Streams are of the
        model's device, which need not be the current one: a capture on another stays empty.
        """
        with torch.cuda.device(self._device):
            return self._capture_here(rows, buffers, width)

    def _capture_here(
        self, rows: Sequence[int], buffers: _Buffers, width: int
    ) -> torch.cuda.CUDAGraph | None:
        before = [tensor.clone() for tensor in buffers.tensors()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._forward(rows, buffers, width)  # what is made once is made here
            reads = host_reads(lambda: self._forward(rows, buffers, width))
        torch.cuda.current_stream().wait_stream(side)
        graph = None
        if not reads:
            graph = torch.cuda.CUDAGraph()
            # The other model may take memory in another thread meanwhile (decode/overlap.py).
            pool, mode = self._graphs.pool(), "thread_local"
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode=mode):
                self._forward(rows, buffers, width)
        for tensor, old in zip(buffers.tensors(), before, strict=True):
            tensor.copy_(old)
        return graph

    def _forward(self, rows: Sequence[int], buffers: _Buffers, width: int) -> None:
        """One pass: reads the last token of every row and takes the next one. No host read."""
        span = self._lane.cache.begin_fixed(
            rows, buffers.places, buffers.starts, buffers.counts, width
        )
        logits = self._lane.forward.logits(buffers.ids, span)
        self._take(buffers, logits)
        buffers.starts.add_(buffers.counts)
        buffers.active.copy_(buffers.running)

    def _take(self, buffers: _Buffers, logits: Tensor) -> None:
        """Draw from ``logits`` [n, V] and let the active rows take their token."""
        sampling, state = self._sampling, buffers.state
        taken = (state.length - buffers.length)[:, None]
        uniform = buffers.uniform.gather(1, taken)[:, 0]
        sampled = sample_logits(
            logits,
            uniform,
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
            vocab_size=self._vocab_size,
        )
        score = signal_of(self._signal, sampled.stats).float()
        open_step = (state.flag & RowFlag.STEP_CLOSED) == 0
        buffers.active &= open_step & buffers.valid
        buffers.valid &= sampled.valid | ~buffers.active
        active = buffers.active & sampled.valid
        # A row that takes nothing writes its score where nobody reads it, or over its last one.
        at = torch.where(active[:, None], taken, buffers.scores.shape[1] - 1)
        buffers.scores.scatter_(1, at, score[:, None])
        step_update_(state, sampled.token, score, self._token_class, active)
        buffers.ids.copy_(torch.where(active, sampled.token, buffers.ids[:, 0])[:, None])


class _Buffers:
    """Tensors of fixed place for ``size`` rows, some of which may be idle."""

    def __init__(self, size: int, tokens: int, device: torch.device) -> None:
        self.size = size
        self._device = device
        self.ids = torch.zeros(size, 1, dtype=torch.int64, device=device)  # what a pass reads
        self.places = self.ids[:, 0].clone()
        self.starts = self.places.clone()
        self.counts = self.places.clone()  # 1 for a row that runs, 0 for an idle one
        self.length = self.places.clone()  # of the state, before the first pass
        self.active = torch.zeros(size, dtype=torch.bool, device=device)
        self.running = torch.zeros(size, dtype=torch.bool, device=device)
        self.valid = torch.ones(size, dtype=torch.bool, device=device)
        self.uniform = torch.zeros(size, tokens + 1, dtype=torch.float64, device=device)
        self.scores = torch.zeros(size, tokens + 2, dtype=torch.float32, device=device)
        # Of the open step only its last token matters; the limits of an answer are the host's.
        self.state = StepState.of_prompts([[]] * size, tokens + 2, device)

    def tensors(self) -> list[Tensor]:
        mutable = [self.ids, self.starts, self.active, self.valid, self.scores]
        return [*mutable, *self.state]

    def fill(
        self,
        rows: Sequence[int],
        answers: Sequence[Row],
        lane: Lane,
        known: Sequence[Tensor | None],
    ) -> None:
        """Set everything for a new call; rows with known logits take their first token at once."""
        idle = [0] * (self.size - len(rows))
        first = lane.cache.first(rows)
        steps = [c.step_ids for c in answers]
        integers = [
            [c.transcript.ids[-1] for c in answers] + idle,
            list(range(first, first + self.size)),
            [lane.read_mark(row) for row in rows] + idle,
            [1] * len(rows) + idle,
            [int(bool(ids)) for ids in steps] + idle,
            [int(logits is not None) for logits in known] + idle,
            [ids[-1] if ids else 0 for ids in steps] + idle,
            [RowFlag.SAID if c.said_something else 0 for c in answers] + idle,
        ]
        ids, places, starts, counts, length, ready, last, flag = torch.tensor(
            integers, dtype=torch.int64
        ).to(self._device)
        self.ids.copy_(ids[:, None])
        self.places.copy_(places)
        self.starts.copy_(starts)
        self.counts.copy_(counts)
        self.length.copy_(length)
        self.running.copy_(counts)
        self.active.copy_(ready if bool(any(k is not None for k in known)) else counts)
        self.valid.fill_(True)
        most = self.uniform.shape[1]
        numbers = [c.uniforms(most) for c in answers]
        self.uniform[: len(rows)] = torch.tensor(numbers, dtype=torch.float64).to(self._device)
        state = self.state
        state.transcript[:, 0] = last
        state.length.copy_(length)
        state.step_start.zero_()
        state.score_sum.zero_()
        state.score_count.zero_()
        state.flag.copy_(flag)
        state.limit.fill_(state.transcript.shape[1])

    def read(self, rows: int) -> list[WrittenAhead]:
        """What was written, in one read."""
        width = self.state.transcript.shape[1]
        packed = torch.cat(
            [
                self.length[:, None].double(),
                self.state.length[:, None].double(),
                self.valid[:, None].double(),
                self.state.transcript.double(),  # ids are far below 2^53
                self.scores.double(),
            ],
            dim=1,
        )
        written = []
        for begin, end, valid, *values in packed[:rows].tolist():
            tokens = [int(t) for t in values[int(begin) : int(end)]]
            scores = values[width : width + len(tokens)]
            draws = [Draw(t, s) for t, s in zip(tokens, scores, strict=True)]
            written.append(WrittenAhead(draws, bool(valid)))
        return written
