"""Answers in the making, event by event: of a cohort, or of one prompt."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.cost import Cost
from ..core.events import Done, Event, RoutedOutput, StepClosed
from ..core.requests import Hooks
from ..core.sampling import Sampling
from ..core.trace import Trace
from ..core.transcript import WRITERS, Transcript, Writer
from ..engines.hf.lane import Lane
from ..engines.hf.memory import check_memory
from ..errors import SteerError
from ..util.checks import whole
from .answer import Conversation
from .scheduler import Batch

if TYPE_CHECKING:
    from .router import Router


class Cohort:
    """Answers in the making: iterate over (row, event), or ask for :attr:`outputs` at any time.

    The last event of a row is its ``Done``.
    """

    def __init__(
        self,
        router: Router,
        transcripts: Sequence[Transcript],
        max_new_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        hooks: Sequence[Hooks] | None = None,
        lanes: dict[Writer, Lane] | None = None,
    ) -> None:
        max_new_tokens = whole("max_new_tokens", max_new_tokens)
        if max_new_tokens < 1:
            raise SteerError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if not transcripts:
            raise SteerError("prompts are empty: give at least one")
        self._pair = pair = router.pair
        limits = [min(len(t) + max_new_tokens, pair.max_length) for t in transcripts]
        held = {w: lane.cache.touched for w, lane in lanes.items()} if lanes else None
        check_memory(pair, max(limits), len(transcripts), held)
        seeds = [whole("seed", seed) for seed in seeds]
        policy = router.policy.start()
        each = hooks or [Hooks()] * len(transcripts)
        self._conversations = [
            Conversation(pair, policy, router.boundary, transcript, limit, seeds[i], each[i])
            for i, (transcript, limit) in enumerate(zip(transcripts, limits, strict=True))
        ]
        self._batch = Batch(
            pair, policy, self._conversations, sampling, router.boundary, router.turns, lanes
        )
        self._events = self._run()

    def __iter__(self) -> Iterator[tuple[int, Event]]:
        return self

    def __next__(self) -> tuple[int, Event]:
        row, event = next(self._events)
        return (row, Done(self.output(row))) if event is None else (row, event)

    def close(self) -> None:
        """Ends the answers where they are. The caches stay consistent with the transcripts."""
        self._events.close()
        for conversation in self._conversations:
            if not conversation.trace.stop_reason:
                conversation.trace.stop_reason = "cancelled"

    @property
    def outputs(self) -> list[RoutedOutput]:
        """The answers as far as they are written, open steps included."""
        return [self.output(row) for row in range(len(self._conversations))]

    def trace(self, row: int) -> Trace:
        return self._conversations[row].trace

    def output(self, row: int) -> RoutedOutput:
        """One answer as far as it is written."""
        trace = self.trace(row)
        text = "".join(step.text for step in trace.kept)
        # From the steps, not the transcript: an interrupt may fall between the two.
        ids = [token for step in trace.kept for token in step.token_ids]
        return RoutedOutput(text, ids, trace, self._cost(row))

    def _run(self) -> Generator[tuple[int, Event | None], None, None]:
        for row, event in self._batch.run():
            yield row, event
            if isinstance(event, StepClosed):
                # A policy that restarts answers may have held back steps before the last one.
                trace = self.trace(row)
                if trace.stop_reason and event.step is trace.steps[-1]:
                    yield row, None

    def _cost(self, row: int) -> Cost:
        conversation, shapes = self._conversations[row], self._pair.shapes
        written, discarded = conversation.written, conversation.discarded
        usage = {
            w: replace(self._batch.lanes[w].usage(row), written=written[w], discarded=discarded[w])
            for w in WRITERS
        }
        kept = conversation.trace.kept
        tokens = {w: sum(step.by(w) for step in kept) for w in WRITERS}
        steps = sum(s.writer == "large" for s in kept)
        return Cost(
            flops_paper=float(sum(2 * shapes[w].active * written[w] for w in WRITERS)),
            flops_processed=float(sum(usage[w].flops for w in WRITERS)),
            bytes_read=float(sum(usage[w].bytes_read for w in WRITERS)),
            seconds=self._batch.seconds[row],
            small=usage["small"],
            large=usage["large"],
            large_token_share=tokens["large"] / max(1, sum(tokens.values())),
            large_step_share=steps / max(1, len(kept)),
            hand_overs=conversation.trace.hand_overs,
            discarded_tokens=sum(discarded.values()),
        )


class RoutedStream:
    """One answer in the making: iterate over its events, or ask for :attr:`output` at any time."""

    def __init__(
        self,
        router: Router,
        transcript: Transcript,
        max_new_tokens: int,
        sampling: Sampling,
        seed: int,
        hooks: Hooks | None = None,
        lanes: dict[Writer, Lane] | None = None,
    ) -> None:
        if router.policy.in_rounds:
            raise SteerError(
                f"router {router.policy.name!r} judges the answers of a cohort together, and there "
                "is one: use Router.cohort or `steer eval --cohort`, or another router"
            )
        each = [hooks] if hooks else None
        self._cohort = Cohort(router, [transcript], max_new_tokens, sampling, [seed], each, lanes)
        self.trace = self._cohort.trace(0)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return next(self._cohort)[1]

    def finish(self) -> RoutedOutput:
        """Runs to the end and returns the answer."""
        for _ in self:
            pass
        return self.output

    def close(self) -> None:
        """Ends the answer where it is; what was written stays in :attr:`output`."""
        self._cohort.close()

    @property
    def output(self) -> RoutedOutput:
        """The answer as far as it is written, open step included."""
        return self._cohort.output(0)
