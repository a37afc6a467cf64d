"""``steer calibrate``: step scores of a pair, and their fit.

The router ``steer`` reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SteerError
from ..util.checks import one_of
from ..util.files import check_writable
from . import options as opt
from . import say
from .models import Models

if TYPE_CHECKING:
    from ..policies.fitted.calibration import Calibration


def calibrate(
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = None,
    router: Annotated[
        str, typer.Option("--router", help="Whose calibration: steer or both-sides.")
    ] = "steer",
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help='One prompt a line, or JSON lines with "prompt".'),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Demo problems of each domain.")] = 200,
    signal: Annotated[
        str, typer.Option("--signal", help="max-logit, max-prob, entropy or margin.")
    ] = "max-logit",
    promise: Annotated[
        bool,
        typer.Option(
            "--promise", help="For both-sides: what --router both-sides:loss=0.01 goes by."
        ),
    ] = False,
    compare: Annotated[
        str,
        typer.Option(
            "--compare",
            help="With --promise, what of two answers: text; or answer, where nothing else counts.",
        ),
    ] = "text",
    max_new_tokens: opt.MaxNewTokensOption = None,
    temperature: opt.TemperatureOption = 0.0,
    seed: opt.SeedOption = 0,
    chat: opt.ChatTemplateOption = None,
    template_arg: opt.TemplateArgOption = None,
    gamma: Annotated[
        float | None,
        typer.Option("--gamma", help="Least posterior of a confident step.  [default: 0.6]"),
    ] = None,
    large_share: Annotated[
        float | None,
        typer.Option("--large-share", help="Find gamma for this share of large-model tokens."),
    ] = None,
    cohort: Annotated[
        int | None,
        typer.Option(
            "--cohort", min=1, help="Answers at a time.  [default: 32 for the demo pair, else 1]"
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Picture of the mixtures: .png or .svg.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the calibration goes.")] = Path(
        "calibration.json"
    ),
) -> None:
    """Fit what a router needs to know of a pair.

    The pair answers prompts; two Gaussians are fitted to its step scores and saved. Each step is
    written by either model at even odds. A hundred prompts or more, like those that will be asked,
    make a calibration.

    With --large-share the prompts are run again with routing on, a few to twenty times, until the
    share of large-model tokens is within 0.02 of it; the calibration keeps the gamma that does it.

    With --router both-sides the signals and thresholds of that router are found instead, by what
    the large model makes of the small one's drafts; a few dozen prompts will do (--n 20).

    With --promise the answers of that router are compared with the large model's own, without
    labels, to see how far it may go for both-sides:loss=0.01 to hold: 300 prompts or more. Their
    texts are compared, or with --compare answer their final answers, which lets more pass; but only
    where nothing but the final answer makes a text right.

    Answers are kept beside --out as they come, and the same command goes on after an interruption.
    The file with them goes when the calibration is saved.

    Examples:

    - `steer calibrate --pair demo --router both-sides --n 20 --out sides.json`

    - `steer calibrate --pair demo --router both-sides --promise --out promise.json`

    - `steer calibrate --pair demo --signal margin --out margin.json --figure margin.png`

    - `steer calibrate --pair demo --large-share 0.3 --out demo-30.json`

    - `steer calibrate --small ID --large ID --prompts questions.txt --out pair.json`
    """
    from ..bench.kernels.plot import check_plot
    from ..core.sampling import Sampling
    from ..core.signals import get_signal
    from ..fitting import mixtures as calibration
    from ..preflight.pace import Work
    from .evaluate import DEMO_COHORT
    from .forecast import say_how_long
    from .resume import kept_beside, what_answers_depend_on
    from .view.scores import scores_table
    from .view.terminal import Bar, console

    if router not in ("steer", "both-sides"):
        raise SteerError(f"--router must be steer or both-sides, got {router!r}")
    one_of("--compare", compare, ("text", "answer"))
    if promise and router != "both-sides":
        raise SteerError("--promise is for --router both-sides")
    if router == "both-sides":
        _steer_only(
            signal=signal != "max-logit", gamma=gamma, large_share=large_share, figure=figure
        )
    models = Models(pair, small, large, dtype and dtype.value, device, threads)
    texts = _prompts(prompts, n, models)
    get_signal(signal)
    _check_aim(gamma, large_share)
    check_writable(out)
    if figure is not None:
        check_plot(figure, "--figure")
        check_writable(figure)
    Sampling(temperature)
    options = {
        "max_new_tokens": models.max_new_tokens(max_new_tokens),
        "temperature": temperature,
        "seed": seed,
        **opt.template_options(chat, template_arg),
    }
    if router == "both-sides":
        from .calibrate_promise import calibrate_promise
        from .calibrate_sides import calibrate_both_sides

        together = cohort or (DEMO_COHORT if models.demo else 1)
        if promise:
            calibrate_promise(models, texts, options, together, out, compare)
        else:
            calibrate_both_sides(models, texts, options, together, out)
        return
    loaded = models.load()
    together = cohort or (DEMO_COHORT if models.demo else 1)
    about = {**options, "cohort": together, "signal": signal, "large_share": large_share}
    settings = what_answers_depend_on(loaded, texts, router=router, **about)
    with kept_beside(out, settings) as kept:
        runs = calibration.runs_of(large_share)
        share = 0.5 if large_share is None else large_share
        work = Work(max(0, runs * len(texts) - kept.found), 1 - share, share)
        bound = "about" if large_share is None else "at most"
        say_how_long(loaded, texts[:together], options, [work], bound=bound)
        with Bar("answers", done=kept.found) as bar:
            run = calibration.Prompts(
                loaded, texts, signal, options, together, bar.advance, bar.expect, kept
            )
            aim = {"gamma": gamma} if gamma is not None else {"large_share": large_share}
            result, scores = calibration.calibrate(run, **aim)
        result.save(out)
        kept.finish()
    screen = console()
    screen.print(scores_table(result))
    screen.print(_said(result, len(texts), out), markup=False, soft_wrap=True)
    for doubt in _doubts(result):
        say.note(doubt)
    if figure is not None:
        from ..fitting.plot import draw

        draw(result, scores, figure)
        screen.print(f"the mixtures are drawn in {figure}", markup=False, soft_wrap=True)


def _check_aim(gamma: float | None, large_share: float | None) -> None:
    if gamma is not None and large_share is not None:
        raise SteerError("give either --gamma or --large-share, not both")
    if gamma is not None and not 0 <= gamma <= 1:
        raise SteerError(f"--gamma must lie in [0, 1], got {gamma}")
    if large_share is not None and not 0 < large_share < 1:
        raise SteerError(f"--large-share must lie between 0 and 1, got {large_share}")


def _said(result: Calibration, prompts: int, out: Path) -> str:
    """What was made; and plainly, if a share was asked for and could not be had."""
    from ..fitting.mixtures import CLOSE

    settings: dict[str, Any] = dict(result.settings)
    text = f"calibration of {prompts} prompts is in {out}; gamma {settings['gamma']:.4g}"
    if "achieved_share" not in settings:
        return text
    achieved, target = settings["achieved_share"], settings["large_share"]
    text += f" gives {achieved:.1%} of the tokens to the large model, asked for {target:.1%}"
    if abs(achieved - target) > CLOSE:
        text += " (posteriors near 0 and 1 leave no gamma between: try another --signal)"
    return text


def _doubts(result: Calibration) -> list[str]:
    """Where the mixtures say little, and what the router then does."""
    from ..policies.fitted.calibration import LAST_BIN
    from ..policies.fitted.mixture import CLEAR

    found = []
    for writer, fits in result.fits.items():
        whole = fits.get(-1)
        if whole is None:
            found.append(
                f"the scores of the {writer} model's steps do not separate into two components: "
                "where no bin has a fit of its own, the large model writes the next step; give "
                "more prompts, or another --signal"
            )
            continue
        if whole.separation < CLEAR:
            found.append(
                f"the two components of the {writer} model's scores overlap, "
                f"{whole.separation:.1f} deviations apart where {CLEAR:g} can be told: posteriors "
                "say little; try another --signal"
            )
        bare = [key for key in range(LAST_BIN + 1) if key not in fits]
        if bare:
            steps = ", ".join(f"{key}+" if key == LAST_BIN else str(key) for key in bare)
            found.append(
                f"no fit for step {steps} of the {writer} model: that of all its steps stands in"
            )
    return found


def _prompts(path: Path | None, n: int, models: Models) -> list[str]:
    if path is not None:
        from ..evaluation.tasks.lines import read_prompts

        return read_prompts(path)
    if not models.demo:
        raise SteerError("--prompts is missing: give a file with questions for this pair")
    from ..demo import DOMAINS, problems

    if n < 1:
        raise SteerError(f"--n must be at least 1, got {n}")
    try:
        return [p.prompt for name in DOMAINS for p in problems(name, n, split="calibration")]
    except ValueError as error:
        raise SteerError(str(error)) from error


def _steer_only(**given: object) -> None:
    for name, value in given.items():
        if value:
            raise SteerError(
                f"--{name.replace('_', '-')} is for --router steer: leave it out, both-sides finds "
                "its signals and thresholds itself"
            )
