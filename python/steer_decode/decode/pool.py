"""Answers that come and go while others run.

It is what a server needs, and any loop with a queue. A prompt joins at the next iteration, and its
tokens are those that it would have alone. Each brings its own policy, sampling and boundary. One
that fails, or whose reader goes away, ends alone, and its place is used again. Use a pool from one
thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..core.boundary import StepBoundary
from ..core.events import Done, Event, Failed, RoutedOutput
from ..core.requests import Hooks
from ..core.sampling import Sampling
from ..core.trace import Trace
from ..core.transcript import Transcript, Writer
from ..errors import OutOfMemoryError, SteerError
from ..models.prompt import Prompt
from ..policies import Policy
from ..util.checks import whole
from .answer import Answer
from .overlap import scheduler_of
from .router import Router
from .routing import Routing, open_engines
from .stream import check_alone, check_room, has_ended, limits_of, output_of
from .warm import Warm

MOST_LOG_PROBS = 20  # as the interface of OpenAI has it
PART = 512  # tokens of prompts that a model reads an iteration, while others wait


class PoolFull(SteerError):
    """There is no place for another answer now."""


class Pool:
    """Answers in the making, each free to join and leave.

    One joins or leaves between any two iterations.

    Args:
        router: the pair, and what an answer that says nothing else is given.
        max_rows: answers at a time.
        part: most tokens of prompts that each model reads an iteration; None reads prompts whole.
        keep_bytes: most bytes of keys and values of answers that have ended, kept for a prompt that
            begins alike; 0 keeps none.

    Raises:
        SteerError: ``max_rows`` or ``part`` is no whole number from 1 on.
    """

    def __init__(
        self, router: Router, max_rows: int = 16, part: int | None = PART, keep_bytes: int = 0
    ) -> None:
        self._router = router
        self._max_rows = whole("max_rows", max_rows)
        for name, value in (("max_rows", self._max_rows), ("part", part)):
            if value is not None and whole(name, value) < 1:
                raise SteerError(f"{name} must be at least 1, got {value}")
        routing = router.routing
        limit = routing.pair.max_length
        self._engines = open_engines(routing.pair, routing.ahead, limit, part=part)
        self._scheduler = scheduler_of(self._engines, routing.overlap)
        self._rows: dict[int, int] = {}  # of each answer that runs
        self._keys: dict[int, int] = {}  # and the other way round
        self._answers: dict[int, Answer] = {}
        self._reused: dict[int, dict[Writer, int]] = {}
        self._warm = Warm(keep_bytes, routing.pair.shapes)
        self._next = 0

    def add(
        self,
        prompt: Prompt,
        *,
        policy: Policy | None = None,
        boundary: StepBoundary | None = None,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int = 0,
        log_probs: int | None = None,
        chat: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> int:
        """Take a prompt in and return its number.

        The events of the answer carry that number.

        Args:
            policy, boundary: the router's by default.
            prompt, max_new_tokens, temperature, top_p, top_k, min_p: as in :meth:`Router.stream`.
            seed, chat, chat_template_kwargs: likewise.
            log_probs: likeliest tokens whose log-probabilities come with each token, 0 to
                :data:`MOST_LOG_PROBS`, beside that of the token itself; None for none of these.

        Raises:
            PoolFull: ``max_rows`` answers run.
            SteerError: as :meth:`Router.stream`; or caches for so many tokens do not fit in memory.
        """
        routing = self._router.routing
        if policy is not None:
            policy.check(routing.pair)
            routing = replace(routing, policy=policy)
        if boundary is not None:
            routing = replace(routing, boundary=boundary, own_boundary=True)
        check_alone(routing)
        sampling = Sampling(temperature, top_p, top_k, min_p)
        ids = routing.pair.encode(prompt, chat, chat_template_kwargs)
        (limit,) = limits_of(routing, [ids], max_new_tokens)
        if len(self._rows) >= self._max_rows:
            raise PoolFull(
                f"{self._max_rows} answers run, as many as max_rows allows: wait until one ends"
            )
        seed = whole("seed", seed)
        if log_probs is not None and not 0 <= whole("log_probs", log_probs) <= MOST_LOG_PROBS:
            raise SteerError(f"log_probs must lie in 0..{MOST_LOG_PROBS}, got {log_probs}")
        if log_probs is not None and routing.pair.elsewhere:
            raise SteerError(
                "log_probs cannot be had of servers that give raw logits: leave them out, or load "
                "the models here"
            )
        started = routing.policy.start()
        row, text = self._place(routing, ids, limit)
        try:
            answer = Answer(routing, started, text, limit, sampling, seed, Hooks(), log_probs)
        except BaseException:
            if row is not None:
                self._scheduler.retire(row)  # its text is another's by now
            raise
        key, self._next = self._next, self._next + 1
        self._rows[key] = row = self._scheduler.add(answer, row)
        self._keys[row], self._answers[key] = key, answer
        self._reused[key] = dict(text.read)
        return key

    def _place(self, routing: Routing, ids: list[int], limit: int) -> tuple[int | None, Transcript]:
        """Where an answer goes, and its prompt: where most of it has been read, or anywhere.

        Answers that have ended make room for it, the one that ended first before the others.
        """
        longest = max([limit, *(self._answers[key].limit for key in self._rows)])
        found = self._warm.take(ids)
        try:
            while True:
                rows = len(self._rows) + len(self._warm) + 1
                try:
                    if rows <= self._max_rows:
                        check_room(routing, longest, rows, self._engines)
                        break
                except OutOfMemoryError:
                    if not self._warm:
                        raise
                self._scheduler.retire(self._warm.oldest())
        except OutOfMemoryError:
            if found:
                self._scheduler.retire(found[0])
            raise
        return found or (None, Transcript(ids))

    def iterate(self) -> Iterator[tuple[int, Event]]:
        """Run each model once.

        Yields (number of the answer, event) for all that it brings. The last event of an
        answer is ``Done`` or ``Failed``; then its place is free.
        """
        for row, event in self._scheduler.iterate():
            key = self._keys[row]
            answer = self._answers[key]
            yield key, event
            if key not in self._rows:
                continue  # its reader has cancelled it
            if isinstance(event, Failed):
                self._release(key, keep=False)
            elif has_ended(answer, event):
                yield key, Done(self._release(key))

    def run(self) -> Iterator[tuple[int, Event]]:
        """Iterate until every answer has ended.

        More may be added meanwhile.
        """
        while self._rows:
            yield from self.iterate()

    def cancel(self, key: int) -> RoutedOutput:
        """End an answer where it is, and free its place.

        Returns what was written of it.

        Raises:
            SteerError: no such answer runs.
        """
        if key not in self._rows:
            raise SteerError(f"answer {key} does not run: it has ended, or was never added")
        self._scheduler.cancel(self._rows[key])
        return self._release(key)

    def trace(self, key: int) -> Trace:
        """What has happened so far in an answer that runs."""
        return self._answers[key].trace

    def reused(self, key: int) -> dict[Writer, int]:
        """Tokens of its prompt that each model had read before.

        Of an answer that runs, when it was added.
        """
        return self._reused[key]

    def output(self, key: int) -> RoutedOutput:
        """An answer that runs, as far as it is written.

        Raises:
            SteerError: no such answer runs.
        """
        if key not in self._rows:
            raise SteerError(f"answer {key} does not run: it has ended, or was never added")
        return output_of(self._scheduler, self._rows[key], self._answers[key])

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: int) -> bool:
        return key in self._rows

    @property
    def held_bytes(self) -> int:
        """Bytes that both caches take.

        All of it goes back when nothing runs, what is kept excepted.
        """
        return sum(engine.held_bytes for engine in self._engines.values())

    def _release(self, key: int, keep: bool = True) -> RoutedOutput:
        row, answer = self._rows.pop(key), self._answers.pop(key)
        del self._keys[row], self._reused[key]
        output = output_of(self._scheduler, row, answer)
        self._scheduler.cancel(row)
        given_up = self._warm.keep(row, answer.transcript) if keep else [row]
        for old in given_up:
            self._scheduler.retire(old)
        return output

    def forget(self) -> None:
        """Give back what is kept of answers that have ended."""
        while self._warm:
            self._scheduler.retire(self._warm.oldest())
