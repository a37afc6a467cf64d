"""Makes the promise of ``both-sides``.

Its answers are compared with the large model's own, without labels. What follows from them is in
``policies/fitted/promise.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.events import RoutedOutput
from ..errors import SteerError
from ..policies import AlwaysLarge, BothSides
from ..policies.fitted.promise import Promise, Rung, fewest_prompts
from .mixtures import Prompts

PART, LEAST = 16, 0.5
BARS = (0.999, 0.99, 0.98, 0.95, 0.9, 0.8)
FEWEST = 20


def make_promise(
    run: Prompts,
    said: Callable[[str], str],
    compare: str = "text",
    part: int = PART,
    least: float = LEAST,
    bars: Sequence[float] = BARS,
) -> Promise:
    """Compare answers with those of the large model alone.

    They are written at falling bars.

    Args:
        run: pair, prompts and options.
        said: what of a text counts: two of which it is the same are right or wrong alike.
        compare: its name, for the reader.
        part, least: of the drafts.
        bars: of sureness, falling.

    Raises:
        SteerError: as :func:`check_promise`.
    """
    check_promise(run.options, len(run.prompts))
    run.expects((1 + len(bars)) * len(run.prompts), "")
    # Answers come as they end; by their prompts they are found again.
    own = {_prompt(output): said(output.text) for output in run.answers(AlwaysLarge())}
    rungs = []
    for sure in bars:
        routed = list(run.answers(BothSides(part=part, least=least, sure=sure)))
        differ = sum(said(output.text) != own[_prompt(output)] for output in routed)
        rungs.append(Rung(sure, len(routed), differ))
    settings = {"prompts": len(run.prompts), "compare": compare, **run.options}
    return Promise(run.pair.fingerprint, part, least, rungs, settings)


def _prompt(output: RoutedOutput) -> tuple[int, ...]:
    return tuple(output.trace.prompt_ids)


def check_promise(options: Mapping[str, Any], prompts: int) -> None:
    """Refuse what no promise can be made of.

    Raises:
        SteerError: too few prompts; or another temperature than 0, where the large model's own
            answers differ from each other.
    """
    if options.get("temperature", 0.0):
        raise SteerError(
            f"temperature must be 0 for a promise, got {options['temperature']}: above it "
            "two answers of the large model itself differ; nothing needs to be promised there, "
            "as both-sides:loss=... reads every draft and loses nothing"
        )
    if prompts < FEWEST:
        raise SteerError(
            f"a promise needs at least {FEWEST} prompts, and {fewest_prompts(0.01)} for a loss of "
            f"0.01, got {prompts}: give more"
        )
