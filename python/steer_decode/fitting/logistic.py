"""Fits of the logistic routers.

COREA's confidence of an answer, EcoTab's two risks of a step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

from ..core.signals import SIGNALS, get_signal
from ..core.trace import Trace
from ..core.transcript import Writer
from ..errors import SteerError
from ..models.pair import Pair
from ..policies import AlwaysSmall, RandomShare, Replay
from ..policies.ecotab import split_entropy, table_tokens
from ..policies.fitted.logistic import Logistic, LogisticMaps
from ..policies.query_cascade import confidence_of
from ..util.partial import Partial
from .questions import CheckedPrompt, answers


def fit_noisy_or(
    inputs: Sequence[Sequence[float]], labels: Sequence[bool], ridge: float = 1e-2
) -> list[Logistic]:
    """Fit one logistic map a column under their Noisy-OR.

    By maximum likelihood of the labels. With one column this is plain logistic regression (Platt
    scaling). A NaN stands for a cause that is absent from a sample. ``ridge`` holds the slopes of
    separable data finite; it acts on columns of unit spread.

    Raises:
        SteerError: fewer than ten samples, or labels that are all alike.
    """
    y = torch.tensor(labels, dtype=torch.float64)
    if len(y) < 10 or bool((y == y[0]).all()):
        raise SteerError(
            f"cannot fit {len(y)} labels, {int(y.sum())} of them true: "
            "at least ten are needed, and both kinds; use more prompts"
        )
    x = torch.tensor(inputs, dtype=torch.float64).reshape(len(y), -1)
    absent = x.isnan()
    mean = x.nanmean(0)
    spread = ((x - mean) ** 2).nanmean(0).sqrt().clamp_min(1e-9)
    z = ((x - mean) / spread).nan_to_num(0.0)
    weights = torch.zeros(2, z.shape[1], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        weights[1] = -1.0
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        # log(1 - sigmoid(a)) = -softplus(a); their sum is the log-probability that nothing acts.
        calm = -torch.nn.functional.softplus(z * weights[0] + weights[1])
        quiet = calm.masked_fill(absent, 0.0).sum(1).clamp_max(-1e-12)
        likelihood = y * torch.log(-torch.expm1(quiet)) + (1 - y) * quiet
        value = -likelihood.mean() + ridge * (weights[0] ** 2).mean()
        value.backward()
        return value

    optimiser.step(loss)
    slopes = weights[0].detach() / spread
    intercepts = weights[1].detach() - slopes * mean
    pairs = zip(slopes.tolist(), intercepts.tolist(), strict=True)
    return [Logistic(slope, intercept) for slope, intercept in pairs]


def fit_corea(
    pair: Pair,
    tasks: Sequence[CheckedPrompt],
    *,
    signal: str = "max-prob",
    over: str = "min",
    max_new_tokens: int = 128,
    progress: Callable[[], None] = lambda: None,
    kept: Partial | None = None,
) -> LogisticMaps:
    """Fit the map from confidence to being right.

    The confidence is the small model's in its whole answer.

    Args:
        signal, over: see :class:`~steer_decode.policies.QueryCascade`.
        progress: called after each answer.
        kept: keeps answers over an interruption.

    Raises:
        SteerError: too few answers, or all right or all wrong.
    """
    policy = AlwaysSmall()
    policy.signal = get_signal(signal)
    inputs, labels = [], []
    for task, output in answers(pair, policy, tasks, max_new_tokens, kept=kept):
        progress()
        if output.trace.stop_reason == "eos":  # The cascade judges no other.
            inputs.append([confidence_of(output.trace.kept, policy.signal, over)])
            labels.append(task.right(output.text))
    (fitted,) = fit_noisy_or(inputs, labels)
    settings = {"signal": signal, "over": over, "answers": len(labels), "right": sum(labels)}
    return LogisticMaps("corea", pair.fingerprint, {"answer": fitted}, settings)


class _Explorer(RandomShare):
    """Either model at even odds; the table tokens of each step are marked."""

    signal = SIGNALS["entropy"]

    def __init__(self) -> None:
        super().__init__(0.5, self.signal)

    def counted(self, texts: Sequence[str], prompt: str) -> list[bool]:
        return table_tokens(texts, prompt)


def fit_ecotab(
    pair: Pair,
    tasks: Sequence[CheckedPrompt],
    *,
    seed: int = 0,
    max_new_tokens: int = 128,
    progress: Callable[[], None] = lambda: None,
    kept: Partial | None = None,
) -> LogisticMaps:
    """Fit the maps from a step's entropies to risk.

    It is the risk that the small model's next step fails. Labels come from suffix replacement. From
    a random place of an answer that both models wrote at even odds, the large model goes on alone;
    and once more, but with the next step by the small model. The step has failed where only the
    first comes out right.

    Raises:
        SteerError: too few labels, or only one kind of them.
    """
    draw = random.Random(seed)
    inputs: list[tuple[float, float]] = []
    labels: list[bool] = []
    for start in range(0, len(tasks), 48):
        cut: list[tuple[CheckedPrompt, Trace, int]] = []
        some = tasks[start : start + 48]
        for task, output in answers(pair, _Explorer(), some, max_new_tokens, kept=kept):
            progress()
            steps = output.trace.kept
            if len(steps) > 1:
                cut.append((task, output.trace, draw.randrange(len(steps) - 1)))
        rescued = _replayed(pair, cut, "large", max_new_tokens, kept)
        risked = _replayed(pair, cut, "small", max_new_tokens, kept)
        for (_, trace, i), safe, right in zip(cut, rescued, risked, strict=True):
            if safe:  # Else the answer was lost before the step.
                inputs.append(split_entropy(trace.kept[i]))
                labels.append(not right)
    table, text = fit_noisy_or(inputs, labels)
    settings = {"labels": len(labels), "failed": sum(labels), "seed": seed}
    return LogisticMaps("ecotab", pair.fingerprint, {"table": table, "text": text}, settings)


def _replayed(
    pair: Pair,
    cut: Sequence[tuple[CheckedPrompt, Trace, int]],
    after: Writer,
    max_new_tokens: int,
    kept: Partial | None,
) -> list[bool]:
    """Whether each is right when ``after`` writes the step behind the cut, the large the rest."""
    writers = {
        tuple(trace.prompt_ids): [*(s.writer for s in trace.kept[: i + 1]), after, "large"]
        for _, trace, i in cut
    }
    tasks = [task for task, _, _ in cut]
    if not tasks:
        return []
    outputs = answers(pair, Replay(writers), tasks, max_new_tokens, kept=kept)
    return [task.right(output.text) for task, output in outputs]
