"""The loop: two models write one answer, and a policy says who writes each step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from torch import Tensor

from steer_kernels import LogitStats, logit_stats

from .cost import Cost
from .errors import BrokenModelError, SteerError
from .lane import Lane
from .pair import Pair
from .policies import REDO, Policy, Redo, StepStart
from .sampling import Sampler, Sampling
from .steps import Detokenizer, StepBoundary
from .trace import Step, Trace
from .transcript import WRITERS, Transcript, Writer, other

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class TextDelta:
    """A piece of text of the open step; void if the step's StepClosed says it was discarded."""

    text: str
    token_id: int
    writer: Writer
    index: int


@dataclass(frozen=True)
class StepClosed:
    """A step has ended; ``step.discarded`` tells whether it stays."""

    step: Step


@dataclass(frozen=True)
class HandOver:
    """Another model begins to write, after reading ``prefilled`` tokens that it had not seen."""

    index: int
    writer: Writer
    prefilled: int


@dataclass(frozen=True)
class RoutedOutput:
    """An answer: its text and ids after the prompt, how it came about, and what it cost."""

    text: str
    token_ids: list[int]
    trace: Trace
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "cost": self.cost.to_dict(),
            "trace": self.trace.to_dict(),
        }


@dataclass(frozen=True)
class Done:
    """The answer is complete; the last event of a stream."""

    output: RoutedOutput


Event = TextDelta | StepClosed | HandOver | Done


class Router:
    """Routed decoding over a pair of models.

    Args:
        pair: the two models and their tokenizer.
        policy: who writes next.
        boundary: where a step closes; by default at "\\n\\n", or after 512 tokens.

    Raises:
        SteerError: the policy cannot serve this pair (a calibration of another one, say).
    """

    def __init__(self, pair: Pair, policy: Policy, boundary: StepBoundary | None = None) -> None:
        policy.check(pair)
        self.pair = pair
        self.policy = policy
        self.boundary = boundary or pair.boundary

    @overload
    def generate(self, prompts: str, **options: Any) -> RoutedOutput: ...
    @overload
    def generate(self, prompts: Sequence[str], **options: Any) -> list[RoutedOutput]: ...
    @overload
    def generate(self, prompts: Messages, **options: Any) -> RoutedOutput: ...

    def generate(
        self, prompts: str | Sequence[str] | Messages, **options: Any
    ) -> RoutedOutput | list[RoutedOutput]:
        """Answers one prompt (a text, or chat messages), or a list of texts one after another.

        Takes the options of :meth:`stream`; the i-th prompt of a list has ``seed + i``.
        """
        if isinstance(prompts, str) or not all(isinstance(p, str) for p in prompts):
            return self.stream(prompts, **options).finish()  # type: ignore[arg-type]
        seed = options.pop("seed", 0)
        streams = [self.stream(p, seed=seed + i, **options) for i, p in enumerate(prompts)]  # type: ignore[arg-type]
        # Every prompt was checked above; a finished stream goes, and its two caches with it.
        return [streams.pop(0).finish() for _ in prompts]

    def stream(
        self,
        prompt: str | Messages,
        *,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int = 0,
        chat: bool | None = None,
    ) -> RoutedStream:
        """Answers one prompt, event by event.

        Args:
            prompt: a text, or messages with "role" and "content".
            max_new_tokens: most tokens to keep; the context of the pair is a limit too.
            temperature, top_p, top_k, min_p: as in transformers; temperature 0 is greedy.
            seed: of sampling and of policies that draw.
            chat: put a text through the chat template; by default where there is one.

        Raises:
            SteerError: an empty or too long prompt, or an option out of its range. It is raised
                here, before any model runs.
        """
        if max_new_tokens < 1:
            raise SteerError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        sampling = Sampling(temperature, top_p, top_k, min_p)
        ids = self.pair.encode(prompt, chat)
        return RoutedStream(self, ids, max_new_tokens, sampling, seed)


