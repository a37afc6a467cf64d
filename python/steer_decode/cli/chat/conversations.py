"""A chat: its turns, and what the models read next.

What was said is kept, and how each answer came about. It knows no terminal; ``steer chat`` shows
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.sampling import Sampling
from ...core.saved import VERSION, SavedAnswer
from ...core.shape import active_parameters
from ...core.transcript import WRITERS, Writer
from ...decode.router import Router
from ...decode.session import Session, Turn
from ...errors import ContextFullError, SteerError
from ...models.template import template_arguments
from ...models.two_models import TwoModels
from ...policies import Policy
from ...util.text import dump

Message = dict[str, str]

# Templates differ in what they pass on; the one of the demo pair knows the last question only.
_EARLIER: list[Message] = [
    {"role": "user", "content": "earlier question"},
    {"role": "assistant", "content": "earlier answer"},
    {"role": "user", "content": "question"},
]
_SYSTEM: list[Message] = [
    {"role": "system", "content": "system prompt"},
    {"role": "user", "content": "question"},
]


class Chat:
    """One conversation after another with a pair of models.

    Args:
        router: who answers.
        models: name or path of either model.
        options: how tokens are chosen, as :meth:`Session.stream` takes it; may be changed. The
            i-th answer has ``seed + i``.
        system: told to the models first.
        chat: False for questions that no template sees; by default the pair's is used if there is
            one.
        chat_template_kwargs: what else the template is told.

    Attributes:
        messages: the conversation as the models are told it.
        turns: every answer so far, with the number of its conversation.
        remembers: the models are told earlier turns; else each question stands alone.

    Raises:
        SteerError: a system prompt, or arguments, that the chat template cannot express, or that
            have no template.
    """

    def __init__(
        self,
        router: Router,
        models: Mapping[Writer, str],
        options: Mapping[str, Any],
        system: str | None = None,
        chat: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.session = Session(router)
        self.options: dict[str, Any] = dict(options)
        self.turns: list[tuple[int, SavedAnswer]] = []
        self._asked: dict[str, Any] = {}
        self._models = models
        self._system = system
        self._conversation = 0
        self._arguments = chat_template_kwargs
        self._template = _has_template(router.pair, chat, chat_template_kwargs)
        if system is not None and not self._tells(_SYSTEM):
            raise SteerError(
                "the chat template of this pair has no place for --system: leave it out, or choose "
                "models that were trained to chat"
                if self._template
                else "--system needs a chat template, and --raw uses none: leave out either"
                if chat is False
                else "--system needs a chat template, and the tokenizer of this pair has none: "
                "leave out --system, or choose models that were trained to chat"
            )
        self.remembers = self._tells(_EARLIER)
        self.messages = self._opening()

    @property
    def last(self) -> SavedAnswer | None:
        """The last answer."""
        return self.turns[-1][1] if self.turns else None

    def ask(self, question: str) -> Turn:
        """Begin to answer.

        :meth:`keep` takes the answer up, finished or not.

        Raises:
            SteerError: as :meth:`Session.stream`; the conversation is then as it was.
        """
        # As for a list of prompts: the same question asked again is drawn anew.
        self._asked = {**self.options, "seed": self.options["seed"] + len(self.turns)}
        if not self._template:
            return self.session.stream(question, **self._asked)
        told = [*self.messages, {"role": "user", "content": question}]
        if self._arguments is not None:
            self._asked["chat_template_kwargs"] = self._arguments
        try:
            return self.session.stream(told, **self._asked)
        except ContextFullError as error:
            raise ContextFullError(f"{error}, or begin a new conversation with /reset") from error

    def keep(
        self, question: str, turn: Turn, correct: bool | None = None, problem: str | None = None
    ) -> SavedAnswer | None:
        """Take up what ``turn`` has written.

        If it is nothing, None comes back and the question is forgotten.
        """
        turn.close()
        output = turn.output
        if not output.token_ids:
            return None
        shapes = self.session.router.pair.shapes
        answer = SavedAnswer(
            prompt=question,
            models=self._models,
            parameters={w: shapes[w].parameters for w in WRITERS},
            active=active_parameters(shapes),
            output=output,
            correct=correct,
            problem=problem,
            options=self._asked,
        )
        self.turns.append((self._conversation, answer))
        if self.remembers:
            self.messages += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": output.text},
            ]
        return answer

    def use(self, policy: Policy) -> None:
        """Exchange the router.

        Raises:
            SteerError: the policy cannot serve this pair.
        """
        self.session.router = Router(self.session.router.pair, policy)

    def recover(self) -> None:
        """Restore the conversation as it was before an error.

        Whatever the error left half done is gone. The caches go: what was said so far is read anew
        at the next question.
        """
        self.session = Session(self.session.router)

    def reset(self) -> None:
        """Begin a new conversation.

        :attr:`turns` keeps the answers of the old one.
        """
        self.session.reset()
        self.messages = self._opening()
        self._conversation += 1

    def document(self) -> str:
        """All that was said, as one JSON document.

        Each answer has its trace.
        """
        data = {
            "version": VERSION,
            "system": self._system,
            "messages": self.messages,
            "turns": [_turn(*turn) for turn in self.turns],
        }
        return dump(data, indent=1)

    def line(self) -> str:
        """The last answer and its trace, as a JSON line."""
        data = _turn(*self.turns[-1])
        return dump(data)

    def _opening(self) -> list[Message]:
        return [] if self._system is None else [{"role": "system", "content": self._system}]

    def _tells(self, messages: list[Message]) -> bool:
        """Whether the template passes on the first of ``messages``."""
        if not self._template:
            return False
        try:
            return messages[0]["content"] in self.session.router.pair.render(
                messages, self._arguments
            )
        except SteerError:
            return False


def _has_template(pair: TwoModels, chat: bool | None, arguments: Mapping[str, Any] | None) -> bool:
    """Whether questions go through a chat template.

    Raises:
        SteerError: one that is asked for is not there, or does not read one of ``arguments``.
    """
    owner = None if chat is False else pair.template_owner
    if owner is None and (chat or arguments):
        raise SteerError(
            "--chat and --template-arg need a chat template, and there is none: leave them out, or "
            "choose models that were trained to chat"
        )
    if owner is not None:
        template_arguments(owner, arguments)
    return owner is not None


def check_options(options: Mapping[str, Any]) -> None:
    """Check that options are in range, before an answer begins.

    Raises:
        SteerError: naming it.
    """
    Sampling(*(options[name] for name in ("temperature", "top_p", "top_k", "min_p")))
    if options["max_new_tokens"] < 1:
        raise SteerError(f"max_new_tokens must be at least 1, got {options['max_new_tokens']}")


def _turn(conversation: int, answer: SavedAnswer) -> dict[str, Any]:
    return {"conversation": conversation, **answer.to_dict()}
