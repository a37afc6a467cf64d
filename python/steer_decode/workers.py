"""Forked processes that answer cohorts: they share the weights, and end when their parent does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import torch

from .errors import SteerError

if TYPE_CHECKING:
    from .evaluate import Evaluation
    from .rows import Key, Row


def answers(
    evaluation: Evaluation, groups: Sequence[Sequence[Key]], workers: int, threads: int
) -> Iterator[Row]:
    """Answers ``groups`` in ``workers`` processes; yields the rows of each as it is done.

    Whatever ends this early, Ctrl-C say, ends the workers at once, in the middle of an answer.

    Raises:
        SteerError: the models are not on the CPU, or a worker was killed.
    """
    if evaluation.pair.small.device.type != "cpu" or evaluation.pair.large.device.type != "cpu":
        raise SteerError("more than one worker needs models on the CPU: use --workers 1")
    # Forked children share the weights; a fork copies no threads, so none may be needed there.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    theirs, ours = multiprocessing.Pipe(duplex=False)
    start = (evaluation, threads, theirs, ours)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, start)
    waiting: set[Future[list[Row]]] = set()
    left = iter(groups)
    try:
        # No more than two cohorts a worker are out at a time: nobody has to pickle all of them.
        while new := [
            pool.submit(_answer, group) for group in islice(left, 2 * workers - len(waiting))
        ]:
            waiting.update(new)
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()
        for future in waiting:
            yield from future.result()
    except BrokenProcessPool as error:
        raise SteerError(
            "a worker was killed, as the system does where memory runs out: use fewer --workers "
            "or a smaller --cohort; the same command goes on with the answers that are left"
        ) from error
    finally:
        ours.close()
        pool.shutdown(cancel_futures=True)
        theirs.close()


_evaluation: Evaluation
_thread: ThreadPoolExecutor
_ended: Future[list[Row]] = Future()


def _begin(evaluation: Evaluation, threads: int, end: Connection, parents: Connection) -> None:
    global _evaluation, _thread
    _evaluation = evaluation
    parents.close()
    # Ctrl-C is sent to the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # OpenMP's threads belong to the thread that first asked for some, and do not survive a fork: if
    # the parent's main thread had any, that of its child would wait for them for ever.
    _thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
    threading.Thread(target=_watch, args=(end,), daemon=True).start()


def _watch(end: Connection) -> None:
    """Waits until the parent wants no more answers, or is killed, when nobody ends its workers."""
    end.poll(None)
    _ended.set_result([])
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _answer(group: Sequence[Key]) -> list[Row]:
    future = _thread.submit(lambda: list(_evaluation.answer(group)))
    wait([future, _ended], return_when=FIRST_COMPLETED)
    if not future.done():
        os._exit(1)  # Here, and not while a result is on its way: the parent waits for all of one.
    return future.result()
