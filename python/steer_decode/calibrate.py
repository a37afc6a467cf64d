"""Makes a calibration: runs a pair over prompts, gathers scores, fits a mixture to each bin."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from . import mixture
from .calibration import Calibration, index_bin
from .mixture import TwoGaussians
from .pair import Pair
from .policies import RandomShare
from .router import Router
from .signals import get_signal
from .transcript import WRITERS, Writer


def calibrate(
    pair: Pair,
    prompts: Sequence[str],
    *,
    signal: str = "max-logit",
    max_new_tokens: int = 1024,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> Calibration:
    """Fits the score mixtures of ``pair`` on ``prompts``.

    Each step is written by either model at even odds, so that both are seen after their own steps
    and after the other's, as they will be under routing.

    Args:
        pair: the models to calibrate.
        prompts: texts like those that will be asked; a hundred or more.
        signal: name of the signal whose mean over a step is the score.
        max_new_tokens, temperature, seed: as they will be used.
        progress: called after each prompt.
    """
    read = get_signal(signal)
    router = Router(pair, RandomShare(0.5, read))
    scores: dict[Writer, dict[int, list[float]]] = {w: defaultdict(list) for w in WRITERS}
    for i, prompt in enumerate(prompts):
        output = router.generate(
            prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed + i
        )
        for step in output.trace.kept:
            if step.closed:
                for key in (index_bin(step.index), -1):
                    scores[step.writer][key].append(read.confidence(step.score))
        progress()
    fits: dict[Writer, dict[int, TwoGaussians]] = {w: {} for w in WRITERS}
    for writer in WRITERS:
        for key, values in sorted(scores[writer].items()):
            fitted = mixture.fit(values)
            if fitted is not None:
                fits[writer][key] = fitted
    counts = {w: {key: len(values) for key, values in sorted(scores[w].items())} for w in WRITERS}
    settings = {"prompts": len(prompts), "temperature": temperature, "seed": seed}
    return Calibration(pair.fingerprint, read.name, fits, counts, settings)
