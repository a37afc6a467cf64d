"""What was fitted to step scores."""

from __future__ import annotations

from rich.table import Table

from ...policies.fitted.calibration import Calibration


def scores_table(calibration: Calibration) -> Table:
    """The mixtures, a row for each writer and bin."""
    table = Table(box=None, header_style="dim")
    table.add_column("written by")
    for column in (
        "step",
        "scores",
        "confident %",
        "unconfident",
        "sd",
        "confident",
        "sd",
        "apart",
    ):
        table.add_column(column, justify="right")
    for writer, counts in calibration.counts.items():
        for key, number in sorted(counts.items(), key=lambda item: item[0] % 100):
            step = "all" if key < 0 else f"{key}+" if key == 4 else str(key)
            fit = calibration.fits[writer].get(key)
            figures = (
                ["no fit"]
                if fit is None
                else [
                    f"{100 * fit.weight_c:.0f}",
                    f"{fit.mean_u:.2f}",
                    f"{fit.var_u**0.5:.2f}",
                    f"{fit.mean_c:.2f}",
                    f"{fit.var_c**0.5:.2f}",
                    f"{fit.separation:.1f}",
                ]
            )
            table.add_row(writer, step, str(number), *figures)
    return table
