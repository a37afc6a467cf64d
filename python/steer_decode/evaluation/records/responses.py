"""Responses of vLLM's server that hold log-probabilities.

A file has a response a line. A line may also be an object with the response as "response", and
beside it what a record has of an answer: "domain", "problem", "seed", "correct", "router".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import SteerError
from ...util.documents import Check, Fault, boolean, listed, mapped, optional, parse, record, text
from ...util.documents import number as figure
from ...util.documents import whole as count
from ...util.files import decoded, read_bytes
from ...util.text import short

_NOTHING = -9999.0  # what vLLM writes for the logarithm of 0
_PLACEHOLDER = re.compile(r"token_id:(\d{1,10})", re.ASCII)
_STOPS = {"stop": "eos", "length": "max_new_tokens"}
_AS_IDS = (
    "tokens are texts, not ids: ask the server with return_tokens_as_token_ids, or start it with "
    "--return-tokens-as-token-ids"
)
Place = dict[int, float]
"""Log-probabilities at one place, by token id."""


@dataclass(frozen=True)
class WrittenText:
    """What the writer's response says of an answer."""

    ids: list[int]
    places: list[Place]
    text: str
    stop_reason: str
    prompt_tokens: int
    about: Mapping[str, Any]


def read_written(path: Path) -> list[WrittenText]:
    """What the model that wrote has answered, line by line.

    Raises:
        SteerError: a line that is no such response, or logits in place of log-probabilities.
    """
    return _lines(path, _text_of)


def read_prompts_of(path: Path) -> list[list[Place]]:
    """What the other model made of prompts, line by line.

    The first place of each is empty.

    Raises:
        SteerError: as :func:`read_written`.
    """
    return _lines(path, _prompt_of)


def _lines(path: Path, make: Check) -> list[Any]:
    lines = decoded(read_bytes(path, "responses"), path).split("\n")
    return [_line(path, n, line, make) for n, line in enumerate(lines, 1) if line.strip()]


def _line(path: Path, number: int, line: str, make: Check) -> Any:
    about: dict[str, Any] = {}
    try:
        value = parse(line)
        if isinstance(value, dict) and "response" in value:
            about = _WRAPPED(value)
            value = about.pop("response")
        return make((value, about))
    except Fault as fault:
        raise SteerError(
            f"line {number} of {str(path)!r} is no response of vLLM's server with "
            f"log-probabilities ({fault}): docs/records.md says how to ask for one"
        ) from fault


_WRAPPED = record(
    {"response": lambda value: value},
    {
        **dict.fromkeys(("domain", "problem", "router"), text),
        "seed": count(-(2**63), 2**63),
        "correct": optional(boolean),
    },
)
_LOGPROB = figure(-1e30, 1e30)
_COMPLETION = record(
    {
        "tokens": listed(text, 1),
        "token_logprobs": listed(_LOGPROB, 1),
        "top_logprobs": listed(mapped(_LOGPROB), 1),
    },
    others="dropped",
)
_TOKEN = record({"token": text, "logprob": _LOGPROB}, others="dropped")
_CHAT_TOKEN = record(
    {"token": text, "logprob": _LOGPROB, "top_logprobs": listed(_TOKEN)}, others="dropped"
)
_CHAT = record({"content": listed(_CHAT_TOKEN, 1)}, others="dropped")
_CHOICE = record(
    {"finish_reason": optional(text)},
    {
        "text": text,
        "message": record({"content": optional(text)}, others="dropped"),
        "logprobs": optional(lambda value: dict(record({}, others="kept")(value))),
        "prompt_logprobs": optional(lambda value: value),
    },
    others="dropped",
)
_RESPONSE = record(
    {
        "choices": listed(_CHOICE, 1),
        "usage": record({"prompt_tokens": count(1)}, others="dropped"),
    },
    {"prompt_logprobs": optional(lambda value: value)},
    others="dropped",
)
_PROMPT = listed(
    optional(mapped(record({"logprob": _LOGPROB}, others="dropped"), key=lambda key: _number(key)))
)


def _one_choice(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    response = _RESPONSE(value)
    if len(response["choices"]) != 1:
        raise Fault(f"has {len(response['choices'])} choices, one is read: ask with n=1")
    return response, response["choices"][0]


def _text_of(line: tuple[Any, Mapping[str, Any]]) -> WrittenText:
    response, choice = _one_choice(line[0])
    found = choice.get("logprobs")
    if found is None:
        raise Fault("has no logprobs: ask with logprobs=8, of a chat with top_logprobs=8")
    if "content" in found:
        tokens = _CHAT(found)["content"]
        rows = [[(t["token"], t["logprob"]) for t in token["top_logprobs"]] for token in tokens]
        own = [(token["token"], token["logprob"]) for token in tokens]
    else:
        flat = _COMPLETION(found)
        if len({len(column) for column in flat.values()}) != 1:
            raise Fault("has lists of different lengths").within("logprobs")
        rows = [list(place.items()) for place in flat["top_logprobs"]]
        own = list(zip(flat["tokens"], flat["token_logprobs"], strict=True))
    ids = [_id(token) for token, _ in own]
    places = [{_id(t): x for t, x in [*row, mine]} for row, mine in zip(rows, own, strict=True)]
    message = choice.get("message") or {}
    return WrittenText(
        ids,
        [_checked(place) for place in places],
        choice.get("text", message.get("content")) or "",
        _STOPS.get(choice["finish_reason"] or "", "interrupted"),
        response["usage"]["prompt_tokens"],
        line[1],
    )


def _prompt_of(line: tuple[Any, Mapping[str, Any]]) -> list[Place]:
    response, choice = _one_choice(line[0])
    given = choice.get("prompt_logprobs", response.get("prompt_logprobs"))
    if given is None:
        raise Fault("has no prompt_logprobs: ask with prompt_logprobs=8")
    found = _PROMPT(given)
    return [
        _checked({i: entry["logprob"] for i, entry in place.items()}) if place else {}
        for place in found
    ]


def _checked(place: Place) -> Place:
    """Log-probabilities of one place, -inf for what stands for it; Fault where they are none."""
    found = {i: -math.inf if x <= _NOTHING else x for i, x in place.items()}
    if any(x > 1e-3 for x in found.values()) or sum(map(math.exp, found.values())) > 1.01:
        raise Fault(
            "are logits, no log-probabilities: start the server with --logprobs-mode raw_logprobs"
        )
    return {i: min(x, 0.0) for i, x in found.items()}


def _id(token: str) -> int:
    found = _PLACEHOLDER.fullmatch(token)
    if found is None:
        raise Fault(_AS_IDS)
    return int(found[1])


def _number(key: Any) -> int:
    if not re.fullmatch(r"\d{1,10}", text(key), re.ASCII):
        raise Fault(f"must be a token id, got {short(key)}")
    return int(key)
