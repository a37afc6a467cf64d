"""Records as JSON, and what may stand in one.

A file of records may come from anybody. What is read is numbers and texts, each checked before
anything is reckoned with them; nothing in it names code or another file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ...core.experts import Experts
from ...core.sampling import Sampling
from ...core.shape import ModelShape
from ...core.trace_file import STOPS
from ...core.transcript import WRITERS
from ...errors import SteerError
from ...util.documents import (
    MOST,
    Check,
    Fault,
    boolean,
    listed,
    mapped,
    number,
    one_of,
    optional,
    record,
    text,
    versioned,
    whole,
)
from .record import TOP, AnswerRecord, Array, Ids, RecordHeader, TokenView

VERSION = 1
KIND = "steer-records"
DIGITS = 4  # behind the point, of logits and log-probabilities
SOURCES = ("steer eval", "vllm")
_LARGEST = 1e6  # of a logit; no model has such
_ROUNDING = 2e-3  # of what must agree, the bfloat16 rounding of a logit's float32 left aside

_COUNT = whole()
_SHAPE = record(
    {
        **dict.fromkeys(("parameters", "active", "body", "head"), _COUNT),
        **dict.fromkeys(("dense_bytes", "held_bytes", "query_width", "kv_width"), _COUNT),
        **dict.fromkeys(("weight_bytes", "activations"), _COUNT),
        "windows": listed(optional(whole(1)), 1),
        "experts": listed(
            record(
                {
                    **dict.fromkeys(("number", "chosen", "layers"), whole(1)),
                    "weights": _COUNT,
                    "nbytes": number(0),
                }
            )
        ),
        "widths": listed(listed(_COUNT)),
    }
)
_SAMPLING = record({"temperature": number(), "top_p": number(), "top_k": _COUNT, "min_p": number()})
_HEADER = record(
    {
        "source": one_of(SOURCES),
        "pair": optional(text),
        "vocabulary": text,
        "vocab_size": whole(1, 2**31),
        "top": whole(1, TOP),
        "sampling": _SAMPLING,
    },
    {
        "names": mapped(text, one_of(WRITERS)),
        "shapes": mapped(_SHAPE, one_of(WRITERS)),
        "options": lambda value: dict(record({}, others="kept")(value)),
    },
)


def header_to_dict(header: RecordHeader) -> dict[str, Any]:
    """Plain data of a header, version and kind included."""
    data = {f.name: getattr(header, f.name) for f in fields(header)}
    data |= {"sampling": asdict(header.sampling)}
    data |= {"shapes": {w: asdict(shape) for w, shape in header.shapes.items()}}
    return {"version": VERSION, "kind": KIND, **data}


def header_of(value: Any) -> RecordHeader:
    """Read a header.

    Raises:
        Fault: it is none, or of another version.
    """
    found = versioned(VERSION, _HEADER, KIND)(value)
    try:
        sampling = Sampling(**found["sampling"])
    except SteerError as error:
        raise Fault(str(error)).within("sampling") from error
    shapes = {writer: _shape_of(shape) for writer, shape in found.get("shapes", {}).items()}
    return RecordHeader(**{**found, "sampling": sampling, "shapes": shapes})


def _shape_of(found: Mapping[str, Any]) -> ModelShape:
    widths = tuple(tuple(pair) for pair in found["widths"])
    if widths and (len(widths) != len(found["windows"]) or any(len(w) != 2 for w in widths)):
        raise Fault("must be a pair for each layer").within("widths")
    if any(e["chosen"] > e["number"] for e in found["experts"]):
        raise Fault("chooses more than there are").within("experts")
    experts = tuple(Experts(**e) for e in found["experts"])
    return ModelShape(
        **{**found, "windows": tuple(found["windows"]), "experts": experts, "widths": widths}
    )


def answer_to_dict(answer: AnswerRecord) -> dict[str, Any]:
    """Plain data of a record.

    Numbers are rounded to :data:`DIGITS` digits; null is the logarithm of 0.
    """
    plain = ("router", "spec", "domain", "problem", "seed", "correct", "stop_reason")
    data = {
        name: getattr(answer, name)
        for name in (*plain, "prompt_tokens", "text", "writers", "closed")
    }
    data |= {"ids": answer.ids.tolist(), "steps": [int(n) for n in answer.steps]}
    if answer.right:
        data["right"] = list(answer.right)
    for writer, view in answer.views.items():
        columns = {f.name: getattr(view, f.name) for f in fields(view)}
        data[writer] = {name: _plain(c) for name, c in columns.items() if c is not None}
    return data


def _plain(column: Array | Ids) -> list[Any]:
    if column.dtype.kind == "i":
        return column.tolist()
    rounded = np.round(column.astype(np.float64), DIGITS) + 0.0  # no -0.0
    plain = rounded.astype(object)
    plain[np.isneginf(rounded)] = None
    return plain.tolist()


_VALUES = listed(optional(number(-_LARGEST, _LARGEST)))
_LOGS = listed(optional(number(-_LARGEST, 0.01)))
_ID = whole(0, 2**31)
_VIEW = record(
    {"logprob": _LOGS, "top_ids": listed(listed(_ID)), "top_logprobs": listed(_LOGS)},
    {"max_logit": _VALUES, "entropy": listed(number(-0.01, 100)), "drawn": _LOGS},
)


def _letters(value: Any) -> str:
    found = text(value)
    if set(found) - {"S", "L"}:
        raise Fault("must be letters S and L")
    return found


_ANSWER = record(
    {
        **dict.fromkeys(("router", "spec", "domain", "problem", "text"), text),
        "seed": whole(-(2**63), 2**63),
        "correct": optional(boolean),
        "stop_reason": one_of(STOPS),
        "prompt_tokens": whole(1, MOST),
        "writers": _letters,
        "ids": listed(_ID),
        "steps": listed(whole(1)),
        "closed": boolean,
        **dict.fromkeys(WRITERS, _VIEW),
    },
    {"right": listed(optional(boolean))},
)


def answer_of(header: RecordHeader) -> Check:
    """How a record is read that stands under ``header``.

    What it returns raises Fault where the value is no record, or one that contradicts itself.
    """

    def check(value: Any) -> AnswerRecord:
        found = _ANSWER(value)
        ids = np.array(found.pop("ids"), dtype=np.int64)
        if len(ids) and ids.max() >= header.vocab_size:
            what = f"{ids.max()} is beyond the vocabulary of {header.vocab_size}"
            raise Fault(f"{what}: is this a text of another tokenizer?").within("ids")
        if len(found["writers"]) != len(ids):
            raise Fault(f"must be of {len(ids)} tokens, as ids is").within("writers")
        if sum(found["steps"]) != len(ids):
            raise Fault(f"must sum to {len(ids)}, the number of ids").within("steps")
        if found["stop_reason"] == "eos" and not found["closed"]:
            raise Fault("must be true of an answer that has ended by itself").within("closed")
        if found.get("right") and len(found["right"]) != len(found["steps"]):
            raise Fault(f"must be of {len(found['steps'])} steps").within("right")
        views = {}
        for writer in WRITERS:
            try:
                views[writer] = _view_of(found.pop(writer), ids, header)
            except Fault as fault:
                raise fault.within(writer) from None
        return AnswerRecord(**found, ids=ids, views=views)

    return check


def _view_of(found: Mapping[str, Any], ids: Ids, header: RecordHeader) -> TokenView:
    for name, values in found.items():
        if len(values) != len(ids):
            raise Fault(f"must have {len(ids)} entries, as ids has, got {len(values)}").within(name)
    for name in ("top_ids", "top_logprobs"):
        if any(len(row) != header.top for row in found[name]):
            raise Fault(f"must have {header.top} entries a token").within(name)
    columns = {n: _column(v) for n, v in found.items() if n not in ("top_ids", "top_logprobs")}
    shape = len(ids), header.top
    top_ids = np.array(found["top_ids"], dtype=np.int64).reshape(shape)
    top = _column([x for row in found["top_logprobs"] for x in row]).reshape(shape)
    view = TokenView(top_ids=top_ids, top_logprobs=top, **columns)
    _check_top(view, ids, header)
    return view


def _column(values: Sequence[float | None]) -> Array:
    return np.array([-np.inf if x is None else x for x in values], dtype=np.float64)


def _check_top(view: TokenView, ids: Ids, header: RecordHeader) -> None:
    """Whether the likeliest tokens are what they have to be; Fault else."""
    if not len(ids):
        return
    top, at = view.top_logprobs, view.top_ids
    if at.max() >= header.vocab_size:
        raise Fault(f"{at.max()} is beyond the vocabulary of {header.vocab_size}").within("top_ids")
    ordered = np.sort(at, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise Fault("names a token twice in one place").within("top_ids")
    if (top[:, 1:] > top[:, :-1]).any():
        raise Fault("must fall from the likeliest token on").within("top_logprobs")
    if np.isneginf(top[:, 0]).any() or (np.exp(top).sum(1) > 1 + _ROUNDING * header.top).any():
        raise Fault("are no log-probabilities: they sum to more than 1, or to 0").within(
            "top_logprobs"
        )
    listed_ = at == ids[:, None]
    own = np.where(listed_.any(1), np.where(listed_, top, -np.inf).max(1), view.logprob)
    beyond = ~listed_.any(1) & (view.logprob > top[:, -1] + _ROUNDING)
    with np.errstate(invalid="ignore"):
        differs = np.nan_to_num(np.abs(own - view.logprob), nan=0.0) > _ROUNDING
    if (differs | beyond).any():
        place = int(np.flatnonzero(differs | beyond)[0])
        raise Fault("contradicts top_logprobs").within(place).within("logprob")
