"""Records of an evaluation, and the header of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...core.detokenizer import Detokenizer
from ...core.sampling import Sampling
from ...core.trace import Trace
from ...core.transcript import Writer
from ...errors import SteerError
from ...models.pair import Pair
from ...models.vocabulary import vocabulary_digest
from ...util.text import short
from ..rows import ResultRow
from .record import TOP, AnswerRecord, RecordHeader, Records
from .views import views

_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


def sampling_of(options: Mapping[str, Any]) -> Sampling:
    """How tokens are drawn with these options of ``Router.stream``."""
    return Sampling(**{name: options[name] for name in _SAMPLING if name in options})


def header_for(
    pair: Pair, options: Mapping[str, Any], names: Mapping[Writer, str], **more: Any
) -> RecordHeader:
    """The header of records of ``pair``.

    Args:
        pair: the models.
        options: of ``Router.stream``, as all answers are made.
        names: of the models, for the reader.
        more: settings that answers depend on, as plain data.
    """
    rest = {key: value for key, value in sorted(options.items()) if key not in _SAMPLING}
    return RecordHeader(
        source="steer eval",
        pair=pair.fingerprint,
        vocabulary=vocabulary_digest(pair.tokenizer),
        vocab_size=pair.vocab_size,
        top=min(TOP, pair.vocab_size),
        sampling=sampling_of(options),
        names=dict(names),
        shapes=pair.shapes,
        options={**rest, **more},
    )


def record_of(
    pair: Pair, options: Mapping[str, Any], spec: str, row: ResultRow, trace: Trace
) -> AnswerRecord:
    """The record of one finished answer.

    Args:
        pair, options: as for :func:`header_for`.
        spec: the router's specification.
        row: what is kept of the answer elsewhere.
        trace: how it came about.

    Raises:
        BrokenModelError: a model's logits are not sound on this text.
    """
    steps = [step for step in trace.kept if step.token_ids]
    ids = [token for step in steps for token in step.token_ids]
    labels = [step.right for step in row.kept if step.tokens]
    return AnswerRecord(
        router=row.router,
        spec=spec,
        domain=row.domain,
        problem=row.problem,
        seed=row.seed,
        correct=row.correct,
        stop_reason=row.stop_reason,
        prompt_tokens=len(trace.prompt_ids),
        text="".join(step.text for step in steps),
        ids=np.array(ids, dtype=np.int64),
        writers="".join(writer[0].upper() for step in steps for writer in step.writers),
        steps=[len(step.token_ids) for step in steps],
        closed=bool(steps) and steps[-1].closed,
        views=views(pair, trace.prompt_ids, ids, sampling_of(options)),
        right=labels if any(label is not None for label in labels) else (),
    )


def check_pair(records: Records, pair: Pair, source: str) -> None:
    """Refuse records of another pair.

    Args:
        records: as they were read.
        pair: the one that they are to be of.
        source: where they are from, for messages.

    Raises:
        SteerError: of another pair, another vocabulary, or with a text that its ids do not make.
    """
    header = records.header
    if header.pair is not None and header.pair != pair.fingerprint:
        raise SteerError(
            f"the records {source!r} are of another pair ({header.pair}, this one is "
            f"{pair.fingerprint}): give its models, or make records of this one with `steer eval "
            "--record FILE`"
        )
    check_texts(records, pair.tokenizer, source)


def check_texts(records: Records, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Refuse records of another tokenizer.

    Args:
        records, source: as for :func:`check_pair`.
        tokenizer: the one that the ids are to be of.

    Raises:
        SteerError: the vocabularies differ, or ids stand for another text than the record has.
    """
    way = "give the models that they were made with"
    own = vocabulary_digest(tokenizer)
    if records.header.vocabulary != own:
        raise SteerError(
            f"the records {source!r} are of another tokenizer (vocabulary "
            f"{records.header.vocabulary}, this one's is {own}): {way}"
        )
    for answer in records.answers:
        made = detokenized(tokenizer, answer.ids.tolist())
        if made.strip() != answer.text.strip():
            raise SteerError(
                f"record {answer.domain}:{answer.problem} ({answer.router}, seed {answer.seed}) of "
                f"{source!r} is a text of another tokenizer: its ids stand for {short(made)}, and "
                f"it has {short(answer.text)}: {way}"
            )


def detokenized(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of an answer, special tokens left out."""
    reader = Detokenizer(tokenizer)
    return "".join([*map(reader.push, ids), reader.flush()])
