"""``steer generate``: one routed answer, shown as it is written."""

from __future__ import annotations

from contextlib import closing, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ServerError, SteerError
from ..util.files import check_writable
from ..util.interruption import check, raising
from . import options as opt
from . import say
from .asking import Asking
from .going_on import Kept, check_models, options_of, question_of, resumed
from .models import Models
from .prompt import read_question
from .routers import make_policy

if TYPE_CHECKING:
    from ..core.events import Event
    from ..core.saved import SavedAnswer
    from ..core.transcript import Writer
    from ..decode.stream import RoutedStream
    from ..policies import Policy
    from ..util.progress import Lines


class View(str, Enum):
    auto = "auto"
    trace = "trace"
    text = "text"
    json = "json"


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The question; `-` or nothing reads standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read the question here.")] = None,
    problem: Annotated[
        str | None,
        typer.Option("--problem", help="Ask a test problem of the demo: `DOMAIN[:INDEX]`."),
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option("--ids", help="Token ids as the prompt, as in `1,2,3`, or a file of them."),
    ] = None,
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    small_url: opt.SmallUrlOption = None,
    large_url: opt.LargeUrlOption = None,
    tokenizer: opt.TokenizerOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = None,
    overlap: opt.OverlapOption = False,
    router: opt.RouterOption = "steer",
    calibration: opt.CalibrationOption = None,
    gamma: opt.GammaOption = None,
    threshold: opt.ThresholdOption = None,
    share: opt.ShareOption = None,
    signal: opt.SignalOption = None,
    max_new_tokens: opt.MaxNewTokensOption = None,
    temperature: opt.TemperatureOption = 0.0,
    top_p: opt.TopPOption = 1.0,
    top_k: opt.TopKOption = 0,
    min_p: opt.MinPOption = 0.0,
    seed: opt.SeedOption = 0,
    chat: opt.ChatTemplateOption = None,
    template_arg: opt.TemplateArgOption = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Let each model answer alone as well.")
    ] = False,
    view: Annotated[
        View,
        typer.Option("--view", help="`auto`: trace on a terminal, else the text of kept steps."),
    ] = View.auto,
    json: Annotated[bool, typer.Option("--json", help="One JSON document, at the end.")] = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write that document to a file.")
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the trace as a picture.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Go on with the answer of this trace, and write it there."),
    ] = None,
) -> None:
    """Answer a question with a small and a large model.

    With --view text, standard output is the answer exactly as it was written, for another program.
    At a terminal its control characters are shown instead of sent.

    Examples:

    - `steer generate --problem planning:7 --router first-token --compare`

    - `steer generate "Compute 13 -4 +7 -9 +4 -3 ?" --router first-token:threshold=0.4`

    - `steer generate --small Qwen/Qwen3-0.6B --large Qwen/Qwen3-8B --threshold 24 --file q.txt`

    - `echo "Who is Ada .mentor .rival .mentor ?" | steer generate --json | jq .cost`

    - `steer generate --small-url URL --large-url URL --threshold 24 --trace t.json "..."`

    - `steer generate --small-url URL --large-url URL --threshold 24 --resume t.json`
    """
    models = Models(
        pair, small, large, dtype and dtype.value, device, threads, small_url, large_url, tokenizer
    )
    template = opt.template_options(chat, template_arg)
    broken = resumed(resume, (prompt, file, problem, ids), template)
    question = (
        question_of(broken, models) if broken else read_question(prompt, file, problem, models, ids)
    )
    if question.ids is not None and template:
        raise SteerError(
            "--ids are token ids, which no template sees: leave out --chat, "
            "--raw and --template-arg"
        )
    policy = make_policy(
        router, models, calibration, gamma=gamma, threshold=threshold, share=share, signal=signal
    )
    if models.remote:
        from ..decode.elsewhere import check_served

        check_served(policy)  # before servers are asked
    trace = trace or resume
    for file in (trace, svg):
        if file is not None:
            check_writable(file)
    sampling = {
        "max_new_tokens": max_new_tokens if broken else models.max_new_tokens(max_new_tokens),
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "seed": seed,
        **template,
    }
    if broken and resume:
        sampling = options_of(broken, resume, sampling)
    loaded = models.open()
    if broken and resume:
        check_models(broken, resume, loaded)
    shown = question if broken else question.shown(loaded)
    asking = Asking(loaded, models, shown, sampling, broken, overlap)
    kept = Kept.of(trace, broken, models.remote)
    # A trace is to be written, of as much of the answer as there is.
    with raising(), closing(loaded):
        _answer(asking, policy, View.json if json else view, compare, kept, svg)


