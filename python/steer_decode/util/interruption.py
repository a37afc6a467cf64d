"""Ctrl-C and SIGTERM, held back or made a command's end.

Python turns Ctrl-C into an exception at whatever line the main thread has reached. Some lines lose
it (a destructor, a weak reference's callback, a bare ``except`` of some library), some are left
with their locks taken, and some are in the middle of a fork. Here is what does not depend on the
line: :func:`held` keeps signals back over lines that must not be cut; and once a command calls
:func:`listen`, its process says one sentence and ends in the handler itself, without an exception.
That is right where all that was done is on disk already. Code that has something to put in order
asks for the exception with :func:`raising`.

Nothing but small modules of the standard library is imported here, so that a command can listen
before it imports anything that takes long.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from .text import one_line

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAKE = signal.SIGURG
_WAITS = (0.02, 0.1, 0.5, 2.0)  # seconds; a busy machine may take long to come to the call
_PATIENCE = 2  # signals in a row for what puts itself in order
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, where Ctrl-C would be a plain ``KeyboardInterrupt``."""


def status(error: KeyboardInterrupt) -> int:
    """Exit status of a command that ``error`` has ended.

    128 and the number of the signal.
    """
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def sentence(error: KeyboardInterrupt) -> str:
    """What a command says that ``error`` has ended.

    The error's text, if it has one, stands behind.
    """
    word = _WORDS[signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT]
    return f"steer: {word}: {error}" if str(error) else f"steer: {word}"


class _Held:
    """One signal, noted while the block runs and delivered at its end."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self._noted = False
        self._before: Any = None

    def __enter__(self) -> None:
        # None is a handler that was not set by Python, and could not be put back.
        before = signal.getsignal(self._number)
        if before is not None and before != signal.SIG_IGN:
            self._before = before
            signal.signal(self._number, self._note)

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(self._number, self._before)
            if self._noted:
                signal.raise_signal(self._number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True


@contextmanager
def held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block ends.

    They are delivered there. The handlers are exchanged, and no signal is blocked: a signal to the
    process reaches whichever thread does not block it, and Python then calls the handler in the
    main thread nevertheless. Outside the main thread, where Python handles no signal, nothing is to
    be held. A process that is forked within the block begins with handlers that do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _Held(signal.SIGINT), _Held(signal.SIGTERM):
        yield


class _Command:
    """What the handlers of the running command go by."""

    def __init__(self) -> None:
        self.listens = False
        self.raises = 0
        self.asked: int | None = None  # the signal that was raised, and not forgiven
        self.heard = 0  # how many signals since then
        self.told: list[Callable[[], str]] = []
        self.endings: list[Callable[[], None]] = []


_command = _Command()


def listen() -> None:
    """End this process with a sentence at Ctrl-C or SIGTERM.

    From here on, and with status 130 or 143. A signal that is ignored stays so, as for any program
    that is started in the background.
    """
    if not _command.listens:
        _watch()
    _command.listens = True
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _hear)


def _watch() -> None:
    """Has a thread wake the main thread up after each signal.

    Python calls a handler between two lines of its own. A signal that comes after the last of them
    and before a system call that waits would not be seen until the call ends, with the next key
    that is typed say. Another signal, whose handler does nothing, ends the call.
    """
    # A stream that was closed before the start must not become an end of the pipe.
    while (spare := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(spare)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(_WAKE, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    main = threading.get_ident()

    def wake() -> None:
        while data := os.read(reader, 512):
            if any(number in data for number in SIGNALS):
                for wait in _WAITS:
                    time.sleep(wait)
                    signal.pthread_kill(main, _WAKE)

    threading.Thread(target=wake, daemon=True).start()


def deafen() -> None:
    """Hear nothing more.

    For a command that has said its last word, and is about to end.
    """
    if _command.listens:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def telling(state: Callable[[], str]) -> Iterator[None]:
    """Let the sentence at an interruption say what ``state`` returns.

    Within the block.
    """
    _command.told.append(state)
    try:
        yield
    except KeyboardInterrupt as error:
        raise type(error)(state()) from None
    finally:
        _command.told.remove(state)


@contextmanager
def at_the_end(ending: Callable[[], None]) -> Iterator[None]:
    """Call ``ending`` if a signal ends the process.

    A signal within the block.
    """
    _command.endings.append(ending)
    try:
        yield
    finally:
        _command.endings.remove(ending)


@contextmanager
def raising() -> Iterator[None]:
    """Raise Ctrl-C and SIGTERM as exceptions within the block.

    They are ``KeyboardInterrupt`` and :class:`Terminated`. Whatever then ends the block is an
    interruption, and if nothing does, as the exception was lost on its way, the process is ended
    behind it. A second signal does not disturb what the first one has begun; the third ends the
    process at once.
    """
    _command.raises += 1
    try:
        yield
    except BaseException as error:
        if _command.asked is None or isinstance(error, KeyboardInterrupt):
            raise
        raise _exception(_command.asked) from error
    finally:
        _command.raises -= 1
    if _command.asked is not None and not _command.raises:
        _end(_command.asked)


def check() -> None:
    """Raise an interruption that was raised before and got lost.

    Within :func:`raising`.
    """
    if _command.asked is not None:
        raise _exception(_command.asked)


def forgive(error: KeyboardInterrupt) -> None:
    """Go on after ``error``, but not at SIGTERM.

    ``error`` was meant for what it has stopped.
    """
    if isinstance(error, Terminated):
        raise error
    _command.asked, _command.heard = None, 0


def _exception(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _hear(number: int, frame: FrameType | None) -> None:
    _command.heard += 1
    if not _command.raises or _command.heard > _PATIENCE:
        _end(number)
    if _command.asked is None:
        _command.asked = number
        raise _exception(number)


def _end(number: int) -> None:
    """Says what was done and ends the process, whatever it was about to do."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    error = _exception(number)
    if _command.told:
        with suppress(Exception):
            error.args = (_command.told[-1](),)
    for ending in reversed(_command.endings):
        with suppress(Exception):
            ending()
    # Not through the stream, which may be in the middle of a write itself.
    if sys.__stderr__ is not None:  # as one is that was closed from the start
        with suppress(OSError):
            said = one_line(sentence(error)) + "\n"
            os.write(sys.__stderr__.fileno(), said.encode(errors="replace"))
    for other in SIGNALS:
        signal.signal(other, lambda *_: os._exit(128 + number))
    with suppress(Exception):
        sys.stdout.flush()  # whose reader may let us wait; the next signal ends that
    os._exit(128 + number)
