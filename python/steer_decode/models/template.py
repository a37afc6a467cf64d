"""The text that a chat template makes of messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import SteerError

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


def apply_template(
    owner: PreTrainedTokenizerBase | None, messages: Any, arguments: Mapping[str, Any] | None
) -> str:
    """The text of chat messages; see :meth:`Pair.render`."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise _no_messages(messages)
    if not messages:
        raise SteerError("messages are empty: give at least one message")
    if not all(isinstance(m, Mapping) for m in messages):
        raise _no_messages(messages)
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


def _no_messages(given: Any) -> SteerError:
    return SteerError(
        'messages must be a list of {"role": ..., "content": ...}, got ' + repr(str(given)[:60])
    )
