"""``steer calibrate --router both-sides --promise``.

It finds out how far the router may go.
Answers are compared with the large model's own, without labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.tasks.final import final_answer
from . import say

if TYPE_CHECKING:
    from rich.table import Table

    from ..policies.fitted.promise import Promise
    from .models import Models

# What two answers are compared by. The text is safe whatever the checker looks at.
COMPARED: dict[str, Callable[[str], str]] = {"text": str, "answer": final_answer}
LOSSES = (0.005, 0.01, 0.02, 0.05)


def calibrate_promise(
    models: Models,
    prompts: Sequence[str],
    options: dict[str, Any],
    cohort: int,
    out: Path,
    compare: str = "text",
) -> None:
    """Make the promise, save it, and say what holds."""
    from ..fitting.mixtures import Prompts
    from ..fitting.promises import BARS, check_promise, make_promise
    from ..preflight.pace import Work
    from .forecast import say_how_long
    from .resume import kept_beside, what_answers_depend_on
    from .view.terminal import Bar, console

    check_promise(options, len(prompts))
    loaded = models.load()
    about = {**options, "cohort": cohort, "bars": list(BARS)}
    settings = what_answers_depend_on(loaded, prompts, router="both-sides-promise", **about)
    with kept_beside(out, settings) as kept:
        of_large = max(0, len(prompts) - kept.found)
        routed = max(0, (1 + len(BARS)) * len(prompts) - kept.found - of_large)
        work = [Work(of_large, 0, 1), Work(routed, 1, 0.5)]
        say_how_long(loaded, prompts[:cohort], options, work)
        with Bar("answers", done=kept.found) as bar:
            run = Prompts(
                loaded,
                prompts,
                options=options,
                cohort=cohort,
                progress=bar.advance,
                expects=bar.expect,
                kept=kept,
            )
            made = make_promise(run, COMPARED[compare], compare)
        made.save(out)
        kept.finish()
    screen = console()
    screen.print(_bars(made))
    for loss in LOSSES:
        screen.print(_said(made, loss), markup=False, soft_wrap=True)
    screen.print(
        f"saved in {out}: --router both-sides:loss=0.01:path={out}", markup=False, soft_wrap=True
    )
    if made.sure(0.01) >= 1:
        say.note(_short(made, 0.01))


def _bars(made: Promise) -> Table:
    from rich.table import Table

    table = Table(
        title=f"answers whose {made.settings['compare']} differs from the large model's own"
    )
    table.title_justify = "left"
    for column in ("stays unread from", "answers", "differ"):
        table.add_column(column, justify="right")
    for bar in made.bars:
        table.add_row(f"{bar.sure:g}", str(bar.asked), str(bar.differ))
    return table


def _said(made: Promise, loss: float) -> str:
    sure = made.sure(loss)
    what = f"tokens from {sure:g} on stay unread" if sure < 1 else "every draft is read"
    return f"loss={loss:g}: {what}"


def _short(made: Promise, loss: float) -> str:
    from ..policies.fitted.promise import fewest_prompts

    asked = made.bars[0].asked
    least = fewest_prompts(loss)
    if asked < least:
        return (
            f"{asked} prompts cannot promise a loss of {loss:g} at 95 % confidence, whatever the "
            f"answers: {least} are needed; until then every draft is read, which loses nothing"
        )
    return (
        f"a loss of {loss:g} cannot be promised: too many answers differ at the first bar; every "
        "draft is read, which loses nothing"
    )
