"""Forked processes that answer cohorts.

They share the weights, and end when their parent does. Each worker has one pipe to its parent, for
cohorts in one direction and answers in the other. The parent waits for all pipes at once and has no
thread, queue or lock that an interruption could leave taken: whatever ends it, Ctrl-C at any line
among it, its workers are killed, for they hold nothing that is not asked for again. Should it be
killed itself, they meet the end of their pipes.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from queue import SimpleQueue
from typing import TYPE_CHECKING

import torch

from ..errors import SteerError
from ..util.interruption import SIGNALS, at_the_end, held
from ..util.sendable import sendable

if TYPE_CHECKING:
    from .rows import Key, ResultRow

_Group = Sequence["Key"]
_Answer = Callable[[_Group], "Iterable[ResultRow]"]
_AHEAD = 2  # cohorts that a worker has been given: it need not wait for its next one
_LOOK = 1.0  # seconds between two looks at whether all workers are there
_PR_SET_PDEATHSIG = 1  # of Linux' prctl
_KILLED = (
    "a worker was killed, as the system does where memory runs out: use fewer --workers or a "
    "smaller --cohort; the same command goes on with the answers that are left"
)


def forked(
    answer: _Answer, groups: Sequence[_Group], workers: int, threads: int
) -> Iterator[ResultRow]:
    """Answer ``groups`` in ``workers`` processes.

    The rows of each group are yielded as it is done. Whatever ends this early, Ctrl-C say, ends the
    workers at once, in the middle of an answer.

    Args:
        answer: the rows of a group; what it needs has to be on the CPU.
        groups: the cohorts.
        workers: processes at the most.
        threads: of torch, for each process.

    Raises:
        SteerError: a worker was killed.
    """
    # Forked children share the weights; a fork copies no threads, so none may be needed there.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    team = _Team()
    # Also where no `finally` runs: when nobody holds the team any more, and before the interpreter
    # waits for its children at its exit.
    end = Finalize(team, _end, (team.processes, team.pipes), exitpriority=1)
    try:
        with at_the_end(end):
            with held():
                team.start(answer, min(workers, len(groups)), threads)
            yield from team.answers(groups)
    finally:
        with held():
            end()


class _Team:
    """The workers and the parent's ends of their pipes."""

    def __init__(self) -> None:
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection] = []

    def start(self, answer: _Answer, workers: int, threads: int) -> None:
        """Fork the workers."""
        fork = multiprocessing.get_context("fork")
        last = threading.current_thread() is threading.main_thread()
        for _ in range(workers):
            ours, theirs = fork.Pipe()
            self.pipes.append(ours)
            args = (answer, threads, theirs, list(self.pipes), last)
            process = fork.Process(target=_work, args=args)
            process.start()
            self.processes.append(process)
            theirs.close()

    def answers(self, groups: Sequence[_Group]) -> Iterator[ResultRow]:
        """The rows of each group as it is done.

        Raises:
            SteerError: a worker has ended; or whatever it met with, as it was raised there.
        """
        left = deque(groups)
        given = dict.fromkeys(self.pipes, 0)
        try:
            for _ in range(_AHEAD):
                for pipe in given:
                    _give(pipe, left, given)
            while any(given.values()):
                for pipe in self._ready([pipe for pipe, count in given.items() if count]):
                    rows, error, trace = pickle.loads(pipe.recv_bytes())
                    given[pipe] -= 1
                    _give(pipe, left, given)
                    yield from rows
                    if error is not None:
                        raise error from RuntimeError(f"in a worker:\n{trace}")
        except (EOFError, ConnectionError) as error:
            raise SteerError(_KILLED) from error

    def _ready(self, pipes: Sequence[Connection]) -> list[Connection]:
        """Waits until there is something to be read; EOFError where a worker has ended."""
        while not (ready := wait(pipes, timeout=_LOOK)):
            # Its pipe has no end as long as a process that it has started holds a copy.
            if any(process.exitcode is not None for process in self.processes):
                raise EOFError
        return [pipe for pipe in pipes if pipe in ready]


def _end(processes: Sequence[BaseProcess], pipes: Sequence[Connection]) -> None:
    """Kills what still runs, and waits until nothing does."""
    with held():
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for pipe in pipes:
            pipe.close()


def _give(pipe: Connection, left: deque[_Group], given: dict[Connection, int]) -> None:
    if left:
        pipe.send(left.popleft())
        given[pipe] += 1


def _work(
    answer: _Answer,
    threads: int,
    pipe: Connection,
    parents: Sequence[Connection],
    last: bool,
) -> None:
    """A worker: this thread takes cohorts until the pipe ends, another one answers them.

    Args:
        parents: copies of the parent's ends of all pipes so far; no pipe ends while one is open.
        last: the thread that forked it is the one that its process ends with.
    """
    # Ctrl-C is sent to the whole process group; the parent alone decides what it means.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if last and sys.platform == "linux":
        # To see the end of the pipe this thread needs the interpreter, which a checker may keep for
        # hours over one pattern; Linux needs nobody to kill it when its parent ends.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for other in parents:
        other.close()
    todo: SimpleQueue[_Group] = SimpleQueue()
    # OpenMP's threads belong to the thread that first asked for some, and do not survive a fork: if
    # the parent's main thread had any, that of its child would wait for them for ever.
    args = (answer, threads, todo, pipe)
    threading.Thread(target=_answer, args=args, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            todo.put(pipe.recv())
    os._exit(0)


def _answer(answer: _Answer, threads: int, todo: SimpleQueue[_Group], pipe: Connection) -> None:
    torch.set_num_threads(threads)
    while True:
        group = todo.get()
        rows: list[ResultRow] = []
        error, trace = None, ""
        try:
            for row in answer(group):
                rows.append(row)
        except BaseException as met:  # whatever it is, the parent is to raise it
            error, trace = met, traceback.format_exc()
        data = pickle.dumps((rows, None if error is None else sendable(error), trace))
        with contextlib.suppress(OSError):  # a parent that has gone, as the other thread will see
            pipe.send_bytes(data)
