"""Accuracy against cost: several routers over the same problems, one result at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch

from .demo import Problem, grade
from .errors import SteerError
from .pair import Pair
from .policies import AlwaysLarge, AlwaysSmall, Policy, RandomShare
from .results import Key, Row
from .router import Router

CONTROL = "random"
SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Evaluation:
    """What is to be run: every router on every problem, all with the same options.

    Attributes:
        pair: the two models.
        routers: policies by the name that the results call them.
        problems: what is asked.
        options: of :meth:`Router.stream`. The problem with index i is asked with ``seed + i``, so
            that every router meets the same draws.
    """

    pair: Pair
    routers: Mapping[str, Policy]
    problems: Sequence[Problem]
    options: Mapping[str, Any] = field(default_factory=dict)

    def jobs(self) -> list[Key]:
        """(router, domain, index) of every answer, problem by problem."""
        return [(r, p.domain, p.index) for p in self.problems for r in self.routers]

    def answer(self, job: Key) -> Row:
        """Runs one router on one problem."""
        name, domain, index = job
        problem = self._by_key[domain, index]
        options = {**self.options, "seed": int(self.options.get("seed", 0)) + index}
        output = Router(self.pair, self.routers[name]).generate(problem.prompt, **options)
        kept, cost = output.trace.kept, output.cost
        large = [step for step in kept if step.writer == "large"]
        return Row(
            router=name,
            domain=domain,
            index=index,
            difficulty=problem.difficulty,
            correct=grade(problem, output.text),
            steps=len(kept),
            large_steps=len(large),
            tokens=sum(len(step.token_ids) for step in kept),
            large_tokens=sum(len(step.token_ids) for step in large),
            hand_overs=cost.hand_overs,
            discarded_tokens=cost.discarded_tokens,
            flops_paper=cost.flops_paper,
            flops_processed=cost.flops_processed,
            bytes_read=cost.bytes_read,
            seconds=cost.seconds,
            stop_reason=output.trace.stop_reason,
            text=output.text,
        )

    def __post_init__(self) -> None:
        by_key = {(p.domain, p.index): p for p in self.problems}
        object.__setattr__(self, "_by_key", by_key)

    _by_key: Mapping[tuple[str, int], Problem] = field(init=False, repr=False, compare=False)


def with_controls(
    routers: Mapping[str, Policy], shares: Sequence[float] = SHARES
) -> dict[str, Policy]:
    """Adds what a comparison with chance needs: both models alone and ``shares`` between them.

    The accuracies of these runs against the token shares that they reach make the random curve
    that :func:`steer_decode.results.summarise` reads off at each router's own share.
    """
    chance = {f"{CONTROL}:share={share:g}": RandomShare(share) for share in shares}
    return {"small": AlwaysSmall(), "large": AlwaysLarge(), **chance, **routers}


def run(
    evaluation: Evaluation, jobs: Sequence[Key], *, workers: int = 1, threads: int = 1
) -> Iterator[Row]:
    """Answers ``jobs`` and yields each row as soon as it is there, in any order.

    Args:
        workers: processes, forked from this one; more than one needs models on the CPU. Seconds
            are measured inside each, and rise a little where cores share memory and caches.
        threads: of torch, for each process.

    Raises:
        SteerError: a broken model, or workers that cannot be had or were killed.
    """
    torch.set_num_threads(threads)
    if workers == 1:
        yield from map(evaluation.answer, jobs)
        return
    if evaluation.pair.small.device.type != "cpu" or evaluation.pair.large.device.type != "cpu":
        raise SteerError("more than one worker needs models on the CPU: use --workers 1")
    # Forked children share the weights; a fork copies no threads, so none may be needed there.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("fork"), _begin, (evaluation, threads)
    )
    waiting: set[Future[Row]] = set()
    left = iter(jobs)
    try:
        # No more than two jobs a worker are out at a time, so that Ctrl-C ends quickly.
        while new := [
            pool.submit(_answer, job) for job in islice(left, 2 * workers - len(waiting))
        ]:
            waiting.update(new)
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        for future in waiting:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


_evaluation: Evaluation


def _begin(evaluation: Evaluation, threads: int) -> None:
    global _evaluation
    _evaluation = evaluation
    # Ctrl-C is sent to the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _answer(job: Key) -> Row:
    return _evaluation.answer(job)


def settings(evaluation: Evaluation, **more: Any) -> dict[str, Any]:
    """What must not change between two runs whose results go into one folder.

    Routers and problems may be added; a router may not change its meaning.
    """
    options = {key: evaluation.options[key] for key in sorted(evaluation.options)}
    routers = {name: _describe(policy) for name, policy in evaluation.routers.items()}
    return {"pair": evaluation.pair.fingerprint, **options, **more, "routers": routers}


def _describe(policy: Policy) -> str:
    fitted = getattr(policy, "fitted", "")
    if fitted:
        return f"{policy} on {fitted}"
    calibration = getattr(policy, "calibration", None)
    if calibration is None:
        return str(policy)
    fits = {w: {b: asdict(m) for b, m in calibration.fits[w].items()} for w in calibration.fits}
    return f"{policy} on {calibration.signal} {fits}"
