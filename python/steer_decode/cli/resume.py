"""Long commands that make one file, and go on.

A run that was cut off has left something to go on from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SteerError
from ..util.interruption import at_the_end, telling
from ..util.partial import Partial
from ..util.text import one_line
from . import say

if TYPE_CHECKING:
    from ..models.pair import Pair


def what_answers_depend_on(pair: Pair, prompts: Sequence[str], **more: Any) -> dict[str, Any]:
    """Settings of a run over ``prompts``, for :class:`Partial`."""
    import torch

    text = json.dumps(list(prompts)).encode()
    return {
        "pair": pair.fingerprint,
        "device": str(pair.small.device),
        "dtype": str(pair.small.dtype),
        "threads": torch.get_num_threads(),
        "number of prompts": len(prompts),
        "digest of the prompts": hashlib.sha256(text).hexdigest()[:16],
        **more,
    }


@contextmanager
def kept_beside(
    out: Path, settings: Mapping[str, Any], records: str = "answers"
) -> Iterator[Partial]:
    """What an interrupted run with these ``settings`` has left.

    This run goes on from it. Whoever works within the block calls :meth:`Partial.finish` once
    ``out`` is written.
    """
    kept = Partial(out, settings)
    if kept.found:
        say.note(
            f"{kept.found} {records} of a run that was cut off are in {kept.path}: this one goes "
            "on from there"
        )
    for path, difference in kept.others():
        say.note(
            f"{path} is of a run with other settings ({difference}), which this one does not go on "
            "with: remove the file unless you mean to"
        )

    def state() -> str:
        if kept.path is None or not kept.records:
            return ""
        told = f"{kept.records} {records} are in {kept.path}; the same command goes on"
        return one_line(told)

    try:
        with telling(state), at_the_end(kept.close):
            yield kept
    except SteerError:
        if not kept.making:
            kept.finish()  # nothing can be made of these answers, whoever asks again
        raise
    finally:
        kept.close()