def _answer(
    asking: Asking,
    policy: Policy,
    view: View,
    compare: bool,
    kept: Kept,
    svg: Path | None,
) -> None:
    from ..core.saved import document
    from ..policies import AlwaysLarge, AlwaysSmall
    from ..util.files import write_whole
    from .view import answer as render
    from .view.terminal import console, lines

    screen = console()
    if view is View.auto:
        view = View.trace if screen.is_terminal else View.text
    stream = asking.begin(policy)
    asking.question.warn(asking.pair)
    controls: dict[Writer, Policy] = {"small": AlwaysSmall(), "large": AlwaysLarge()}
    alone: dict[Writer, SavedAnswer] = {}
    kept.document = lambda: document(asking.answer(stream), alone)
    if compare:
        for control in controls.values():
            # The first pass of a model pays for set-up; it must not fall to the routed answer.
            next(asking.stream(control))
    try:
        if view is View.trace:
            screen.print(render.title(asking.answer(stream)), "")
        limit = asking.sampling["max_new_tokens"]
        with lines("tokens", limit, "at most") as told:
            _follow(stream, policy, view, screen, told, kept)
        answer = asking.answer(stream)
        if view is View.trace:
            screen.print("", render.summary(answer))
        elif view is View.text and answer.correct is not None:
            say.note(str(render.verdict(answer.correct)))
        if compare:
            for writer, control in controls.items():
                other = asking.stream(control)
                with lines(f"tokens of the {writer} model alone", limit, "at most") as told:
                    for event in other:
                        check()
                        _count(event, other, told)
                alone[writer] = asking.answer(other)
            if view is not View.json:
                # Standard output is the answer and nothing else where it is not the trace.
                place = screen if view is View.trace else console(stderr=True)
                place.print("", render.comparison(answer, alone))
    finally:
        kept.end(stream)
    if view is View.json:
        say.out(document(answer, alone))
    if svg is not None:
        write_whole(svg, render.svg(answer, alone))


def _count(event: Event, stream: RoutedStream, told: Lines) -> None:
    """Counts the tokens that stay so far."""
    from ..core.events import StepClosed, TextDelta

    if isinstance(event, TextDelta):
        told.advance()
    elif isinstance(event, StepClosed):
        told.at(sum(len(step.token_ids) for step in stream.trace.kept))


def _follow(
    stream: RoutedStream, policy: Policy, view: View, screen: Any, told: Lines, kept: Kept
) -> None:
    """Runs ``stream`` to its end and shows it; says in the trace if it was cut off.

    Args:
        told: speaks up where nothing is shown for long.
        kept: where the trace is written.
    """
    from ..core.events import StepClosed
    from .view.trace import TracePrinter, TraceView

    printer = TracePrinter(screen, TraceView.of(policy)) if view is View.trace else None
    text = ""
    try:
        with printer or nullcontext():
            for event in stream:
                check()
                _count(event, stream, told)
                if isinstance(event, StepClosed):
                    kept.step(stream)
                if printer is not None:
                    printer.show(event)
                    told.spoke()
                elif view is not View.text or not isinstance(event, StepClosed):
                    continue
                elif not event.step.discarded:
                    text = event.step.text
                    say.out(text, end="", data=True)
                    told.spoke()
    except BaseException as error:
        if isinstance(error, ServerError):
            stream.trace.stop_reason = "server"
            raise kept.told(error) from error
        broken = isinstance(error, SteerError)
        stream.trace.stop_reason = "error" if broken else "interrupted"
        raise
    if view is View.text and not text.endswith("\n"):
        say.out()
