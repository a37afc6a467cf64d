"""A conversation of several turns: both caches stay, and each turn reads only what is new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .lane import Lane
from .router import RoutedStream, Router
from .sampling import Sampling
from .steps import decode
from .transcript import WRITERS, Transcript, Writer


class Session:
    """Answers turn after turn of one conversation.

    Whatever a turn has in common with the one before is read by neither model again. If the chat
    template changes what was said (some leave out earlier reasoning), the rest is read anew.

    Args:
        router: who answers. It may be exchanged between turns for another one over the same pair.
    """

    def __init__(self, router: Router) -> None:
        self.router = router
        pair = router.pair
        self._transcript = Transcript([])
        self._lanes: dict[Writer, Lane] = {
            w: Lane(pair.model(w), pair.shapes[w], [self._transcript], pair.max_length)
            for w in WRITERS
        }

    def stream(
        self,
        messages: str | Sequence[dict[str, str]],
        *,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int = 0,
    ) -> RoutedStream:
        """Answers the last of ``messages``: the whole conversation, earlier answers included.

        A text stands for itself, without a template. Options and errors are those of
        :meth:`Router.stream`. A stream that was given up halfway leaves the caches fit for use.
        """
        sampling = Sampling(temperature, top_p, top_k, min_p)
        ids = self._encode(messages)
        kept = self._transcript.restart(ids)
        for lane in self._lanes.values():
            lane.roll_back(0, kept)
            lane.forget_usage()
        return RoutedStream(
            self.router, self._transcript, max_new_tokens, sampling, seed, lanes=self._lanes
        )

    def cached(self) -> dict[Writer, int]:
        """Tokens that each model holds in its cache."""
        return {writer: lane.watermark() for writer, lane in self._lanes.items()}

    def reset(self) -> None:
        """Forgets the conversation."""
        self._transcript.restart([])
        for lane in self._lanes.values():
            lane.roll_back(0, 0)

    def _encode(self, messages: str | Sequence[dict[str, Any]]) -> list[int]:
        pair = self.router.pair
        if isinstance(messages, str):
            return pair.encode(messages, chat=False)
        text, so_far = pair.render(messages), decode(pair.tokenizer, self._transcript.ids)
        if so_far and text.startswith(so_far):
            # The ids that were written stay; tokenised again, the text might have others.
            return pair.checked([*self._transcript.ids, *pair.tokenize(text[len(so_far) :])])
        return pair.checked(pair.tokenize(text))
