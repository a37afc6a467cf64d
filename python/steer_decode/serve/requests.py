"""What a client may ask, and what is refused.

Fields that change nothing here are accepted, as clients send them; one that asks for something that
is not done is refused with its name, so that nobody is given what he did not ask for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .refusals import Refusal

MOST_STOPS, LONGEST_STOP = 16, 256
MOST_CHOICES = 128
_Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
_Count = Annotated[int, Field(ge=1)]

# Fields that ask for what is not done here, and the values of them that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "modalities": (["text"], []),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "stop_token_ids": ([],),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "echo": (False,),
    "suffix": ("",),
    "prompt_logprobs": (),
    "chat_template": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}


# What a template's arguments may not say: a template is a program, and a client's is not run.
_OPERATORS = ("chat_template", "tools", "documents")


class _Base(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class SteerFields(BaseModel):
    """What is ours, in ``extra_body={"steer": {...}}``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    router: Annotated[str, Field(max_length=300)] | None = None
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    threshold: float | None = None
    trace: bool = False


class StreamOptions(_Base):
    include_usage: bool | None = None


class Part(_Base):
    """A piece of a message; texts only."""

    type: str
    text: str | None = None


class Message(_Base):
    role: str
    content: str | list[Part] | None = None


class AnyRequest(_Base):
    """What both doors take."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MOST_STOPS)] | None = None
    user: str | None = None
    steer: SteerFields | None = None

    @property
    def stops(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens

    def refuse(self) -> None:
        """Refuse what is asked for and not done.

        Raises:
            Refusal: it names the field.
        """
        for name, nothing in _REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in nothing:
                raise Refusal(400, f"{name} is not supported by this server: leave it out", name)


class ChatRequest(AnyRequest):
    """A request to ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def log_probs(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise Refusal(
                400, "top_logprobs is given without logprobs: set logprobs to true", "top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None

    def refuse(self) -> None:
        super().refuse()
        for name in _OPERATORS:
            if name in (self.chat_template_kwargs or {}):
                raise Refusal(
                    400,
                    f"chat_template_kwargs cannot set {name!r}: the template is the operator's",
                    "chat_template_kwargs",
                )

    def conversation(self) -> list[dict[str, str]]:
        """The messages as a chat template takes them.

        Raises:
            Refusal: what is no text, or a role that no template knows.
        """
        return [_plain(f"messages[{i}]", message) for i, message in enumerate(self.messages)]


_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _plain(name: str, message: Message) -> dict[str, str]:
    if message.role not in _ROLES:
        raise Refusal(
            400,
            f"{name}.role must be one of {', '.join(_ROLES)}, got {message.role[:40]!r}",
            f"{name}.role",
        )
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise Refusal(400, f"{name}.content is missing: give a text", f"{name}.content")
        content = ""
    if isinstance(content, list):
        for i, part in enumerate(content):
            if part.type != "text" or part.text is None:
                raise Refusal(
                    400,
                    f"{name}.content[{i}] is of type {part.type[:40]!r}: texts alone are supported",
                    f"{name}.content[{i}].type",
                )
        content = "\n".join(part.text or "" for part in content)
    return {"role": _ROLES[message.role], "content": content}


_Ids = Annotated[list[int], Field(min_length=1)]
_Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES)]
_Rows = Annotated[list[_Ids], Field(min_length=1, max_length=MOST_CHOICES)]


class TextRequest(AnyRequest):
    """A request to ``/v1/completions``."""

    prompt: str | _Texts | _Ids | _Rows
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def log_probs(self) -> int | None:
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        given: Any = self.prompt
        if isinstance(given, str) or isinstance(given[0], int):
            return [given]
        return list(given)


Door = Literal["chat", "text"]
