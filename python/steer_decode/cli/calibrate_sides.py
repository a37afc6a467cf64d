"""``steer calibrate --router both-sides``: signals and thresholds without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from ..policies.fitted.both_sides import BothSidesCalibration
    from .models import Models


def calibrate_both_sides(
    models: Models, prompts: Sequence[str], options: dict[str, Any], cohort: int, out: Path
) -> None:
    """Make the calibration, save it, and say what was found."""
    from ..core.signals import SIGNALS
    from ..fitting.both_sides import calibrate_sides
    from ..fitting.mixtures import Prompts
    from ..preflight.pace import Work
    from .forecast import say_how_long
    from .resume import kept_beside, what_answers_depend_on
    from .view.terminal import Bar, console

    loaded = models.load()
    about = {**options, "cohort": cohort, "signals": list(SIGNALS)}
    settings = what_answers_depend_on(loaded, prompts, router="both-sides", **about)
    with kept_beside(out, settings) as kept:
        # The large model alone, then drafts of the small one that the large one reads; the places
        # of the schedule, which are found on the way, come on top.
        of_large = max(0, len(prompts) - kept.found)
        drafted = max(0, (1 + len(SIGNALS)) * len(prompts) - kept.found - of_large)
        work = [Work(of_large, 0, 1), Work(drafted, 1, 1)]
        say_how_long(loaded, prompts[:cohort], options, work, bound="at least")
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
            made = calibrate_sides(run)
        made.save(out)
        kept.finish()
    screen = console()
    screen.print(_told(made))
    screen.print(_plans(made))
    told = made.agreement
    screen.print(
        f"{len(prompts)} prompts, {told['drafts']} drafts, {told['with_consent']} of them with the "
        "large model's consent (its own likeliest tokens, or a mean log-probability of "
        f"{told['consent_at']:g} or more)\n"
        f"saved in {out}: --router both-sides:share=0.3:path={out}",
        markup=False,
        soft_wrap=True,
    )


def _told(made: BothSidesCalibration) -> Table:
    from rich.table import Table

    table = Table(title="what tells drafts with consent from others, AUROC", title_justify="left")
    for column in ("signal", "first token", "weakest token", "mean"):
        table.add_column(column)
    for name, found in made.agreement["auroc"].items():
        table.add_row(name, *(f"{found[way]:.3f}" for way in ("first", "min", "mean")))
    return table


def _plans(made: BothSidesCalibration) -> Table:
    from rich.table import Table

    table = Table(title="what was chosen by each cost", title_justify="left")
    for column in ("cost", "signal", "drafts read", "hold", "shares seen", "forecast area"):
        table.add_column(column)
    for cost, plan in made.plans.items():
        inner = plan.knots[1:-1] or plan.knots
        first = inner[0].thresholds
        refused = "mended" if plan.fix == "token" else "written anew"
        read = f"in doubt, {refused}" if first.doubt < first.sure else "none"
        shares = ", ".join(f"{knot.share:.2f}" for knot in inner)
        area = made.agreement["forecast_area"][cost]
        table.add_row(
            cost, f"{plan.signal}, {plan.over}", read, f"{first.hold:.2g}", shares, f"{area:.3f}"
        )
    return table
