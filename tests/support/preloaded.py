"""Programs in processes of their own that need not import anything: forks of one that has.

Starting Python with torch and transformers takes seconds of a core, a fork of a process that has
them a few hundredths. The fork becomes what a fresh program would be: streams, environment, folder,
session and handlers of signals are its own, it has one thread, and what is to run at the end does.
It does not show what importing modules does, nor taking them apart, so the tests run with a fresh
Python too, as slow ones: they take `launch` from conftest, which is `forked` or `started`.

    with forked(["-m", "steer_decode", "info"]) as program:
        out, err = program.communicate()

The process that is forked is `forks.py`. It ends with the tests.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from support import forks
from support.forks import becoming

PATIENCE = 600.0  # seconds, after which a program that hangs is killed and said to hang


class Program:
    """A forked program, with those names of `subprocess.Popen` that the tests use.

    Args:
        args: what would follow ``python``: ``-m MODULE``, ``-c CODE`` or a path, and its arguments.
        streams: descriptors of its stdin, stdout and stderr. Without them, stdin is empty and the
            others are text files of this object.
        environment: what differs from that of the tests; None where there is to be no such entry.
        terminal: whether its stdin is the terminal that is to control it.
        session: whether it leads a session of its own, as with a terminal.
        having: what it has imported: "everything", or a module's name.
    """

    def __init__(
        self,
        args: Sequence[str],
        *,
        streams: tuple[int, int, int] | None = None,
        environment: Mapping[str, str | None] | None = None,
        terminal: bool = False,
        session: bool = False,
        having: str = "everything",
    ) -> None:
        self.returncode: int | None = None
        self._having = having
        asked = {
            "args": [str(arg) for arg in args],
            "environment": _environment(environment),
            "folder": os.getcwd(),
            "terminal": terminal,
            "session": session or terminal,
        }
        if streams is not None:
            self.pid = _ask(having, asked, streams)
            return
        with open(os.devnull) as nothing:
            out, theirs_out = os.pipe()
            err, theirs_err = os.pipe()
            self.pid = _ask(having, asked, (nothing.fileno(), theirs_out, theirs_err))
        os.close(theirs_out)
        os.close(theirs_err)
        self.stdout: TextIO = open(out, encoding="utf-8")  # noqa: SIM115
        self.stderr: TextIO = open(err, encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.poll() is None:
            self.kill()
            self.wait()

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(self._having, {"wait": self.pid})
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """Reads both streams to their ends and waits; returns what was left to read."""
        read: dict[str, str] = {}
        with self.stdout, self.stderr:
            threads = [
                threading.Thread(target=lambda n=n: read.update({n: getattr(self, n).read()}))
                for n in ("stdout", "stderr")
            ]
            for thread in threads:
                thread.start()
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            finally:
                for thread in threads:
                    thread.join()
        return read["stdout"], read["stderr"]


def forked(args: Sequence[str], **how: Any) -> Program:
    """A program that is forked, see :class:`Program`."""
    return Program(args, **how)


def started(
    args: Sequence[str],
    *,
    streams: tuple[int, int, int] | None = None,
    environment: Mapping[str, str | None] | None = None,
    terminal: bool = False,
    session: bool = False,
    having: str = "",
) -> subprocess.Popen[str]:
    """The same with a fresh Python, which has imported nothing."""
    stdin, stdout, stderr = streams or (subprocess.DEVNULL, subprocess.PIPE, subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, *(str(arg) for arg in args)],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=session or terminal,
        preexec_fn=functools.partial(becoming, terminal),
        env=_environment(environment),
    )


Launch = Callable[..., Any]  # forked or started


def _environment(more: Mapping[str, str | None] | None = None) -> dict[str, str]:
    whole = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(more or {})}
    return {name: value for name, value in whole.items() if value is not None}


@functools.cache
def _door(having: str) -> socket.socket:
    """The socket to a process that is forked, which is started when it is first asked."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    process = subprocess.Popen(
        [sys.executable, forks.__file__, str(theirs.fileno()), having],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,  # no Ctrl-C of the tests' reaches it; it ends with them anyhow
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _ask(having: str, asked: dict[str, Any], streams: Sequence[int] = ()) -> Any:
    door = _door(having)
    socket.send_fds(door, [json.dumps(asked).encode()], list(streams))
    answer = door.recv(1 << 16)
    assert answer, "the process that is forked has ended"
    return json.loads(answer)
