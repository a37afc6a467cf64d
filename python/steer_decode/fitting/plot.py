"""The fitted mixtures as a picture.

Scores and both Gaussians, by writer and step index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.transcript import WRITERS, Writer
from ..policies.fitted.calibration import LAST_BIN, Calibration
from ..policies.fitted.mixture import TwoGaussians
from ..util.files import replacing
from ..util.palette import SURE, UNSURE

_COLOURS = {"unconfident": UNSURE.light, "confident": SURE.light}


def draw(
    calibration: Calibration, scores: Mapping[Writer, Mapping[int, Sequence[float]]], path: Path
) -> None:
    """Draw a histogram of scores for each step-index bin.

    What was fitted to it is drawn as well. As figure 2 of STEER (arXiv 2511.06190), one row a
    writer. The suffix of ``path`` chooses the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bins = range(LAST_BIN + 1)
    figure, axes = pyplot.subplots(
        len(WRITERS), len(bins), figsize=(2.6 * len(bins), 5), sharex="row", layout="constrained"
    )
    for row, writer in zip(axes, WRITERS, strict=True):
        for axis, key in zip(row, bins, strict=True):
            values = np.asarray(scores[writer].get(key, ()))
            step = f"step {key}" if key < LAST_BIN else f"steps {key} and later"
            axis.set_title(f"{writer} model, {step}, n = {len(values)}", fontsize=8)
            axis.set_yticks([])
            if not len(values):
                continue
            axis.hist(values, bins=30, density=True, color="#cccccc")
            fitted = calibration.fits[writer].get(key)
            if fitted is None:
                axis.text(0.05, 0.9, "no fit", transform=axis.transAxes, fontsize=8)
            else:
                _curves(axis, fitted, values)
    axes[-1][0].legend(fontsize=7, frameon=False)
    figure.supxlabel(f"step confidence ({calibration.signal})")
    try:
        with replacing(path) as place:
            figure.savefig(place, dpi=150)
    finally:
        pyplot.close(figure)


def _curves(axis: object, fitted: TwoGaussians, values: np.ndarray) -> None:
    x = np.linspace(values.min(), values.max(), 300)
    parts = {
        "unconfident": (1 - fitted.weight_c, fitted.mean_u, fitted.var_u),
        "confident": (fitted.weight_c, fitted.mean_c, fitted.var_c),
    }
    for name, (weight, mean, var) in parts.items():
        y = weight * np.exp(-((x - mean) ** 2) / (2 * var)) / np.sqrt(2 * np.pi * var)
        axis.plot(x, y, color=_COLOURS[name], label=name)  # type: ignore[attr-defined]
