"""A conversation of several turns that keeps both caches.

Each turn reads only what is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..core.events import RoutedOutput
from ..core.sampling import Sampling
from ..core.token_text import decode
from ..core.transcript import Transcript, Writer
from ..errors import SteerError
from ..models.prompt import Messages, Prompt, token_ids
from .router import Router
from .routing import open_engines
from .stream import RoutedStream

# Behind these a tokenizer may split a text as it would in the middle of another.
_LEADS = ("\n", ".", "a", "0")


class Turn(RoutedStream):
    """One answer of a session.

    Attributes:
        reused: tokens that each model had in its cache when the turn began.
    """

    def __init__(self, reused: dict[Writer, int], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.reused = reused
        self._final: RoutedOutput | None = None

    def retire(self) -> None:
        """End the answer and keep its figures.

        The caches count for another answer from now on.
        """
        self.close()
        self._final = self.output

    @property
    def output(self) -> RoutedOutput:
        """The answer so far, with its open step."""
        return self._final or super().output


class Session:
    """One conversation, answered turn after turn.

    Whatever a turn has in common with the one before is read by neither model again. The ids that
    were written stay, even where the tokenizer would split their text in another way. If the chat
    template changes what was said (some leave out earlier reasoning), the rest is read anew.

    Args:
        router: who answers.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        pair = router.pair
        self._transcript = Transcript([])
        self._prompt: str | None = None  # what the template made of the last turn
        self._turn: Turn | None = None
        self._engines = open_engines(pair, router.routing.ahead, pair.max_length)

    @property
    def router(self) -> Router:
        """Who answers; may be exchanged between turns.

        Raises:
            SteerError: the new router is for another pair of models.
        """
        return self._router

    @router.setter
    def router(self, router: Router) -> None:
        if router.pair is not self._router.pair:
            raise SteerError(
                "the router is for another pair than this session's: make it with "
                "Router(session.router.pair, policy), or begin a new Session"
            )
        self._router = router

    def stream(
        self,
        messages: Prompt,
        *,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int = 0,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Turn:
        """Answer the last of ``messages``, a whole conversation.

        Earlier answers are part of ``messages``. A text or token ids stand for themselves, without
        a template. Options and errors are those of :meth:`Router.stream`. A stream that was given
        up halfway, or broken off by an exception or by Ctrl-C, leaves the caches fit for use; the
        next turn ends one that still runs.
        """
        sampling = Sampling(temperature, top_p, top_k, min_p)
        self._settle()
        pair, text = self._router.pair, None
        if isinstance(messages, str) or token_ids(messages) is not None:
            ids = pair.encode(messages, chat=False, chat_template_kwargs=chat_template_kwargs)
        else:
            text = pair.render(cast(Messages, messages), chat_template_kwargs)
            ids = pair.checked(self._continued(text))
        kept = self._transcript.restart(ids)
        self._prompt = text
        # The last token is always read: logits from before may be another position's, where a pass
        # was broken off.
        self._transcript.unread(min(kept, len(ids) - 1))
        self._turn = Turn(
            self.cached(),
            self._router.routing,
            self._transcript,
            max_new_tokens,
            sampling,
            seed,
            engines=self._engines,
        )
        return self._turn

    def cached(self) -> dict[Writer, int]:
        """Tokens that each model holds in its cache."""
        return dict(self._transcript.read)

    def reset(self) -> None:
        """Forget the conversation."""
        self._settle()
        self._transcript.restart([])
        self._prompt = None

    def _settle(self) -> None:
        """End the turn before, if its reader has not, and mend what an interrupt left half."""
        if self._turn is not None:
            self._turn.retire()
            self._turn = None
        # Ctrl-C may fall between the two lists of a transcript.
        del self._transcript.ids[len(self._transcript.writers) :]

    def _continued(self, text: str) -> list[int]:
        """Ids of a rendered conversation: those that are known, and those of what is new."""
        known, length = self._known(text)
        if not known:
            return self._router.pair.tokenize(text)
        return [*known, *self._go_on(known, text[length:])]

    def _known(self, text: str) -> tuple[list[int], int]:
        """The ids of the last turn that ``text`` begins with, and how many characters they are.

        Of an answer's end, an EOS token and white space may be missing in ``text``: templates
        close an answer with a mark of their own, and some trim it.
        """
        if self._prompt is None or not text.startswith(self._prompt):
            return [], 0
        transcript = self._transcript
        prompt = transcript.ids[: transcript.prompt_length]
        written = transcript.ids[transcript.prompt_length :]
        while True:
            for said in self._said(prompt[-1:], written):
                if text.startswith(self._prompt + said):
                    return [*prompt, *written], len(self._prompt + said)
            if not written or not self._may_go(written.pop()):
                return [], 0

    def _said(self, before: list[int], written: list[int]) -> list[str]:
        """The text of an answer behind the prompt's last token, and by itself.

        They differ by a space with tokenizers that drop one at a text's beginning. Templates are
        given the answer without it; some put it back.
        """
        tokenizer = self._router.pair.tokenizer
        lead = decode(tokenizer, before)
        behind = decode(tokenizer, [*before, *written])
        return [behind.removeprefix(lead), decode(tokenizer, written)]

    def _may_go(self, token: int) -> bool:
        pair = self._router.pair
        return token in pair.eos_ids or not decode(pair.tokenizer, [token]).strip()

    def _go_on(self, known: list[int], text: str) -> list[int]:
        """Ids of ``text``, which follows on ``known``.

        Some tokenizers put a space before a text's first word, so the text is split behind
        something: what is known ends with it if that is a special token, behind which they split as
        they would in the whole text. Else it is whatever leaves the text as it is.
        """
        pair = self._router.pair
        last = known[-1:]
        before = decode(pair.tokenizer, last)
        if last[0] in pair.tokenizer.all_special_ids:
            ids = self._behind(before, text)
            if ids is not None:
                return ids
        whole = decode(pair.tokenizer, known) + text
        plain = pair.tokenize(text)
        for lead in ("", before, *_LEADS):
            ids = self._behind(lead, text) if lead else plain
            if ids is not None and decode(pair.tokenizer, [*known, *ids]) == whole:
                return ids
        return plain  # the tokenizer does not give back every text

    def _behind(self, lead: str, text: str) -> list[int] | None:
        """Ids of ``text`` behind ``lead``, where the tokenizer parts the two."""
        pair = self._router.pair
        first, ids = pair.tokenize(lead), pair.tokenize(lead + text)
        return ids[len(first) :] if ids[: len(first)] == first else None
