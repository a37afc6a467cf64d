"""The ``steer`` command.

Exit status: 0; 2 after bad input, with one sentence on standard error; 130 after Ctrl-C and 143
after SIGTERM, likewise; 141 when the reader of standard output has gone (128 + SIGPIPE, as for any
program in a pipe).
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import OutputError, SteerError
from ..util.interruption import deafen, listen, sentence, status
from ..util.text import printable
from . import say
from .bench import bench
from .calibrate import calibrate
from .chat import chat
from .check import check
from .evaluate import evaluate
from .export_generate import export_generate
from .generate import generate
from .info import info
from .lm_eval import lm_eval
from .records import records
from .report import report
from .serve import serve
from .show import show
from .simulate import simulate
from .train_router import train_router
from .vllm_args import vllm_args

BAD_INPUT, PIPE_CLOSED = 2, 141

# Base of all of typer's own errors; since typer carries its own click, no public name leads there.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]


class _Group(TyperGroup):
    """Turns every foreseeable failure into one sentence and an exit status."""

    def main(self, *args: Any, **extra: Any) -> Any:
        standalone = extra.get("standalone_mode", True)
        extra["standalone_mode"] = False
        try:
            left = super().main(*args, **extra)
            sys.stdout.flush()
        except _UsageError as error:
            left = _fail(error.format_message())  # type: ignore[attr-defined]
        except BrokenPipeError:
            left = _pipe_closed()
        if not standalone:
            return left
        sys.exit(left if isinstance(left, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise typer.Exit(_pipe_closed()) from None
        except SteerError as error:
            raise typer.Exit(_fail(str(error))) from error
        except OSError as error:
            name = f" {error.filename!r}" if error.filename else ""
            raise typer.Exit(_fail(f"{error.strerror or error}{name}")) from error
        except KeyboardInterrupt as error:
            deafen()
            say.note(sentence(error).removeprefix("steer: "))
            raise typer.Exit(status(error)) from None


def _fail(message: str) -> int:
    with contextlib.suppress(OSError, OutputError):  # nobody is left to be told
        say.note(message)
    return BAD_INPUT


def _pipe_closed() -> int:
    # What is still buffered must not fail again when the interpreter flushes it at its end.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


app = typer.Typer(cls=_Group, add_completion=False, rich_markup_mode="markdown")
app.command()(generate)
app.command()(chat)
app.command()(serve)
app.command()(check)
app.command("eval")(evaluate)
app.command()(calibrate)
app.command()(report)
app.command("lm-eval")(lm_eval)
app.command("train-router")(train_router)
app.command()(show)
app.command()(simulate)
app.command("export-generate")(export_generate)
app.command("vllm-args")(vllm_args)
app.command()(info)
app.add_typer(bench, name="bench")
app.add_typer(records, name="records")


def _version(wanted: bool) -> None:
    if wanted:
        try:
            say.out(f"steer-kernels {version('steer-kernels')}")
        except PackageNotFoundError:
            say.out("steer-kernels, not installed")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def steer(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Two language models write one answer.

    The small one where it is sure, else the large one.
    """
    if ctx.invoked_subcommand is None:
        say.out(ctx.get_help())


def main() -> None:
    """Run the command of ``sys.argv``, and end the interpreter."""
    listen()
    # A stream that was closed before the start (`>&-`) is None; what is read or written is nothing.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    # A terminal that cannot show a character shows a question mark; it does not stop the answer.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    say.guard()
    try:
        app(prog_name="steer")
    except Exception:  # a fault of ours; what it is about may be in the words of somebody else
        sys.stderr.write(printable(traceback.format_exc()))
        sys.exit(1)
    finally:
        deafen()


__all__ = ["app", "main"]
