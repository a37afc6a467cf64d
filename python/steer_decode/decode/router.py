"""Routed decoding: two models write one answer.

A policy says who writes each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, overload

from ..core.boundary import StepBoundary
from ..core.events import RoutedOutput
from ..core.sampling import Sampling
from ..core.transcript import WRITERS, Transcript, Writer
from ..errors import SteerError
from ..models.pair import loaded
from ..models.prompt import Messages, Prompt, several, token_ids
from ..models.two_models import TwoModels
from ..policies import Policy
from ..util.checks import listed, whole
from .hf_generate.custom_generate import custom_generate
from .hf_generate.settings import recommended_policy
from .resumed import resume
from .routing import Routing
from .stream import Cohort, RoutedStream


class Router:
    """Routed decoding over a pair of models.

    Args:
        pair: the two models and their tokenizer.
        policy: who writes next; by default the router that the small model's
            ``generation_config.json`` names, which is one that is built in and sets numbers only.
        boundary: where a step closes; by default at "\\n\\n", or after 512 tokens.
        ahead: tokens that a model writes between two looks of the host; by default 8 on a GPU and
            1 elsewhere. What is written does not depend on it.
        overlap: the large model reads and writes while the small one writes, in a thread of its
            own: for models on two cards, or processor cores for both. What is written does not
            depend on it; what the large model reads early it may have read for nothing.

    Raises:
        SteerError: the policy cannot serve this pair (a calibration of another one, say), there is
            none, or a model of the pair cannot be served exactly.
    """

    def __init__(
        self,
        pair: TwoModels,
        policy: Policy | None = None,
        boundary: StepBoundary | None = None,
        ahead: int | None = None,
        overlap: bool = False,
    ) -> None:
        if not isinstance(pair, TwoModels):
            raise SteerError(f"pair must be two models, as Pair(small, large, ...), got {pair!r}")
        if policy is None:
            policy = recommended_policy(loaded(pair))
        if not isinstance(policy, Policy):
            raise SteerError(
                f"policy must be a router such as FirstTokenEntropy(0.5), got {policy!r}: "
                "parse_policy makes one of a text"
            )
        if boundary is not None and not isinstance(boundary, StepBoundary):
            raise SteerError(f"boundary must be a StepBoundary, got {boundary!r}")
        policy.check(pair)
        pair.check_served()
        if ahead is not None and (ahead := whole("ahead", ahead)) < 1:
            raise SteerError(f"ahead must be at least 1, got {ahead}")
        each: dict[Writer, int] = {w: ahead or pair.ahead[w] for w in WRITERS}
        own, boundary = boundary is not None, boundary or pair.boundary
        self._routing = Routing(pair, policy, boundary, pair.eos_ids, each, own, overlap)

    @property
    def routing(self) -> Routing:
        """All settings of the router, as one value.

        Ids that end an answer are those that the pair has now.
        """
        return replace(self._routing, ends=self.pair.eos_ids)

    @property
    def pair(self) -> TwoModels:
        """The two models and their tokenizer."""
        return self._routing.pair

    @property
    def policy(self) -> Policy:
        """Who writes next."""
        return self._routing.policy

    @property
    def boundary(self) -> StepBoundary:
        """Where a step closes."""
        return self._routing.boundary

    @wraps(custom_generate)
    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The side door: ``pair.small.generate(**inputs, custom_generate=router)``."""
        return custom_generate(self.routing, *inputs, **options)

    @overload
    def generate(self, prompts: str, **options: Any) -> RoutedOutput: ...
    @overload
    def generate(self, prompts: Messages | Sequence[int], **options: Any) -> RoutedOutput: ...
    @overload
    def generate(
        self, prompts: Sequence[str] | Sequence[Messages] | Sequence[Sequence[int]], **options: Any
    ) -> list[RoutedOutput]: ...

    def generate(self, prompts: Any, **options: Any) -> RoutedOutput | list[RoutedOutput]:
        """Answer one prompt, or a list one after another.

        A prompt is a text, chat messages, or token ids. Takes the options of :meth:`stream`; the
        i-th prompt of a list has ``seed + i``. A list is answered faster by :meth:`cohort`, which
        needs memory for all of it at once.
        """
        if isinstance(prompts, str) or token_ids(prompts) is not None:
            return self.stream(prompts, **options).finish()
        prompts = listed(prompts)
        if not several(prompts):
            return self.stream(prompts, **options).finish()
        seed = whole("seed", options.pop("seed", 0))
        streams = [self.stream(p, seed=seed + i, **options) for i, p in enumerate(prompts)]
        # Every prompt was checked above; a finished stream goes, and its two caches with it.
        return [streams.pop(0).finish() for _ in prompts]

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int = 0,
        chat: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> RoutedStream:
        """Answer one prompt, event by event.

        Args:
            prompt: a text; messages with "role" and "content"; or token ids, in a list or a
                tensor [n].
            max_new_tokens: most tokens to keep; the context of the pair is a limit too.
            temperature, top_p, top_k, min_p: as in transformers; temperature 0 is greedy.
            seed: of sampling and of policies that draw.
            chat: put a text through the chat template; by default where there is one, and the text
                has not been through it (see :meth:`Pair.encode`).
            chat_template_kwargs: what else the template is told, as ``{"enable_thinking": False}``.

        Raises:
            SteerError: an empty or too long prompt, or an option out of its range; or caches that
                would not fit in memory. It is raised here, before any model runs.
        """
        sampling = Sampling(temperature, top_p, top_k, min_p)
        ids = self.pair.encode(prompt, chat, **_told(chat_template_kwargs))
        return RoutedStream(self.routing, Transcript(ids), max_new_tokens, sampling, seed)

    def resume(self, broken: RoutedOutput, **options: Any) -> RoutedStream:
        """Go on with an answer that was broken off.

        All of its events come, those from before first. Nothing that stands in its trace is
        written again.

        Args:
            broken: the answer, as far as it was written.
            options: of :meth:`stream`, as the answer was begun with; ``chat`` and what a template
                is told are not among them.

        Raises:
            SteerError: the answer has ended by itself, or is another router's; while it is written,
                that it does not go on as this router would.
        """
        return resume(self.routing, broken, options)

    def cohort(self, prompts: Sequence[Prompt], **options: Any) -> list[RoutedOutput]:
        """Answer many prompts together; see :meth:`stream_cohort`."""
        cohort = self.stream_cohort(prompts, **options)
        for _ in cohort:
            pass
        return cohort.outputs

    def stream_cohort(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int | Sequence[int] = 0,
        chat: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Cohort:
        """Answer many prompts together, event by event.

        Each has a writer of its own. A model runs once an iteration, on the rows that it is to
        write. When rows leave and join, their places in the cache are exchanged; no cache is copied
        at a token. A row is answered as it would be alone with the seed ``seed + i``, up to the
        rounding of larger matrix products.

        Args:
            prompts: texts, lists of messages, or rows of token ids.
            max_new_tokens, temperature, top_p, top_k, min_p, chat, chat_template_kwargs: as in
                :meth:`stream`.
            seed: of the first; the i-th has ``seed + i``. Or one for each.

        Raises:
            SteerError: as in :meth:`stream`, naming the prompt; or no prompt at all.
        """
        sampling = Sampling(temperature, top_p, top_k, min_p)
        transcripts = []
        prompts = listed(prompts)
        for i, prompt in enumerate(prompts):
            try:
                ids = self.pair.encode(prompt, chat, **_told(chat_template_kwargs))
                transcripts.append(Transcript(ids))
            except SteerError as error:
                raise SteerError(f"prompt {i}: {error}") from error
        try:
            seeds: Sequence[int] = list(seed)  # type: ignore[arg-type]
        except TypeError:
            first = whole("seed", seed)
            seeds = range(first, first + len(prompts))
        if len(seeds) != len(prompts):
            raise SteerError(f"seed must be one number or {len(prompts)} of them, got {len(seeds)}")
        return Cohort(self.routing, transcripts, max_new_tokens, sampling, seeds)


def _told(chat_template_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """An option of :meth:`Pair.encode`, given only where it is set: a stand-in may have none."""
    return {} if chat_template_kwargs is None else {"chat_template_kwargs": chat_template_kwargs}
