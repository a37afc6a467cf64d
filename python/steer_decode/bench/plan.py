"""Which cases to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import SteerError

LOGITS_OPS = ("logit_stats", "sample_logits")
OPS = (*LOGITS_OPS, "kv_append_", "step_update_")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
MAX_K = 64  # that of logit_stats; not imported, as torch would come with it


@dataclass(frozen=True)
class Case:
    """One measurement; `vocab` and `k` are None where an op knows no such thing."""

    op: str
    dtype: str
    batch: int
    vocab: int | None
    k: int | None
    threads: int
    device: str = "cpu"

    def __str__(self) -> str:
        size = f"{self.batch}" if self.vocab is None else f"{self.batch}x{self.vocab}"
        return f"{self.op}-{size}-{self.dtype}-{self.device}-{self.threads}T"


@dataclass(frozen=True)
class Plan:
    """A grid of cases; the defaults are the full run."""

    ops: Sequence[str] = OPS
    batches: Sequence[int] = (1, 8, 64, 256)
    vocabs: Sequence[int] = (32_000, 50_257, 128_256, 151_936, 262_144)
    dtypes: Sequence[str] = DTYPES
    k: int = 8
    threads: Sequence[int] = (1,)
    device: str = "cpu"

    def check(self) -> None:
        """
        Raises:
            SteerError: a name is unknown, a list empty, or a number out of range.
        """
        known("op", self.ops, OPS)
        known("dtype", self.dtypes, DTYPES)
        known("device", [self.device], DEVICES)
        for name, numbers in (("batches", self.batches), ("threads", self.threads)):
            if not numbers or min(numbers) < 1:
                raise SteerError(f"--{name} must be numbers from 1 on, got {_joined(numbers)}")
        if not 1 <= self.k <= MAX_K:
            raise SteerError(f"--k must be in 1..{MAX_K}, got {self.k}")
        if not self.vocabs or min(self.vocabs) < self.k:
            raise SteerError(
                f"--vocabs must be numbers from k = {self.k} on, got {_joined(self.vocabs)}"
            )

    def cases(self) -> list[Case]:
        """The grid; small batches first, as a run that is cut off then has the most to show."""
        found = []
        for threads in self.threads:
            for batch in self.batches:
                for op in self.ops:
                    found += self._of_op(op, batch, threads)
        return found

    def _of_op(self, op: str, batch: int, threads: int) -> list[Case]:
        case = Case(op, "float32", batch, None, None, threads, self.device)
        if op == "step_update_":  # the type of its score is fixed; V is that of the class table
            return [replace(case, vocab=max(self.vocabs))]
        if op == "kv_append_":
            return [replace(case, dtype=dtype) for dtype in self.dtypes]
        return [
            replace(case, dtype=dtype, vocab=vocab, k=self.k)
            for vocab in self.vocabs
            for dtype in self.dtypes
        ]


QUICK = Plan(batches=(1, 8), vocabs=(32_000, 151_936), dtypes=("float32", "bfloat16"))


def known(what: str, names: Sequence[str], names_known: Sequence[str]) -> None:
    """
    Raises:
        SteerError: a name is not among ``names_known``, or there is none.
    """
    unknown = [name for name in names if name not in names_known]
    if unknown or not names:
        wrong = f"unknown {what} {unknown[0]!r}" if unknown else f"no {what}"
        raise SteerError(f"{wrong}: choose from {', '.join(names_known)}")


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)) or "none"
