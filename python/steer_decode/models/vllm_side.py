"""One model of a pair under vLLM.

Its config and tokenizer are read, and compared with what the server says.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ..core.shape import ModelShape
from ..core.token_text import TokenTexts, decode
from ..core.transcript import Writer
from ..engines.vllm.calls import Carrier
from ..engines.vllm.connect import Inquiry, Served, shown
from ..engines.vllm.handoff import handoff_of
from ..errors import SteerError
from .described import dtype_of, eos_ids, on_meta
from .loading import load_config


class VllmSide(NamedTuple):
    """One model of a pair as it is known here.

    Fields:
        name: of the model and where it runs, for messages.
        model: what it is called.
        carrier: what brings calls to it.
        shape: its sizes.
        context: longest text, prompt included.
        ends: ids that end its answers.
        rows: ids that its head knows.
        handoff: id of HANDOFF, where the gate is inside its server.
    """

    name: str
    model: str
    carrier: Carrier
    shape: ModelShape
    context: int
    ends: frozenset[int]
    rows: int
    handoff: int | None


def told(writer: Writer, served: Served) -> str:
    return f"the {writer} model {served.model!r} at {shown(served.url)}"


def source(name: str, writer: Writer, given: str | None, served: Served) -> str:
    """Where config and tokenizer of a server's model are read.

    Raises:
        SteerError: nobody says.
    """
    source = served.root if given in (None, served.model) else given
    if given is not None and os.path.isdir(os.path.expanduser(given)):
        source = given
    assert source is not None
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return path
    if os.path.isabs(path) or source.startswith("."):
        raise SteerError(
            f"{name} was started with {source!r}, a folder that is not here: give its model as "
            f"--{writer}, a hub id or a folder with its config and tokenizer"
        )
    return source


def described(
    name: str,
    model: str,
    writer: Writer,
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    carrier: Carrier,
    context: int,
    gated: bool,
    options: dict[str, Any],
) -> VllmSide:
    config = load_config(writer, source, options)
    try:
        shape = ModelShape.of(on_meta(config, dtype_of(config)))
    except Exception as error:  # a family that transformers does not know, sizes that clash
        raise SteerError(
            f"the sizes of the {writer} model {source!r} cannot be read off its config "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0][:200]}): use another model"
        ) from error
    rows = int(config.get_text_config(decoder=True).vocab_size)
    ends = eos_ids(writer, config, tokenizer, source, options)
    handoff = handoff_of(tokenizer, rows, ends) if gated else None
    return VllmSide(name, model, carrier, shape, context, ends, rows, handoff)


def sample(tokenizer: PreTrainedTokenizerBase) -> int:
    """The first token that has a text.

    Special ones left aside.
    """
    texts = TokenTexts.of(tokenizer)
    words = enumerate(texts.alone(texts.size))
    return next(i for i, word in words if word.strip() and i not in texts.special)


def check_tokens(inquiry: Inquiry, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compare a server's tokens with those that are used here.

    By the text of all of them.

    Raises:
        SteerError: they differ; the message names the first id that does.
    """
    size = TokenTexts.of(tokenizer).size
    between = sample(tokenizer)

    def differ(start: int, end: int) -> bool:
        ids = range(start, end)
        theirs = inquiry.texts(model, ids, between)
        tokens = [token for i in ids for token in (i, between)]
        # A server may tidy the spaces before punctuation, or leave them.
        tidied = (tokenizer.decode(tokens, clean_up_tokenization_spaces=tidy) for tidy in (0, 1))
        return theirs != decode(tokenizer, tokens) and theirs not in tidied

    if not differ(0, size):
        return
    low, high = 0, size  # the first that differs lies within, by halves
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if differ(low, middle) else (middle, high)
    mark = decode(tokenizer, [between])
    theirs = inquiry.texts(model, [low], between).strip().removesuffix(mark.strip()).strip()
    raise SteerError(
        f"{inquiry.name} has other tokens than the tokenizer that is used here: id {low} is "
        f"{theirs!r} there and {decode(tokenizer, [low])!r} here; token ids travel between the "
        "models, so both servers must have one vocabulary"
    )
