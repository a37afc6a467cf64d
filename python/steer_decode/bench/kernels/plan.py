"""Which cases to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import SteerError

LOGITS_OPS = ("logit_stats", "sample_logits")
OPS = (*LOGITS_OPS, "accept_drafts", "kv_append_", "step_update_")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
MAX_K = 64  # that of logit_stats; not imported, as torch would come with it

# Keyword arguments of sample_logits by the name of what is measured. On the noise that is measured
# the nucleus of 0.95 is longer than any list of the kernels: the row does not decide it.
SAMPLINGS: dict[str, dict[str, float]] = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "top_p=0.95": {"top_p": 0.95},
    "top_k=50": {"top_k": 50},
}
# On CUDA: the device's time of a call, of a call within a graph of many, and the time on the host
# from the call to the end of the synchronisation that follows it.
CLOCKS = ("events", "graph", "wall")


@dataclass(frozen=True)
class Case:
    """One measurement.

    `vocab`, `k` and `sampling` are None where an op knows no such thing.
    """

    op: str
    dtype: str
    batch: int
    vocab: int | None
    k: int | None
    threads: int
    device: str = "cpu"
    sampling: str | None = None

    def __str__(self) -> str:
        size = f"{self.batch}" if self.vocab is None else f"{self.batch}x{self.vocab}"
        op = self.op if self.sampling in (None, "plain") else f"{self.op}-{self.sampling}"
        return f"{op}-{size}-{self.dtype}-{self.device}-{self.threads}T"


@dataclass(frozen=True)
class KernelPlan:
    """A grid of cases; the defaults are the full run."""

    ops: Sequence[str] = OPS
    batches: Sequence[int] = (1, 8, 64, 256)
    vocabs: Sequence[int] = (32_000, 50_257, 128_256, 151_936, 262_144)
    dtypes: Sequence[str] = DTYPES
    k: int = 8
    threads: Sequence[int] = (1,)
    device: str = "cpu"
    samplings: Sequence[str] = ("plain",)

    def check(self) -> None:
        """Check that the plan can be run.

        Raises:
            SteerError: a name is unknown, a list empty, or a number out of range.
        """
        known("op", self.ops, OPS)
        known("dtype", self.dtypes, DTYPES)
        known("device", [self.device], DEVICES)
        known("sampling", self.samplings, tuple(SAMPLINGS))
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
        """The grid, small batches first.

        So a run that is cut off has the most to show.
        """
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
        samplings = self.samplings if op == "sample_logits" else (None,)
        return [
            replace(case, dtype=dtype, vocab=vocab, k=self.k, sampling=sampling)
            for vocab in self.vocabs
            for dtype in self.dtypes
            for sampling in samplings
        ]


QUICK = KernelPlan(batches=(1, 8), vocabs=(32_000, 151_936), dtypes=("float32", "bfloat16"))


def known(what: str, names: Sequence[str], names_known: Sequence[str]) -> None:
    """Check that all names are known.

    Raises:
        SteerError: a name is not among ``names_known``, or there is none.
    """
    unknown = [name for name in names if name not in names_known]
    if unknown or not names:
        wrong = f"unknown {what} {unknown[0]!r}" if unknown else f"no {what}"
        raise SteerError(f"{wrong}: choose from {', '.join(names_known)}")


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)) or "none"
