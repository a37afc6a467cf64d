"""Answers in the making, event by event.

Those of a cohort, or that of one prompt.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence, Sized
from dataclasses import replace

from ..core.cost import Cost
from ..core.events import Done, Event, Failed, RoutedOutput, StepClosed
from ..core.requests import Hooks
from ..core.sampling import Sampling
from ..core.trace import Trace
from ..core.transcript import WRITERS, Transcript, Writer
from ..engines.base import Engine
from ..errors import SteerError
from ..util.checks import whole
from .answer import Answer
from .overlap import scheduler_of
from .routing import Routing, open_engines
from .scheduler import Scheduler


class Cohort:
    """Answers in the making: an iterator over (row, event).

    :attr:`outputs` may be asked for at any time. The last event of a row is its ``Done``. An answer
    that fails ends all of them, by its error.

    Args:
        routing: the models, the policy, and where steps and answers end.
        transcripts: a prompt each.
        max_new_tokens: most tokens of each answer.
        sampling: how tokens are drawn.
        seeds: one for each.
        hooks: one for each; none by default.
        engines: to go on with; new ones by default.
    """

    def __init__(
        self,
        routing: Routing,
        transcripts: Sequence[Transcript],
        max_new_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        hooks: Sequence[Hooks] | None = None,
        engines: Mapping[Writer, Engine] | None = None,
    ) -> None:
        if not transcripts:
            raise SteerError("prompts are empty: give at least one")
        limits = limits_of(routing, transcripts, max_new_tokens)
        longest, rows = max(limits), len(transcripts)
        check_room(routing, longest, rows, engines)
        seeds = [whole("seed", seed) for seed in seeds]
        policy = routing.policy.start()
        self._routing = routing
        self._answers = [
            Answer(
                routing, policy, text, limits[i], sampling, seeds[i], hooks[i] if hooks else Hooks()
            )
            for i, text in enumerate(transcripts)
        ]
        if engines is None:
            engines = open_engines(routing.pair, routing.ahead, longest, rows)
        self._scheduler = scheduler_of(engines, routing.overlap)
        for answer in self._answers:
            self._scheduler.add(answer)
        self.events = self._run()

    def __iter__(self) -> Iterator[tuple[int, Event]]:
        return self

    def __next__(self) -> tuple[int, Event]:
        return next(self.events)

    def close(self) -> None:
        """End the answers where they are.

        The caches stay consistent with the transcripts.
        """
        self.events.close()
        for row in range(len(self._answers)):
            self._scheduler.cancel(row)

    @property
    def outputs(self) -> list[RoutedOutput]:
        """The answers so far, with their open steps."""
        return [self.output(row) for row in range(len(self._answers))]

    def trace(self, row: int) -> Trace:
        return self._answers[row].trace

    def output(self, row: int) -> RoutedOutput:
        """One answer as far as it is written."""
        return output_of(self._scheduler, row, self._answers[row])

    def _run(self) -> Generator[tuple[int, Event], None, None]:
        while self._scheduler.busy:
            for row, event in self._scheduler.iterate():
                if isinstance(event, Failed):
                    raise event.error
                yield row, event
                if has_ended(self._answers[row], event):
                    yield row, Done(self.output(row))


class RoutedStream:
    """One answer in the making: an iterator over its events.

    :attr:`output` may be asked for at any time.
    """

    def __init__(
        self,
        routing: Routing,
        transcript: Transcript,
        max_new_tokens: int,
        sampling: Sampling,
        seed: int,
        hooks: Hooks | None = None,
        engines: Mapping[Writer, Engine] | None = None,
    ) -> None:
        check_alone(routing)
        each = [hooks] if hooks else None
        self._cohort = Cohort(
            routing, [transcript], max_new_tokens, sampling, [seed], each, engines
        )
        self._events = self._cohort.events
        self.trace = self._cohort.trace(0)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return next(self._events)[1]

    def finish(self) -> RoutedOutput:
        """Run to the end and return the answer."""
        for _ in self:
            pass
        return self.output

    def close(self) -> None:
        """End the answer where it is.

        What was written stays in :attr:`output`.
        """
        self._cohort.close()

    @property
    def output(self) -> RoutedOutput:
        """The answer so far, with its open step."""
        return self._cohort.output(0)


def has_ended(answer: Answer, event: Event) -> bool:
    """Whether ``event`` is the last that ``answer`` yields."""
    # A policy that restarts answers may have held back steps before the last one.
    return (
        isinstance(event, StepClosed)
        and bool(answer.trace.stop_reason)
        and event.step is answer.trace.steps[-1]
    )


def check_alone(routing: Routing) -> None:
    """Refuse a policy that judges a cohort together.

    For doors where answers come one by one.

    Raises:
        SteerError: it does.
    """
    if routing.policy.in_rounds:
        raise SteerError(
            f"router {routing.policy.name!r} judges the answers of a cohort together, and there "
            "is one: use Router.cohort or `steer eval --cohort`, or another router"
        )


def limits_of(routing: Routing, prompts: Sequence[Sized], max_new_tokens: int) -> list[int]:
    """Most tokens of the transcript of each prompt.

    Raises:
        SteerError: ``max_new_tokens`` is no whole number from 1 on.
    """
    max_new_tokens = whole("max_new_tokens", max_new_tokens)
    if max_new_tokens < 1:
        raise SteerError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    return [min(len(text) + max_new_tokens, routing.pair.max_length) for text in prompts]


def check_room(
    routing: Routing, tokens: int, rows: int, engines: Mapping[Writer, Engine] | None = None
) -> None:
    """Refuse texts that memory cannot hold.

    There are ``rows`` of them, of up to ``tokens`` tokens each.

    Raises:
        OutOfMemoryError: as :meth:`TwoModels.check_room`.
    """
    held = {w: engine.held_bytes for w, engine in engines.items()} if engines else None
    routing.pair.check_room(tokens, rows, held)


def output_of(scheduler: Scheduler, row: int, answer: Answer) -> RoutedOutput:
    """An answer so far, with what it has cost."""
    shapes, trace = answer.routing.pair.shapes, answer.trace
    kept = trace.kept
    written, discarded = answer.written, answer.discarded
    usage = {
        w: replace(scheduler.usage(row, w), written=written[w], discarded=discarded[w])
        for w in WRITERS
    }
    tokens = {w: sum(step.by(w) for step in kept) for w in WRITERS}
    steps = sum(s.writer == "large" for s in kept)
    cost = Cost(
        flops_paper=float(sum(2 * shapes[w].active * written[w] for w in WRITERS)),
        flops_processed=float(sum(usage[w].flops for w in WRITERS)),
        bytes_read=float(sum(usage[w].bytes_read for w in WRITERS)),
        seconds=scheduler.seconds(row),
        small=usage["small"],
        large=usage["large"],
        large_token_share=tokens["large"] / max(1, sum(tokens.values())),
        large_step_share=steps / max(1, len(kept)),
        hand_overs=trace.hand_overs,
        discarded_tokens=sum(discarded.values()),
    )
    # From the steps, not the transcript: an interrupt may fall between the two.
    ids = [token for step in kept for token in step.token_ids]
    return RoutedOutput("".join(step.text for step in kept), ids, trace, cost)
