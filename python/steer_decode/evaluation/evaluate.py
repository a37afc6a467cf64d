"""Several routers over the same problems, accuracy against cost.

Results come one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from ..core.events import Done, RoutedOutput, StepClosed
from ..core.trace import Trace
from ..core.transcript import Writer
from ..decode.router import Router
from ..errors import SteerError
from ..models.pair import Pair
from ..policies import AlwaysLarge, AlwaysSmall, Policy, RandomShare
from ..policies.fitted.mixture import MIN_SCORES
from .records.made import record_of
from .rows import Asked, Key, ResultRow, StepRecord, step_records
from .step_scores import costs_so_far, step_scores
from .tasks import Task
from .tasks.remarks import remarks
from .workers import forked

CONTROL = "random"
SHARES = (0.25, 0.5, 0.75)


# A prime far above the number of problems: no two seeds share the draws of an answer.
_STRIDE = 1_000_003


@dataclass(frozen=True)
class Evaluation:
    """What is run: each router, task and seed.

    All run with the same options. Answers of one router advance together, in cohorts of one domain.
    For most routers this only saves time; those that judge a cohort in rounds depend on whom it
    consists of.

    Attributes:
        pair: the two models.
        routers: policies by the name that the results call them.
        tasks: what is asked.
        options: of :meth:`Router.stream`, the seed excepted.
        cohort: answers at a time; a domain is cut into cohorts in the order of its tasks.
        seeds: each problem is answered once with each. The draws of an answer depend on seed and
            problem alone, so that every router meets the same.
        record: keep what both models make of every token; each then reads each finished answer.
    """

    pair: Pair
    routers: Mapping[str, Policy]
    tasks: Sequence[Task]
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    cohort: int = 1
    record: bool = False

    def jobs(self) -> list[Key]:
        """The key of every answer, problem by problem."""
        return [
            Key(router, task.domain, task.problem, seed)
            for task in self.tasks
            for seed in self.seeds
            for router in self.routers
        ]

    def problems(self) -> list[Asked]:
        """What is asked, as the results keep it."""
        names = [f.name for f in fields(Asked)]
        return [Asked(**{name: getattr(task, name) for name in names}) for task in self.tasks]

    def check(self) -> None:
        """Find out before the work what would end it.

        Raises:
            SteerError: a prompt that this pair cannot be asked, or a router that cannot serve it.
        """
        told = self.options.get("chat_template_kwargs")
        try:
            json.dumps(told)
        except (TypeError, ValueError) as error:
            raise SteerError(
                f"chat_template_kwargs of an evaluation must be values of JSON, got {told!r}"
            ) from error
        for name, policy in self.routers.items():
            policy.check(self.pair)
            if policy.in_rounds and self.cohort < MIN_SCORES:
                raise SteerError(
                    f"router {name!r} judges the steps of a cohort together, and {self.cohort} at "
                    f"a time are too few to tell anything: give a cohort of {MIN_SCORES} or more"
                )
        for task in self.tasks:
            try:
                self.prompt_ids(task)
            except SteerError as error:
                raise SteerError(f"problem {task.name}: {error}") from error

    def prompt_of(self, key: Key) -> str:
        """What the answer of ``key`` is the answer to."""
        return self._by_name[key.domain, key.problem].prompt

    def prompt_ids(self, task: Task) -> list[int]:
        """The prompt of ``task`` as the models are given it.

        Raises:
            SteerError: this pair cannot be asked it.
        """
        options = {key: self.options.get(key) for key in ("chat", "chat_template_kwargs")}
        return self.pair.encode(task.prompt, **options)

    def groups(self, done: Container[tuple[str, str, str, int]] = ()) -> list[list[Key]]:
        """The jobs in cohorts, less the answers in ``done``.

        A cohort that is judged in rounds is run again whole if one of its answers is missing.
        """
        domains: dict[str, list[Task]] = {}
        for task in self.tasks:
            domains.setdefault(task.domain, []).append(task)
        groups = []
        for tasks in domains.values():
            for first in range(0, len(tasks), self.cohort):
                for seed in self.seeds:
                    for router, policy in self.routers.items():
                        members = tasks[first : first + self.cohort]
                        keys = [Key(router, t.domain, t.problem, seed) for t in members]
                        missing = [key for key in keys if key not in done]
                        if missing:
                            groups.append(keys if policy.in_rounds else missing)
        return groups

    def answer(self, group: Sequence[Key]) -> Iterator[ResultRow]:
        """Run one router on the problems of one cohort.

        Each row is yielded as it is done.
        """
        tasks = [self._by_name[job.domain, job.problem] for job in group]
        seeds = [job.seed * _STRIDE + task.number for job, task in zip(group, tasks, strict=True)]
        policy = self.routers[group[0].router]
        recorded = isinstance(policy, AlwaysSmall)  # what `steer eval --replay` needs to know
        first: dict[int, dict[str, float]] = {}
        prompts = [task.prompt for task in tasks]
        cohort = Router(self.pair, policy).stream_cohort(prompts, seed=seeds, **self.options)
        for i, event in cohort:
            if recorded and isinstance(event, StepClosed) and i not in first and event.step.closed:
                first[i] = costs_so_far(cohort.output(i).cost)
            if isinstance(event, Done):
                scores = step_scores(self.pair, event.output.trace) if recorded else None
                row = self._row(group[i], tasks[i], event.output, scores)
                row = replace(row, first_step=first.get(i, {}))
                yield self._recorded(row, event.output.trace) if self.record else row

    def _recorded(self, row: ResultRow, trace: Trace) -> ResultRow:
        spec = str(self.routers[row.router])
        return replace(row, record=record_of(self.pair, self.options, spec, row, trace))

    def _row(
        self,
        job: Key,
        task: Task,
        output: RoutedOutput,
        scores: Sequence[Mapping[str, float]] | None = None,
    ) -> ResultRow:
        correct, error = _judge(task, output.text)
        cost = output.cost
        return ResultRow(
            *job,
            correct=correct,
            flops_paper=cost.flops_paper,
            flops_processed=cost.flops_processed,
            bytes_read=cost.bytes_read,
            seconds=round(cost.seconds, 6),
            hand_overs=cost.hand_overs,
            stop_reason=output.trace.stop_reason,
            trace=_labelled(task, output.trace, scores),
            difficulty=task.difficulty,
            error=error,
            large_passes=cost.large.forwards,
        )

    def __post_init__(self) -> None:
        by_name = {(task.domain, task.problem): task for task in self.tasks}
        object.__setattr__(self, "_by_name", by_name)

    _by_name: Mapping[tuple[str, str], Task] = field(init=False, repr=False, compare=False)


def _judge(task: Task, text: str) -> tuple[bool, str]:
    """Whether ``text`` is right, and what the checker raised or remarked.

    No checker may end a long run.
    """
    try:
        with remarks() as said:
            verdict = task.check(text)
        if verdict not in (True, False):
            raise TypeError(f"the checker answered {verdict!r}, neither True nor False")
    except (Exception, SystemExit) as error:  # a user's checker may fail in any way
        return False, f"{type(error).__name__}: {error}"
    return bool(verdict), "; ".join(said)


def _labelled(
    task: Task, trace: Trace, scores: Sequence[Mapping[str, float]] | None
) -> list[StepRecord]:
    """Steps with their labels, up to the first wrong one that stays.

    What follows a wrong step cannot be compared with the reference: it goes on from an error.
    """
    records = step_records(trace, scores)
    if task.label is None:
        return records
    for i, step in enumerate(trace.steps):
        if not step.text.strip():
            continue
        records[i] = replace(records[i], right=task.label(step.index, step.text))
        if not records[i].right and not step.discarded:
            break
    return records


def with_controls(
    routers: Mapping[str, Policy], shares: Sequence[float] = SHARES
) -> dict[str, Policy]:
    """Add what a comparison with chance needs.

    That is both models alone, and random steps at ``shares`` between them. The accuracies of these
    runs against the token shares that they reach make the random curve that
    :func:`steer_decode.evaluation.summary.summarise` reads off at each router's own share.
    """
    chance = {f"{CONTROL}:share={share:g}": RandomShare(share) for share in shares}
    return {"small": AlwaysSmall(), "large": AlwaysLarge(), **chance, **routers}


def run(
    evaluation: Evaluation, groups: Sequence[Sequence[Key]], *, workers: int = 1, threads: int = 1
) -> Iterator[ResultRow]:
    """Answer ``groups``, and yield each row once it is there.

    Rows come in any order.

    Args:
        groups: of :meth:`Evaluation.groups`.
        workers: processes, forked from this one; more than one needs models on the CPU. Seconds
            are measured inside each, and rise a little where cores share memory and caches.
        threads: of torch, for each process.

    Raises:
        SteerError: a broken model, or workers that cannot be had or were killed.
    """
    torch.set_num_threads(threads)
    if workers == 1:
        for group in groups:
            yield from evaluation.answer(group)
        return
    if any(model.device.type != "cpu" for model in (evaluation.pair.small, evaluation.pair.large)):
        raise SteerError("more than one worker needs models on the CPU: use --workers 1")
    yield from forked(evaluation.answer, groups, workers, threads)


def settings(
    evaluation: Evaluation, names: Mapping[Writer, str] | None = None, **more: Any
) -> dict[str, Any]:
    """Settings that all results in one folder must share.

    Routers, problems and seeds may be added; a router may not change its meaning. "signals" and
    "about" (the models' ``names`` and sizes) are for the reader.
    """
    options = {key: evaluation.options[key] for key in sorted(evaluation.options)}
    routers = {name: _describe(policy) for name, policy in evaluation.routers.items()}
    signals = {
        name: {"name": policy.signal.name, "higher_is_surer": policy.signal.higher_is_surer}
        for name, policy in evaluation.routers.items()
    }
    pair = evaluation.pair
    about: dict[Writer, dict[str, Any]] = {
        "small": {"parameters": pair.shapes["small"].parameters},
        "large": {"parameters": pair.shapes["large"].parameters},
    }
    for writer, name in (names or {}).items():
        about[writer]["name"] = name
    kept = {"pair": pair.fingerprint, **options, **more, "routers": routers}
    return {**kept, "signals": signals, "about": about}


def _describe(policy: Policy) -> str:
    return f"{policy.label} on {policy.fitted}" if policy.fitted else policy.label