class RoutedStream:
    """One answer in the making: iterate over its events, or ask for :attr:`output` at any time."""

    def __init__(
        self,
        router: Router,
        prompt_ids: list[int],
        max_new_tokens: int,
        sampling: Sampling,
        seed: int,
    ) -> None:
        pair, policy = router.pair, router.policy
        self._pair = pair
        self._policy = policy
        self._boundary = router.boundary
        self._seed = seed
        self._limit = min(len(prompt_ids) + max_new_tokens, pair.max_length)
        self._transcript = Transcript(prompt_ids)
        self._lanes = {w: Lane(pair.model(w), pair.shapes[w]) for w in WRITERS}
        self._sampler = Sampler(sampling, seed, pair.vocab_size)
        self._detokenizer = Detokenizer(pair.tokenizer)
        self._seconds = 0.0
        self._events = self._run()
        self.trace = Trace(str(policy), policy.signal.name, prompt_ids)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        begin = time.perf_counter()
        try:
            return next(self._events)
        finally:
            # Only the time spent in here counts, not what the reader does between events.
            self._seconds += time.perf_counter() - begin

    def finish(self) -> RoutedOutput:
        """Runs to the end and returns the answer."""
        for _ in self:
            pass
        return self.output

    @property
    def output(self) -> RoutedOutput:
        """The answer as far as it is written, open step included."""
        kept = self.trace.kept
        text = "".join(step.text for step in kept)
        # From the steps, not the transcript: an interrupt may fall between the two.
        ids = [token for step in kept for token in step.token_ids]
        return RoutedOutput(text, ids, self.trace, self._cost())

    def _run(self) -> Iterator[Event]:
        index, writer, redo = 0, "small", False
        while not self.trace.stop_reason:
            begin = time.perf_counter()
            step = Step(index, writer)  # type: ignore[arg-type]
            if not redo:
                self._look_before(step)
            if self.trace.steps and self.trace.steps[-1].writer != step.writer:
                lane = self._lanes[step.writer]
                foreign = self._transcript.foreign(step.writer, lane.watermark)
                yield HandOver(index, step.writer, foreign + step.prefilled)
            self.trace.steps.append(step)
            mark, start = self._detokenizer.mark(), len(self._transcript)
            yield from self._write(step)
            step.milliseconds = 1e3 * (time.perf_counter() - begin)
            verdict = self._look_after(step, redo)
            redo = verdict == REDO
            if redo:
                self._take_back(step, start)
                self._detokenizer.reset(mark)
                writer = other(step.writer)
            else:
                index, writer = index + 1, verdict
            yield StepClosed(step)
        yield Done(self.output)

    def _look_before(self, step: Step) -> None:
        """Lets the policy choose the step's writer, with the small model's logits if it looks."""
        lane, stats = self._lanes["small"], None
        pending = foreign = 0
        if self._policy.looks_ahead:
            pending = lane.pending(self._transcript)
            foreign = self._transcript.foreign("small", lane.watermark)
            stats = self._stats(lane.catch_up(self._transcript), "small", step)
            step.before = float(self._policy.signal.read(stats)[0])
        start = StepStart(step.index, step.writer, self._seed, stats)
        step.writer = self._policy.before_step(start)
        if step.writer not in WRITERS:
            raise SteerError(
                f"policy {self._policy.name!r} answered {step.writer!r} before step {step.index}: "
                "it must answer 'small' or 'large'"
            )
        if step.writer == "small":
            step.prefilled = foreign
        else:
            step.probed = pending

    def _write(self, step: Step) -> Iterator[Event]:
        """Writes one step to its end, or to the end of the answer."""
        lane, transcript = self._lanes[step.writer], self._transcript
        step.prefilled += transcript.foreign(step.writer, lane.watermark)
        while not step.closed and not self.trace.stop_reason:
            logits = lane.catch_up(transcript)
            stats = self._stats(logits, step.writer, step)
            token = self._sampler.draw(logits, stats)
            transcript.append(token, step.writer)
            lane.usage.written += 1
            step.token_ids.append(token)
            step.values.append(float(self._policy.signal.read(stats)[0]))
            text = self._detokenizer.push(token)
            if token in self._pair.eos_ids:
                step.closed, self.trace.stop_reason = True, "eos"
            elif self._boundary.closes(step.token_ids):
                step.closed = True
            if not self.trace.stop_reason and len(transcript) >= self._limit:
                full = len(transcript) >= self._pair.max_length
                self.trace.stop_reason = "context" if full else "max_new_tokens"
            if self.trace.stop_reason:
                text += self._detokenizer.flush()
            step.text += text
            yield TextDelta(text, token, step.writer, step.index)

    def _look_after(self, step: Step, redone: bool) -> Writer | Redo:
        if not step.closed:
            return step.writer
        verdict = self._policy.after_step(step)
        if verdict not in (*WRITERS, REDO):
            raise SteerError(
                f"policy {self._policy.name!r} answered {verdict!r} after step {step.index}: "
                "it must answer 'small', 'large' or 'redo'"
            )
        if verdict == REDO and redone:
            raise SteerError(
                f"policy {self._policy.name!r} took step {step.index} back twice: "
                "a step that was written again has to stay"
            )
        return verdict

    def _take_back(self, step: Step, start: int) -> None:
        """Moves transcript and watermarks back to where ``step`` began."""
        step.discarded = True
        self.trace.stop_reason = ""
        self._transcript.truncate(start)
        for lane in self._lanes.values():
            lane.roll_back(start)
        self._lanes[step.writer].usage.discarded += len(step.token_ids)

    def _stats(self, logits: Tensor, writer: Writer, step: Step) -> LogitStats:
        stats = logit_stats(logits, vocab_size=self._pair.vocab_size)
        if not bool(stats.valid[0]):
            raise BrokenModelError(
                f"the {writer} model returned logits that are NaN or not finite at token "
                f"{len(step.token_ids)} of step {step.index}: check its weights, or load it in "
                "float32 or bfloat16 if it was loaded in float16"
            )
        return stats

    def _cost(self) -> Cost:
        usage = {w: self._lanes[w].usage for w in WRITERS}
        shapes = self._pair.shapes
        kept = self.trace.kept
        tokens = {w: sum(len(s.token_ids) for s in kept if s.writer == w) for w in WRITERS}
        steps = sum(s.writer == "large" for s in kept)
        return Cost(
            flops_paper=float(sum(2 * shapes[w].parameters * usage[w].written for w in WRITERS)),
            flops_processed=float(sum(usage[w].flops for w in WRITERS)),
            bytes_read=float(sum(usage[w].bytes_read for w in WRITERS)),
            seconds=self._seconds,
            small=usage["small"],
            large=usage["large"],
            large_token_share=tokens["large"] / max(1, sum(tokens.values())),
            large_step_share=steps / max(1, len(kept)),
            hand_overs=self.trace.hand_overs,
            discarded_tokens=usage["small"].discarded + usage["large"].discarded,
        )
