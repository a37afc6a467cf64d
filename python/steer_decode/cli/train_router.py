"""``steer train-router``: routers that want more than a threshold.

They are fitted or trained.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SteerError
from ..util.files import check_writable
from . import options as opt
from .models import Models

if TYPE_CHECKING:
    from ..fitting import CheckedPrompt
    from ..models.pair import Pair
    from ..util.partial import Partial


class Kind(str, Enum):
    policy_guided = "policy-guided"
    roro = "roro"
    ecotab = "ecotab"
    corea = "corea"


_NETWORKS = (Kind.policy_guided, Kind.roro)
# What each kind listens to beside --n, --seed, --max-new-tokens and --out.
_OWN = {
    Kind.policy_guided: ("share", "iterations"),
    Kind.roro: ("share", "iterations", "judge"),
    Kind.ecotab: (),
    Kind.corea: ("signal", "over"),
}


def train_router(
    kind: Annotated[Kind, typer.Argument(help="Which router.", show_default=False)],
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = None,
    n: Annotated[int, typer.Option("--n", help="Demo problems of each domain.")] = 200,
    share: Annotated[
        float | None,
        typer.Option("--share", help="Target share of large-model tokens; 0.4. Networks only."),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="Gradient steps; 40. Networks only.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="MODULE:FUNCTION of (step, text before it), for roro."),
    ] = None,
    signal: Annotated[
        str | None, typer.Option("--signal", help="Of an answer's confidence, for corea.")
    ] = None,
    over: Annotated[
        str | None, typer.Option("--over", help="mean, min, last or first of the steps, for corea.")
    ] = None,
    max_new_tokens: opt.MaxNewTokensOption = None,
    seed: opt.SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="By default KIND.safetensors or KIND.json.")
    ] = None,
) -> None:
    """Fit or train a router on the demo's problems.

    Those of the calibration split; the router is saved. `policy-guided` and `roro` are small
    networks, trained by policy gradient on answers that the pair writes meanwhile; a file of either
    serves the router `learned`. `ecotab` fits two logistic maps to labels from suffix replacement,
    `corea` one to right and wrong answers. No problem of the test split is asked. Each takes a few
    minutes at most. Answers are kept beside --out as they come, and the same command goes on after
    an interruption.

    Examples:

    - `steer train-router policy-guided --share 0.3 --out pg.safetensors`

    - `steer train-router roro --judge mymodule:judge --out roro.safetensors`

    - `steer eval --split calibration --n 60 --routers learned:path=pg.safetensors,random`
    """
    models = Models(pair, small, large, dtype and dtype.value, device, threads)
    own = {"share": share, "iterations": iterations, "judge": judge, "signal": signal, "over": over}
    given = {key: value for key, value in own.items() if value is not None}
    for key in given:
        if key not in _OWN[kind]:
            raise SteerError(f"router {kind.value!r} takes no --{key}: leave it out")
    if not models.demo:
        raise SteerError(
            "train-router checks answers to the demo's problems, whose words no other pair knows: "
            "leave out --small and --large, or use steer_decode.fitting with your own tasks"
        )
    settings = {"seed": seed, "max_new_tokens": models.max_new_tokens(max_new_tokens)}
    given |= settings
    make = partial(_network if kind in _NETWORKS else _maps, kind, given)
    work, total = make(n)
    path = out or Path(f"{kind.value}.{'safetensors' if kind in _NETWORKS else 'json'}")
    check_writable(path)
    tasks, loaded = _tasks(n), models.load()

    from .resume import kept_beside, what_answers_depend_on
    from .view.terminal import Bar, console

    prompts = [task.prompt for task in tasks]
    about = what_answers_depend_on(loaded, prompts, **{**own, **settings, "kind": kind.value})
    with kept_beside(path, about) as kept:
        with Bar("training", total) as bar:
            made = work(loaded, tasks, lambda *_: bar.advance(), kept)
        made.save(path)
        kept.finish()
    facts = ", ".join(f"{key} {_short(value)}" for key, value in made.settings.items())
    router = "learned" if kind in _NETWORKS else kind.value
    saved = f"saved in {path}: `--router {router}:path={path}`"
    console().print(f"{kind.value}: {facts}\n{saved}", markup=False, soft_wrap=True)


_Work = Callable[["Pair", "list[CheckedPrompt]", Callable[..., None], "Partial"], Any]


def _network(kind: Kind, given: dict[str, Any], n: int) -> tuple[_Work, int]:
    from ..fitting import Training, train
    from ..policies.rewards import load_reward

    if "share" in given:
        given["budget"] = given.pop("share")
        if not 0 < given["budget"] < 1:
            raise SteerError(f"--share must lie between 0 and 1, got {given['budget']}")
    if "judge" in given:
        given["judge"] = load_reward(given["judge"])
    training = Training(kind.value, **given)

    def work(
        pair: Pair, tasks: list[CheckedPrompt], step: Callable[..., None], kept: Partial
    ) -> Any:
        return train(pair, tasks, training, step, kept)

    return work, training.iterations


def _maps(kind: Kind, given: dict[str, Any], n: int) -> tuple[_Work, int]:
    from ..core.signals import get_signal
    from ..fitting import fit_corea, fit_ecotab
    from ..policies.query_cascade import OVER

    if kind is Kind.corea:
        given.pop("seed")  # Nothing is drawn.
        if given.get("over", OVER[0]) not in OVER:
            raise SteerError(f"--over must be one of {', '.join(OVER)}, got {given['over']!r}")
        get_signal(given.get("signal", "max-prob"))
    fit: Callable[..., Any] = fit_corea if kind is Kind.corea else fit_ecotab

    def work(
        pair: Pair, tasks: list[CheckedPrompt], step: Callable[..., None], kept: Partial
    ) -> Any:
        return fit(pair, tasks, progress=step, kept=kept, **given)

    return work, 3 * n


def _tasks(n: int) -> list[CheckedPrompt]:
    from ..demo import DOMAINS, grade, problems
    from ..fitting import CheckedPrompt

    if n < 1:
        raise SteerError(f"--n must be at least 1, got {n}")
    try:
        found = [p for name in DOMAINS for p in problems(name, n, split="calibration")]
    except ValueError as error:
        raise SteerError(str(error)) from error
    return [CheckedPrompt(p.prompt, partial(grade, p)) for p in found]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
