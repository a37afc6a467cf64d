"""Steps that are written once and used by every router that comes by the same place.

What a model writes next is a function of the tokens so far and, at a temperature, of how many
uniform numbers the answer has used up. So routers that are compared on the same problems ask for
the same steps over and over. The bank keeps each step by that place, with the signals of its
tokens and, for a draft of the small model, what the large one makes of them; a router is then
followed from place to place without a model, as exactly as if it had been run (signals_replay.py;
the tests compare both).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from steer_decode import Pair
from steer_decode.core.sampling import Sampling
from steer_decode.core.transcript import Transcript, Writer
from steer_decode.engines.hf.lane import Lane
from steer_decode.evaluation.tasks.base import Task
from steer_decode.util.files import write_whole
from torch.nn.utils.rnn import pad_sequence

from steer_kernels import LogitStats, logit_stats, sample_logits

STRIDE = 1_000_003  # as `steer eval` seeds the answers of seed 1, 2, ...
SIGNALS = ("margin", "max-prob", "entropy", "log-prob", "max-logit")
"""Of each token of a draft, turned so that higher is surer; log-prob is that of the likeliest."""
ROWS = 96


class Place(NamedTuple):
    """Where a step begins, or goes on behind tokens of its own that stay.

    Attributes:
        problem: index of the problem.
        ids: tokens of the answer before the step.
        used: uniform numbers used up, discarded tokens included; 0 for greedy answers.
        writer: who writes from here.
        inside: tokens of the step that stand already.
        one: a single token is wanted, not all up to the end of the step.
    """

    problem: int
    ids: tuple[int, ...]
    used: int
    writer: Writer
    inside: tuple[int, ...] = ()
    one: bool = False


@dataclass(frozen=True)
class Written:
    """A step, or a part of one, as one model writes it.

    Attributes:
        ids: its tokens, those that stood already not among them.
        closed: it ended by itself, and is not cut off.
        ended: it ends the answer.
        signals: for drafts of the small model, of each token, by name.
        graded: for drafts, the log-probability of each token under the large model.
        likeliest: for drafts, whether each is the large model's likeliest.
    """

    ids: tuple[int, ...]
    closed: bool
    ended: bool
    signals: dict[str, list[float]] = field(default_factory=dict)
    graded: list[float] = field(default_factory=list)
    likeliest: list[bool] = field(default_factory=list)


def read_signals(stats: LogitStats) -> list[list[float]]:
    """[row][signal] in the order of :data:`SIGNALS`."""
    log_prob = stats.max_logit - stats.lse
    columns = (stats.margin, stats.max_prob, -stats.entropy, log_prob, stats.max_logit)
    return torch.stack([column.double() for column in columns], 1).tolist()  # type: ignore[no-any-return]


class StepBank:
    """The steps of a pair on some problems, written when they are first asked for.

    Args:
        pair: both models.
        tasks: the problems.
        temperature: 0 for greedy answers.
        seed: of the answers; their draws are those of `steer eval --seeds SEED`.
        max_new_tokens: of an answer.
    """

    def __init__(
        self,
        pair: Pair,
        tasks: Sequence[Task],
        temperature: float = 0.0,
        seed: int = 0,
        max_new_tokens: int = 128,
    ) -> None:
        self.pair = pair
        self.tasks = tasks
        self.sampling = Sampling(temperature)
        self.prompts = [pair.encode(task.prompt) for task in tasks]
        self._seeds = [seed * STRIDE + task.number for task in tasks]
        self._uniforms: list[tuple[random.Random, list[float]]] = [
            (random.Random(s), []) for s in self._seeds
        ]
        self.max_new_tokens = max_new_tokens
        self.steps: dict[Place, Written] = {}
        self.asked = 0

    def uniform(self, problem: int, at: int) -> float:
        """The ``at``-th uniform number of an answer."""
        source, drawn = self._uniforms[problem]
        while len(drawn) <= at:
            drawn.append(source.random())
        return drawn[at]

    def write(self, places: Iterable[Place]) -> None:
        """Has the models write the steps at ``places`` that are not there yet."""
        missing = [place for place in dict.fromkeys(places) if place not in self.steps]
        for writer in ("small", "large"):
            own = [place for place in missing if place.writer == writer]
            own.sort(key=lambda place: len(place.ids) + len(place.inside))
            for start in range(0, len(own), ROWS):
                self._write(own[start : start + ROWS], writer)

    def save(self, path: Path) -> None:
        """Keeps the steps as JSON lines."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps([place, asdict(step)]) for place, step in self.steps.items()]
        write_whole(path, "\n".join(lines) + "\n")

    def load(self, path: Path) -> None:
        """Takes in what :meth:`save` kept for the same pair, problems and temperature, if any."""
        if not path.exists():
            return
        for line in path.read_text().splitlines():
            (problem, ids, used, writer, inside, one), step = json.loads(line)
            place = Place(problem, tuple(ids), used, writer, tuple(inside), one)
            self.steps[place] = Written(**{**step, "ids": tuple(step["ids"])})

    @torch.inference_mode()
    def _write(self, places: Sequence[Place], writer: Writer) -> None:
        pair, shape = self.pair, self.pair.shapes[writer]
        texts = [Transcript([*self.prompts[p.problem], *p.ids, *p.inside]) for p in places]
        starts = [len(text) for text in texts]
        limits = [
            min(len(self.prompts[p.problem]) + self.max_new_tokens, pair.max_length) for p in places
        ]
        lane = Lane(pair.model(writer), shape, texts, max(limits))
        signals: list[list[list[float]]] = [[] for _ in places]
        closed = [False] * len(places)
        open_rows = list(range(len(places)))
        while open_rows:
            logits = lane.catch_up(open_rows)
            numbers = [
                self.uniform(places[row].problem, places[row].used + len(texts[row]) - starts[row])
                if self.sampling.temperature
                else 0.0
                for row in open_rows
            ]
            uniform = torch.tensor(numbers, dtype=torch.float64)
            drawn = sample_logits(
                logits, uniform, self.sampling.temperature, 0, 1.0, 0.0, vocab_size=pair.vocab_size
            )
            values = read_signals(drawn.stats) if writer == "small" else []
            still = []
            for i, (row, token) in enumerate(zip(open_rows, drawn.token.tolist(), strict=True)):
                texts[row].append(token, writer)
                if values:
                    signals[row].append(values[i])
                place = places[row]
                step = texts[row].ids[starts[row] - len(place.inside) :]
                closed[row] = token in pair.eos_ids or pair.boundary.closes(step)
                if not (closed[row] or place.one) and len(texts[row]) < limits[row]:
                    still.append(row)
            open_rows = still
        grades = self._grades(texts, starts) if writer == "small" else None
        for row, place in enumerate(places):
            ids = tuple(texts[row].ids[starts[row] :])
            columns = list(zip(*signals[row], strict=True))
            by_name = {n: list(c) for n, c in zip(SIGNALS, columns, strict=False)}
            graded, likeliest = grades[row] if grades else ([], [])
            ended = ids[-1] in pair.eos_ids
            self.steps[place] = Written(ids, closed[row], ended, by_name, graded, likeliest)
        self.asked += len(places)

    def _grades(
        self, texts: Sequence[Transcript], starts: Sequence[int]
    ) -> list[tuple[list[float], list[bool]]]:
        """What the large model makes of the tokens from ``starts`` on, from one padded pass."""
        ids = pad_sequence([torch.tensor(text.ids) for text in texts], batch_first=True)
        # Padding is on the right, where a causal model does not look from a real token.
        logits = self.pair.large(ids, use_cache=False).logits
        found = []
        for row, (text, start) in enumerate(zip(texts, starts, strict=True)):
            tokens = ids[row, start : len(text)]
            rows = logits[row, start - 1 : len(text) - 1]
            stats = logit_stats(rows, vocab_size=self.pair.vocab_size)
            chosen = rows.gather(1, tokens[:, None])[:, 0].float() - stats.lse
            found.append((chosen.tolist(), (stats.topk_ids[:, 0] == tokens).tolist()))
        return found
