"""Conversations that advance together: each model runs once a turn, on the rows that ask for it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from steer_kernels import LogitStats, logit_stats, sample_logits

from .conversation import Ask, Conversation, Draw, Reply, read_signal
from .errors import BrokenModelError, OutOfMemoryError
from .events import Event
from .lane import Lane
from .pair import Pair
from .policies import Policy
from .sampling import Sampling
from .transcript import WRITERS, Writer


def make_lanes(pair: Pair, conversations: Sequence[Conversation]) -> dict[Writer, Lane]:
    """A lane for each model over the transcripts of ``conversations``."""
    transcripts = [c.transcript for c in conversations]
    limit = max(c.limit for c in conversations)
    return {w: Lane(pair.model(w), pair.shapes[w], transcripts, limit) for w in WRITERS}


class Batch:
    """Runs conversations over two lanes.

    Args:
        pair: the two models.
        policy: of all conversations; its signal is read off each row's raw logits.
        conversations: the rows of both lanes, in order.
        sampling: how tokens are drawn.
        lanes: to go on with; new ones by default.
    """

    def __init__(
        self,
        pair: Pair,
        policy: Policy,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        lanes: dict[Writer, Lane] | None = None,
    ) -> None:
        self._policy = policy
        self._conversations = conversations
        self._sampling = sampling
        self._vocab_size = pair.vocab_size
        self.lanes = lanes or make_lanes(pair, conversations)

    def run(self) -> Iterator[tuple[int, Event]]:
        """Yields (row, event) until every answer is complete."""
        running = [c.run() for c in self._conversations]
        asks: dict[int, Ask] = {}
        for row, conversation in enumerate(running):
            yield from self._advance(row, conversation, None, asks)
        while asks:
            for writer in WRITERS:
                # A row whose step the small model has just closed may join the large one's pass.
                rows = [row for row, ask in asks.items() if ask.writer == writer]
                if not rows:
                    continue
                draws = [asks.pop(row).draw for row in rows]
                replies = self._reply(writer, rows, draws)
                for row, reply in zip(rows, replies, strict=True):
                    yield from self._advance(row, running[row], reply, asks)

    def _advance(
        self,
        row: int,
        running: Generator[Event | Ask, Reply, None],
        reply: Reply | None,
        asks: dict[int, Ask],
    ) -> Iterator[tuple[int, Event]]:
        """Runs one conversation to its next ask, or to its end."""
        conversation = self._conversations[row]
        for writer, lane in self.lanes.items():
            conversation.read[writer] = lane.watermark(row)
        try:
            item = running.send(reply)  # type: ignore[arg-type]
            while not isinstance(item, Ask):
                yield row, item
                item = next(running)
            asks[row] = item
        except StopIteration:
            pass
        finally:
            # A step that was taken back, or one whose reader went away in the middle.
            for lane in self.lanes.values():
                lane.roll_back(row, len(conversation.transcript))

    @torch.inference_mode()
    def _reply(self, writer: Writer, rows: Sequence[int], draws: Sequence[bool]) -> list[Reply]:
        logits = self._catch_up(writer, rows)
        stats, tokens = self._sample(logits, rows, draws)
        if not all(stats.valid.tolist()):
            self._refuse(writer, rows, stats)
        if not any(draws):
            return [_row(stats, i) for i in range(len(rows))]
        places = ", ".join(self._conversations[row].place for row in rows)
        values = read_signal(self._policy, stats, f"at {places}")
        ids = tokens.tolist()
        return [
            [Draw(ids[i], values[i])] if draw else _row(stats, i) for i, draw in enumerate(draws)
        ]

    def _catch_up(self, writer: Writer, rows: Sequence[int]) -> Tensor:
        lane = self.lanes[writer]
        try:
            return lane.catch_up(rows)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not isinstance(error, torch.OutOfMemoryError) and "allocate" not in str(error):
                raise
            needed = sum(lane.pending(row) + lane.watermark(row) for row in rows)
            raise OutOfMemoryError(
                f"the {writer} model ran out of memory on {lane.model.device} at a context of "
                f"{needed} tokens over {len(rows)} rows: lower max_new_tokens or the number of "
                "prompts, or load the models in bfloat16"
            ) from error

    def _sample(
        self, logits: Tensor, rows: Sequence[int], draws: Sequence[bool]
    ) -> tuple[LogitStats, Tensor]:
        """Statistics of the raw logits, and a token for each row that draws."""
        sampling, conversations = self._sampling, self._conversations
        if not any(draws):
            stats = logit_stats(logits, vocab_size=self._vocab_size)
            return stats, stats.topk_ids[:, 0]
        options = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
        if sampling.temperature:
            numbers = [
                conversations[row].uniform() if draw else 0.0
                for row, draw in zip(rows, draws, strict=True)
            ]
            uniform = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        else:
            uniform = logits.new_zeros(len(rows), dtype=torch.float32)
        sampled = sample_logits(logits, uniform, *options, vocab_size=self._vocab_size)
        tokens = sampled.token
        for i, row in enumerate(rows):
            if draws[i] and conversations[row].hooks.processors:
                scores = self._processed(logits[i : i + 1], row)
                tokens[i] = sample_logits(scores, uniform[i : i + 1], *options).token[0]
        return sampled.stats, tokens

    def _processed(self, logits: Tensor, row: int) -> Tensor:
        """The scores [1, V] that the caller's processors make of raw logits."""
        conversation = self._conversations[row]
        ids = torch.tensor([conversation.transcript.ids], device=logits.device)
        raw = logits[:, : self._vocab_size].to(torch.float32, copy=True)
        scores: Tensor = conversation.hooks.processors(ids, raw)  # type: ignore[misc]
        if bool(torch.isnan(scores).any()) or not bool((scores > -torch.inf).any()):
            raise BrokenModelError(
                f"logits_processor left no token to choose at {conversation.place}: "
                "at least one score must be a number above -inf"
            )
        return scores

    def _refuse(self, writer: Writer, rows: Sequence[int], stats: LogitStats) -> None:
        broken = next(r for r, valid in zip(rows, stats.valid.tolist(), strict=True) if not valid)
        raise BrokenModelError(
            f"the {writer} model returned logits that are NaN or not finite at "
            f"{self._conversations[broken].place}: check its weights, or load it in "
            "float32 or bfloat16 if it was loaded in float16"
        )


def _row(stats: LogitStats, i: int) -> LogitStats:
    return LogitStats(*(field[i : i + 1] for field in stats))
