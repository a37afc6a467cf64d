"""What the process of an engine does."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue

from ..decode.router import Router
from ..models.distant_pair import DistantPair
from ..models.two_models import TwoModels
from ..policies import AlwaysLarge
from ..util.sendable import sendable
from .engine_core import Batch, EngineCore, ToEngine
from .tickets import Broke


def answer(
    load: Callable[[], TwoModels],
    inbox: SimpleQueue[ToEngine | None],
    pipe: Connection,
    max_rows: int,
    keep_bytes: int,
    interval: float,
    overlap: bool,
) -> None:
    """Load a pair and answer with it.

    What it is, or why there is none, is said first.

    Args:
        load: loads the pair.
        inbox: of the engine; None is the end.
        pipe: to whoever asks.
        max_rows, keep_bytes, interval: of :class:`EngineCore`.
        overlap: of :class:`Router`.
    """
    try:
        router = Router(load(), AlwaysLarge(), overlap=overlap)
        core = EngineCore(router, max_rows, keep_bytes, interval, inbox)
        pipe.send(DistantPair.of(router.routing.pair))
    except Exception as error:  # of a tokenizer that cannot be pickled, too
        pipe.send(sendable(error))
        return
    core.run(lambda batch: pipe.send(_sendable(batch)))


def _sendable(batch: Batch) -> Batch:
    """The batch, with errors that can be pickled."""
    items = [
        (number, Broke(sendable(item.error)) if isinstance(item, Broke) else item)
        for number, item in batch.items
    ]
    return batch._replace(items=items)
