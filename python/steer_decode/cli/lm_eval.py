"""``steer lm-eval``: tasks of the evaluation harness."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SteerError
from ..util.files import check_writable, write_whole
from . import options as opt
from . import say
from .models import Models
from .routers import make_policy


def lm_eval(
    tasks: Annotated[str, typer.Option("--tasks", help="Names of the harness, with commas.")],
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    dtype: opt.DtypeOption = None,
    device: opt.DeviceOption = None,
    threads: opt.ThreadsOption = None,
    router: opt.RouterOption = "speculative:k=auto",
    calibration: opt.CalibrationOption = None,
    include_path: Annotated[
        Path | None, typer.Option("--include-path", help="A folder with tasks of your own.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Problems of each task; all.")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option("--num-fewshot", min=0)] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Put prompts through the template.")
    ] = False,
    cohort: Annotated[int, typer.Option("--cohort", min=1, help="Answers at a time.")] = 16,
    max_new_tokens: opt.MaxNewTokensOption = None,
    blank_line: Annotated[
        str,
        typer.Option(
            "--blank-line", help="Of tasks that stop at a blank line: refuse, stop or ignore."
        ),
    ] = "refuse",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write results, costs and answers here, as JSON.")
    ] = None,
) -> None:
    """Run tasks of lm-eval with a routed pair.

    Needs `pip install lm-eval`. Tasks that generate are run, in cohorts; those that ask for
    likelihoods are refused. Against a server, the harness' own client is enough:
    `lm_eval --model local-chat-completions --model_args
    base_url=http://127.0.0.1:8000/v1/chat/completions,model=steer --apply_chat_template`.

    Examples:

    - `steer lm-eval --tasks gsm8k --small Qwen/Qwen3-0.6B --large Qwen/Qwen3-8B --limit 50`

    - `steer lm-eval --tasks mine --include-path tasks --router first-token --out results.json`
    """
    try:
        from ..evaluation.harness import RoutedLM
    except ImportError as error:
        raise SteerError(f"steer lm-eval needs {error.name}: pip install lm-eval") from error
    models = Models(pair, small, large, dtype and dtype.value, device, threads)
    policy = make_policy(router, models, calibration)
    if out is not None:
        check_writable(out)
    if include_path is not None and not include_path.is_dir():
        raise SteerError(f"--include-path {include_path} is no folder")
    names = opt.names(tasks) or []
    from ..decode.router import Router

    made = RoutedLM(
        Router(models.load(), policy),
        cohort,
        models.max_new_tokens(max_new_tokens),
        blank_line,  # type: ignore[arg-type]
    )
    found = _evaluated(made, names, include_path, limit, num_fewshot, apply_chat_template)
    totals = made.totals
    for name, scores in found["results"].items():
        for metric, value in scores.items():
            if isinstance(value, float) and "stderr" not in metric:
                say.out(f"{name:24} {metric.removesuffix(',none'):24} {value:.4f}")
    tokens = totals["tokens"]
    share = tokens["large"] / max(1, sum(tokens.values()))
    say.out(
        f"{totals['answers']} answers by {policy.label}: {share:.0%} of tokens by the large model, "
        f"{totals['flops_processed']:.3g} FLOPs processed, {totals['seconds']:.1f} s"
    )
    if out is not None:
        kept = {key: found.get(key) for key in ("results", "samples", "versions", "n-samples")}
        document = {**kept, "router": policy.label, "costs": totals}
        write_whole(out, json.dumps(document, indent=1, default=str) + "\n")


def _evaluated(
    made: Any,
    names: list[str],
    include_path: Path | None,
    limit: int | None,
    num_fewshot: int | None,
    apply_chat_template: bool,
) -> Any:
    """What the harness finds; what it prints on the way goes to standard error."""
    import sys

    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    own = str(include_path) if include_path else None
    # The index of the tasks that come with it takes seconds, and is not needed for one's own.
    manager = TaskManager(include_path=own, include_defaults=False) if own else TaskManager()
    if own and any(name not in manager.all_tasks for name in names):
        manager = TaskManager(include_path=own)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown or not names:
        raise SteerError(
            f"--tasks {unknown[0] if unknown else ''!r} is no task of the harness: "
            "`lm_eval ls tasks` lists them; --include-path adds a folder of yours"
        )
    with contextlib.redirect_stdout(sys.stderr):
        return simple_evaluate(
            model=made,
            tasks=list(names),
            task_manager=manager,
            limit=limit,
            num_fewshot=num_fewshot,
            apply_chat_template=apply_chat_template,
            log_samples=True,
            bootstrap_iters=1000,
        )
