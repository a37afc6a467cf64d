"""A prompt as token ids, however it is given.

A text, chat messages, or the ids themselves. A text goes through the chat template as one user
message, unless it has been rendered by that template already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import ContextFullError, SteerError
from ..util.checks import whole
from .template import apply_template

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Messages | Sequence[int]


class PromptEncoder:
    """What makes token ids of prompts.

    It runs no model.

    Attributes:
        tokenizer: of both models.
    """

    tokenizer: PreTrainedTokenizerBase

    @property
    def template_owner(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer whose chat template is used, or None."""
        raise NotImplementedError

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        """Ids that the models know are below it."""
        raise NotImplementedError

    @property
    def max_length(self) -> int:
        """Longest transcript, prompt included."""
        raise NotImplementedError

    def encode(
        self,
        prompt: Prompt,
        chat: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Prompt ids of a text, messages, or ids.

        Args:
            prompt: a text; messages ``[{"role": ..., "content": ...}, ...]``; or token ids, in a
                list or a tensor [n].
            chat: put a text through the chat template as one user message; by default where there
                is a template, and the text does not begin with BOS or as the template's own text
                does, which has been rendered before and gets no second BOS.
            chat_template_kwargs: what else the template is told, as ``{"enable_thinking": False}``.

        Raises:
            SteerError: the prompt is empty, too long, no Unicode text, holds ids that the models do
                not know, or needs a template that is missing; or arguments that no template reads.
        """
        return encode(self, prompt, chat, chat_template_kwargs)

    def render(
        self, messages: Messages, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> str:
        """The text of chat messages, up to the answer.

        Raises:
            SteerError: there is no message, or no chat template, or it cannot read them.
        """
        return apply_template(self.template_owner, messages, chat_template_kwargs)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a rendered text.

        Its special tokens are written out.

        Raises:
            SteerError: half of a surrogate pair in it.
        """
        return tokenize(self, text)

    def checked(self, ids: list[int]) -> list[int]:
        """``ids`` as a prompt.

        Raises:
            SteerError: there are none, too many, or one that the models do not know.
        """
        if not ids:
            raise SteerError("prompt has no tokens: give the question that is to be answered")
        if len(ids) >= self.max_length:
            raise ContextFullError(
                f"prompt is {len(ids)} tokens long, but the context of this pair holds "
                f"{self.max_length}, answer included: shorten the prompt"
            )
        size = self.vocab_size
        foreign = [i for i in ids if not 0 <= i < size]
        if foreign:
            raise SteerError(
                f"prompt holds token id {foreign[0]}, but the models know ids below {size} only: "
                "leave that token out of the prompt"
            )
        return ids


def encode(
    pair: PromptEncoder, prompt: Any, chat: bool | None, arguments: Mapping[str, Any] | None
) -> list[int]:
    """Prompt ids; see :meth:`Pair.encode`."""
    ids = token_ids(prompt)
    if ids is not None:
        _check_unused(chat, arguments, "the prompt is token ids")
        return pair.checked(ids)
    if isinstance(prompt, str):
        if not prompt.strip():
            raise SteerError("prompt is empty: give the question that is to be answered")
        rendered = chat is not True and _is_rendered(pair, prompt)
        if chat is None:
            chat = not rendered and pair.template_owner is not None
        if not chat:
            _check_unused(None, arguments, "the prompt is a text without a template (raw)")
            return pair.checked(tokenize(pair, prompt) if rendered else _plain(pair, prompt))
        prompt = [{"role": "user", "content": prompt}]
    return pair.checked(tokenize(pair, pair.render(prompt, arguments)))


def token_ids(prompt: Any) -> list[int] | None:
    """A prompt that is token ids, as a list.

    None stands for every other kind of prompt.

    Args:
        prompt: whole numbers in a list or another sequence, or in a tensor or array [n].

    Raises:
        SteerError: an array of another rank or of other numbers, or a sequence only the first of
            whose members is a whole number.
    """
    if hasattr(prompt, "ndim") and hasattr(prompt, "tolist"):
        if prompt.ndim != 1:
            raise SteerError(
                f"token ids must be one row [n], got an array of shape {list(prompt.shape)}: give "
                "each row as a prompt of its own, without pads"
            )
        prompt = prompt.tolist()
    elif not _is_ids(prompt):
        return None
    ids = []
    for i, value in enumerate(prompt):
        if isinstance(value, bool):
            raise SteerError(f"token id {i} of the prompt must be a whole number, got {value}")
        ids.append(whole(f"token id {i} of the prompt", value))
    return ids


def _is_ids(prompt: Any) -> bool:
    if not isinstance(prompt, Sequence) or isinstance(prompt, str | bytes) or not len(prompt):
        return False
    return hasattr(prompt[0], "__index__") and not hasattr(prompt[0], "ndim")


def several(prompts: Any) -> bool:
    """Whether ``prompts`` is a list of prompts.

    Each is a text, a list of messages, or a row of ids.
    """
    if hasattr(prompts, "ndim") or not isinstance(prompts, Sequence):
        return False
    return not _is_ids(prompts) and not any(isinstance(p, Mapping) for p in prompts)


def tokenize(pair: PromptEncoder, text: str) -> list[int]:
    """Ids of a rendered text; see :meth:`Pair.tokenize`."""
    check_characters(text)
    return list(pair.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def check_characters(text: str) -> None:
    """Refuse a text that is no Unicode.

    Raises:
        SteerError: half of a surrogate pair in it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SteerError(
            f"prompt holds {text[error.start]!r}, which is no character but half of one, or a byte "
            "that was not UTF-8: give the question as UTF-8 text"
        ) from error


def _check_unused(chat: bool | None, arguments: Mapping[str, Any] | None, why: str) -> None:
    if chat:
        raise SteerError(f"chat=True asks for a chat template, but {why}: leave it out")
    if arguments:
        raise SteerError(
            f"chat_template_kwargs are given, but {why}, which no chat template sees: leave them "
            "out"
        )


def _plain(pair: PromptEncoder, text: str) -> list[int]:
    """Ids of a text as the tokenizer begins one, BOS included, and open at its end.

    Some tokenizers put EOS behind every text. Here the text goes on: an EOS that was not asked for
    would tell the models that it is over.
    """
    bare = tokenize(pair, text)
    ids = list(pair.tokenizer(text, verbose=False)["input_ids"])
    ends = {pair.tokenizer.eos_token_id, pair.tokenizer.sep_token_id, *pair.eos_ids}
    for start in range(len(ids) - len(bare) + 1):
        end = start + len(bare)
        if ids[start:end] == bare:
            return ids[:end] if all(i in ends for i in ids[end:]) else ids
    return ids


def _is_rendered(pair: PromptEncoder, text: str) -> bool:
    """Whether ``text`` has been through a template: it begins with BOS, or as the template does."""
    begun = [token for token in _special(pair.tokenizer) if text.startswith(token)]
    if not begun:
        return False
    bos = getattr(pair.tokenizer, "bos_token", None)
    if bos and text.startswith(bos):
        return True
    try:
        usual = pair.render([{"role": "user", "content": "x"}])
    except SteerError:
        return False
    return any(usual.startswith(token) for token in begun)


def _special(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {str(token) for token in added if token.special}
    return special | {str(token) for token in tokenizer.all_special_tokens if token}
