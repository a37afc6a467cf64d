"""Oracle replay: who writes each step is given beforehand.

By a trace or a list; for ablations. A control of our own. What is replayed are the writers of the
steps that were kept. With greedy decoding of the same prompt the text comes out as it was; what was
looked at or taken back on the way is not done again, so that the cost is what the same text costs
whoever knows the writers. Only steps that were mended are drafted and mended again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..core.trace import Step, Trace
from ..core.transcript import WRITERS, Writer
from ..errors import SteerError
from ..util import documents
from .base import Mend, Policy, StepStart

_LETTERS: dict[str, Writer] = {"S": "small", "L": "large"}
_Prompts = Mapping[tuple[int, ...], Sequence[Writer]]
_Mends = Mapping[tuple[int, ...], Sequence[Sequence[int]]]


class Replay(Policy):
    """Writers as they are listed.

    Beyond the end of the list, its last writer goes on.

    Args:
        writers: "SSLS", or a list of "small" and "large", for every answer; or such a list for
            each prompt, by its ids.
        path: a trace of ``steer generate --trace``, in place of ``writers``; or one JSON list of
            such traces, each replayed on its own prompt.

    Raises:
        SteerError: neither or both, no list of writers, or a file that is no trace.
    """

    name: ClassVar[str] = "replay"

    def __init__(
        self,
        writers: str | Sequence[Writer] | _Prompts | None = None,
        path: str | Path | None = None,
    ) -> None:
        if (writers is None) == (path is None):
            raise SteerError("replay needs either writers, as in replay:writers=SSLS, or path=FILE")
        self._path = path
        self._all: Sequence[Writer] = ()
        self._each: _Prompts = {}
        self._mends: _Mends = {}  # of each prompt, the mended tokens of each step
        if path is not None:
            if not isinstance(path, str | os.PathLike):
                raise SteerError(f"path must be that of a trace, got {path!r}")
            self._each, self._mends = _read(Path(path))
            if len(self._each) == 1:  # One trace: its writers serve any prompt.
                (self._all,) = self._each.values()
                self._each = {}
        elif isinstance(writers, Mapping) and writers:
            self._each = {tuple(ids): _checked(w) for ids, w in writers.items()}
        else:
            self._all = _checked(writers)

    @classmethod
    def of(cls, traces: Iterable[Trace]) -> Replay:
        """Replay each trace on its own prompt."""
        kept = {tuple(t.prompt_ids): t.kept for t in traces}
        made = cls({prompt: [s.writer for s in steps] for prompt, steps in kept.items()})
        made._mends = {prompt: [s.others for s in steps] for prompt, steps in kept.items()}
        return made

    def before_step(self, start: StepStart) -> Writer:
        writers = self._all
        if self._each:
            assert start.trace is not None
            prompt = tuple(start.trace.prompt_ids)
            if prompt not in self._each:
                raise SteerError(
                    f"replay has no writers for this prompt of {len(prompt)} tokens: "
                    f"it knows {len(self._each)} others"
                )
            writers = self._each[prompt]
        return writers[min(start.index, len(writers) - 1)]

    def stays(self, step: Step) -> bool:
        return not self._mends

    def judge(self, step: Step, trace: Trace) -> Writer | Mend:
        mends = self._mends.get(tuple(trace.prompt_ids), ())
        planned = mends[step.index] if step.index < len(mends) else ()
        # Another prompt or a temperature may give a shorter draft.
        first = len(step.token_ids) - step.unread
        due = (token for token in planned if first <= token < len(step.token_ids))
        token = next(due, None)
        return step.writer if token is None else Mend(token)

    def __str__(self) -> str:
        if self._path is not None:
            return f"{self.name}:path={self._path}"
        letters = "".join(writer[0].upper() for writer in self._all)
        return f"{self.name}:writers={letters}" if letters else self.name


def _checked(writers: Any) -> list[Writer]:
    given = list(writers) if isinstance(writers, Iterable) else [writers]
    named = [_LETTERS.get(w, w) if isinstance(w, str) else w for w in given]
    wrong = [w for w in named if not isinstance(w, str) or w not in WRITERS]
    if wrong or not named:
        got = f"got {wrong[0]!r}" if wrong else "got none"
        raise SteerError(f"writers must be S or L, or 'small' or 'large', at least one: {got}")
    return named  # type: ignore[return-value]


_ANSWER = documents.record(
    {
        "trace": documents.record(
            {
                "prompt_ids": documents.listed(documents.whole()),
                "steps": documents.listed(
                    documents.record(
                        {"writer": documents.one_of(WRITERS), "discarded": documents.boolean},
                        {"others": documents.listed(documents.whole())},
                        others="dropped",
                    )
                ),
            },
            others="dropped",
        )
    },
    others="dropped",
)


def _read(path: Path) -> tuple[_Prompts, _Mends]:
    way = "make one with `steer generate --trace FILE`"
    return documents.read(path, "trace", _made, "is not a trace", way)


def _made(value: Any) -> tuple[_Prompts, _Mends]:
    writers: dict[tuple[int, ...], list[Writer]] = {}
    mends = {}
    for answer in documents.listed(_ANSWER)(value if isinstance(value, list) else [value]):
        kept = [step for step in answer["trace"]["steps"] if not step["discarded"]]
        if not kept:
            raise documents.Fault("an answer without a step that stays")
        prompt = tuple(answer["trace"]["prompt_ids"])
        writers[prompt] = [step["writer"] for step in kept]
        mends[prompt] = [step.get("others", []) for step in kept]
    if not writers:
        raise documents.Fault("an empty list")
    return writers, mends
