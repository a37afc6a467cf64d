"""The process that `preloaded.py` has forked: it imports once, and becomes any program.

    forks.py SOCKET everything | MODULE

It ends when the other end of its socket is closed, as it is when the tests have ended.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import termios
import threading
from typing import Any


def becoming(terminal: bool) -> None:
    """Has signals end the program, and its terminal send it Ctrl-C."""
    default_signals()
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def default_signals() -> None:
    """Has Ctrl-C end a program, which it does not where a script runs it in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve(door: socket.socket) -> dict[str, Any]:
    """Forks whenever it is asked to; returns in the child, and ends with the other side."""
    while True:
        message, streams, _, _ = socket.recv_fds(door, 1 << 20, 3)
        if not message:
            os._exit(0)
        asked = json.loads(message)
        if "wait" in asked:
            ended, status = os.waitpid(asked["wait"], os.WNOHANG)
            answer: Any = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if not answer:
                door.close()
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                return dict(asked)
            for stream in streams:
                os.close(stream)
        door.send(json.dumps(answer).encode())


def _become(asked: dict[str, Any]) -> None:
    """Makes of this child the program that was asked for, and runs it."""
    if asked["session"]:
        os.setsid()
    becoming(asked["terminal"])
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc] # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        errors = "strict" if number == 1 else "backslashreplace"
        stream = open(number, "w", closefd=False, errors=errors)  # noqa: SIM115
        by_line = number == 2 or stream.isatty()
        stream.reconfigure(write_through=unbuffered, line_buffering=by_line)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    first, *rest = asked["args"]
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def _run(asked: dict[str, Any]) -> int:
    """The program's status, with whatever Python would say of how it ended."""
    try:
        _become(asked)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(status: int) -> None:
    """Ends as Python does, but for taking thousands of modules apart, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


def _import_everything() -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401
    from steer_decode.cli import eval_run  # noqa: F401
    from steer_decode.cli.chat import conversations, room  # noqa: F401
    from steer_decode.evaluation import evaluate, summary, tasks  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    door = socket.socket(fileno=int(sys.argv[1]))
    if sys.argv[2] == "everything":
        _import_everything()
    else:
        importlib.import_module(sys.argv[2])
    default_signals()
    gc.collect()
    gc.freeze()  # what is shared with the forks stays shared
    _end(_run(_serve(door)))


if __name__ == "__main__":
    main()
