"""``steer eval``, once it is known what to run.

Answers, a summary, and cohort sizes compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import say

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..core.transcript import Writer
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.records.file import RecordFile
    from ..evaluation.results import ResultsFolder
    from ..evaluation.rows import Key, ResultRow
    from ..policies import Policy


@dataclass(frozen=True)
class Runs:
    """One evaluation, or the same with several sizes of cohort.

    Attributes:
        evaluation: what is run.
        names: of the models, for the reader of the results.
        curve: routers that make the random curve.
        threads: of torch; None leaves it alone.
        workers: processes.
        record: where what both models make of every token goes, if anywhere.
    """

    evaluation: Evaluation
    names: Mapping[Writer, str]
    curve: Sequence[str]
    threads: int | None
    workers: int
    record: Path | None = None

    def one(self, out: Path | None, name: str) -> None:
        """Run the evaluation into ``out``.

        Without one, into a folder under results/ that begins with ``name``.

        Raises:
            SteerError: what cannot be asked, before any model runs.
        """
        self.evaluation.check()
        _warn(self.evaluation)
        kept = self._settings(self.evaluation)
        self._run(self.evaluation, out or _usual(name, kept), kept)

    def several(self, sizes: Sequence[int], out: Path | None, name: str) -> None:
        """Run it with each of ``sizes``, and compare them.

        Each goes into cohort-SIZE of the folder.

        Raises:
            SteerError: likewise, for any of the sizes.
        """
        from ..evaluation.cohort_sizes import compare, draw, markdown, write

        each = {size: replace(self.evaluation, cohort=size) for size in sizes}
        for evaluation in each.values():
            evaluation.check()
        _warn(self.evaluation)
        kept = {size: self._settings(evaluation) for size, evaluation in each.items()}
        place = out or _usual(f"{name}-cohorts", {**kept[sizes[0]], "cohort": list(sizes)})
        folders = {size: place / f"cohort-{size}" for size in sizes}
        for size, evaluation in each.items():
            self._run(evaluation, folders[size], kept[size])
        compared = compare(folders)
        write(place, compared)
        say.out(markdown(compared))
        drawn = ""
        if find_spec("matplotlib") is not None:
            for suffix in (".png", ".svg"):
                draw(compared, place / f"group-sizes{suffix}")
            drawn = ", .png and .svg"
        say.note(f"group-sizes.md, .json{drawn} are in {place}")

    def _settings(self, evaluation: Evaluation) -> dict[str, Any]:
        from ..evaluation.evaluate import settings

        first = evaluation.pair.small
        runtime = {
            "threads": self.threads,
            "workers": self.workers,
            "cohort": evaluation.cohort,
            "device": str(first.device),
        }
        return settings(evaluation, self.names, dtype=str(first.dtype), **runtime)

    def _run(self, evaluation: Evaluation, place: Path, kept: Mapping[str, Any]) -> None:
        from ..evaluation.results import ResultsFolder

        with ExitStack() as stack:
            folder = stack.enter_context(closing(ResultsFolder(place, kept, evaluation.problems())))
            records = None
            if self.record is not None:
                records = stack.enter_context(closing(self._records(evaluation, kept)))
            _run(evaluation, folder, self.workers, self.threads or 1, records)
        _finish(evaluation, folder, self.curve)
        if records is not None:
            say.note(
                f"{len(records.keys)} records are in {records.path}: steer eval --replay "
                f"{records.path}"
            )

    def _records(self, evaluation: Evaluation, kept: Mapping[str, Any]) -> RecordFile:
        from ..evaluation.records.file import RecordFile
        from ..evaluation.records.made import header_for

        assert self.record is not None
        more = {key: kept[key] for key in ("dtype", "cohort")}
        header = header_for(evaluation.pair, evaluation.options, self.names, **more)
        return RecordFile(self.record, header)


def _usual(name: str, kept: Mapping[str, Any]) -> Path:
    from ..evaluation.results import digest

    return Path("results") / f"{name}-{digest(kept)}"


def _warn(evaluation: Evaluation) -> None:
    """Says so where models of few words are asked about others."""
    pair = evaluation.pair
    ids = [i for task in evaluation.tasks for i in evaluation.prompt_ids(task)]
    missing = sum(i == pair.tokenizer.unk_token_id for i in ids)
    if missing:
        say.note(
            f"{missing} of the {len(ids)} tokens of the prompts are unknown to the models, "
            "which read the rest only"
        )


def _run(
    evaluation: Evaluation,
    folder: ResultsFolder,
    workers: int,
    threads: int,
    records: RecordFile | None,
) -> None:
    """Answers what the folder has no answer to yet, or ``records`` no record of."""
    from ..evaluation.evaluate import run
    from ..util.interruption import telling
    from ..util.text import one_line
    from .view.terminal import Bar

    jobs = evaluation.jobs()
    there = set(folder.rows) if records is None else folder.rows.keys() & records.keys
    done = sum(job in there for job in jobs)
    bare = sum(job in folder.rows for job in jobs) - done
    if bare:
        say.note(f"{bare} answers in {folder.folder} have no record and are written again for one")
    groups = evaluation.groups(there)
    _say_how_long(evaluation, groups, list(folder.rows.values()), workers)
    bar = Bar("answers", len(jobs), done)

    def state() -> str:
        done = sum(job in folder.rows for job in jobs)
        told = f"{done} of {len(jobs)} answers are in {folder.folder}; the same command goes on"
        return one_line(told)

    with telling(state), bar:
        for row in run(evaluation, groups, workers=workers, threads=threads):
            if row.record is not None and records is not None:
                records.add(row.record)
            if row.key not in folder.rows:
                folder.add(replace(row, record=None))
            if row.key not in there:
                bar.advance()


def _say_how_long(
    evaluation: Evaluation, groups: Sequence[Sequence[Key]], rows: Sequence[ResultRow], workers: int
) -> None:
    from ..preflight.pace import Work
    from .forecast import say_how_long

    if not groups:
        return
    left = Counter(key.router for group in groups for key in group)
    work = [Work.of(evaluation.routers[name], answers) for name, answers in left.items()]
    prompts = [evaluation.prompt_of(key) for key in max(groups, key=len)]
    options = dict(evaluation.options)
    lengths = [row.tokens for row in rows]
    say_how_long(
        evaluation.pair, prompts, options, work, lengths=lengths, workers=min(workers, len(groups))
    )


def _finish(evaluation: Evaluation, folder: ResultsFolder, curve: Sequence[str]) -> None:
    from ..evaluation.summary import markdown, never_right, summarise, write
    from .view.terminal import console

    rows = [folder.rows[job] for job in evaluation.jobs()]
    summary = summarise(rows, curve=curve, order=list(evaluation.routers))
    write(folder.folder, summary)
    screen = console()
    if screen.is_terminal:
        for table in _tables(summary):
            screen.print(table)
    else:
        say.out(markdown(summary))
    failed = [row for row in rows if row.error]
    if failed:
        one = failed[0]
        say.note(
            f"the checker failed on {len(failed)} of {len(rows)} answers, which count as "
            f"wrong; first on {one.domain}:{one.problem} ({one.router}, seed {one.seed}): "
            + one.error
        )
    for domain in never_right(rows):
        say.note(
            f"no answer in {domain} is right, of any router: nothing can be learned of routers "
            "there; look at one with `steer show`, and at what the checker makes of it "
            "(--checker, --max-new-tokens)"
        )
    for name, policy in evaluation.routers.items():
        _say_unjudged(name, policy, [row for row in rows if row.router == name])
    place = folder.folder
    say.note(f"results are in {place}; `steer report {place}` makes a page")


def _say_unjudged(name: str, policy: Policy, rows: Sequence[ResultRow]) -> None:
    """Says so where a router of mixtures had none: its steps then went to the large model."""
    unjudged = sum(row.without_posterior for row in rows)
    if policy.has_posterior and unjudged:
        say.note(
            f"{name}: no mixture for {unjudged} of {sum(len(r.trace) for r in rows)} steps "
            "(too few scores, or no two components); the large model wrote what came next"
        )


def _tables(summary: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from ..evaluation.summary import cells, columns, drafts, scales

    units = scales(summary)
    drafted = drafts(summary)
    titles = columns(units, drafted)
    tables: list[RenderableType] = []
    for domain in dict.fromkeys(record["domain"] for record in summary):
        here = [record for record in summary if record["domain"] == domain]
        title = Text(f"{domain}, {max(record['n'] for record in here)} problems", style="bold")
        table = Table(title=title, title_justify="left", box=None, header_style="dim")
        table.add_column(titles[0], overflow="fold")
        for column in titles[1:]:
            table.add_column(column, justify="right")
        for record in here:
            chance = record["random_accuracy_at_share"]
            better = chance is not None and record["accuracy"] > chance
            row = [Text(cell) for cell in cells(record, units, drafted)]
            row[1].stylize("green" if better else "")
            table.add_row(*row)
        tables += [table, ""]
    return tables
