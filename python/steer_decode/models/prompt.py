"""A prompt as token ids, however it is given.

A text, chat messages, or the ids themselves. A text goes through the chat template as one user
message, unless it has been rendered by that template already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from ..errors import SteerError
from ..util.checks import whole

if TYPE_CHECKING:
    from .pair import Pair

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Messages | Sequence[int]

# Arguments of apply_chat_template that say how it is called, not what the template is told.
_RESERVED = {
    "conversation",
    "tokenize",
    "add_generation_prompt",
    "continue_final_message",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
    "processor_kwargs",
}
_OF_EVERY_TEMPLATE = {"tools", "documents", "chat_template"}


def encode(
    pair: Pair, prompt: Any, chat: bool | None, arguments: Mapping[str, Any] | None
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
    return pair.checked(tokenize(pair, render(pair, prompt, arguments)))


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


def render(pair: Pair, messages: Any, arguments: Mapping[str, Any] | None) -> str:
    """The text of chat messages; see :meth:`Pair.render`."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise _no_messages(messages)
    if not messages:
        raise SteerError("messages are empty: give at least one message")
    if not all(isinstance(m, Mapping) for m in messages):
        raise _no_messages(messages)
    owner = pair.template_owner
    if owner is None:
        raise SteerError("the tokenizer has no chat template: give the prompt as a text")
    told = template_arguments(owner, arguments)
    try:
        return str(
            owner.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False, **told
            )
        )
    except Exception as error:  # whatever a template raises, or jinja on its behalf
        reason = str(error).strip().partition("\n")[0]
        system = any(m.get("role") == "system" for m in messages)
        raise SteerError(
            f"the chat template cannot read these messages: {type(error).__name__}: {reason}"
            + (" (they begin with a system message: leave it out if that is why)" if system else "")
        ) from error


def template_arguments(
    owner: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None
) -> dict[str, Any]:
    """``arguments`` as a chat template may be told them.

    Raises:
        SteerError: they are no mapping; or one is not the template's to know, or unknown to it: a
            template says nothing of a name that it does not read.
    """
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise SteerError(
            "chat_template_kwargs must be a mapping of names to values, as "
            f"{{'enable_thinking': False}}, got {arguments!r}"
        )
    template = arguments.get("chat_template", getattr(owner, "chat_template", None))
    for name in arguments:
        if name in _RESERVED:
            raise SteerError(f"chat_template_kwargs cannot set {name!r}: it is ours to say")
        read = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(template))
        if name not in _OF_EVERY_TEMPLATE and read is None:
            raise SteerError(
                f"the chat template of this pair reads no argument {name!r} "
                "(chat_template_kwargs): leave it out, or check its spelling"
            )
    return dict(arguments)


def tokenize(pair: Pair, text: str) -> list[int]:
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


def _no_messages(given: Any) -> SteerError:
    return SteerError(
        'messages must be a list of {"role": ..., "content": ...}, got ' + repr(str(given)[:60])
    )


def _check_unused(chat: bool | None, arguments: Mapping[str, Any] | None, why: str) -> None:
    if chat:
        raise SteerError(f"chat=True asks for a chat template, but {why}: leave it out")
    if arguments:
        raise SteerError(
            f"chat_template_kwargs are given, but {why}, which no chat template sees: leave them "
            "out"
        )


def _plain(pair: Pair, text: str) -> list[int]:
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


def _is_rendered(pair: Pair, text: str) -> bool:
    """Whether ``text`` has been through a template: it begins with BOS, or as the template does."""
    begun = [token for token in _special(pair.tokenizer) if text.startswith(token)]
    if not begun:
        return False
    bos = getattr(pair.tokenizer, "bos_token", None)
    if bos and text.startswith(bos):
        return True
    try:
        usual = render(pair, [{"role": "user", "content": "x"}], None)
    except SteerError:
        return False
    return any(usual.startswith(token) for token in begun)


def _special(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {str(token) for token in added if token.special}
    return special | {str(token) for token in tokenizer.all_special_tokens if token}
