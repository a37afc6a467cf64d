"""Two models side by side.

What keeps them from answering together, and what it would cost.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ..core.shape import ModelShape
from ..core.transcript import WRITERS, Writer
from ..engines.hf.memory import available_bytes, cache_needs
from ..engines.hf.probe import Probe, probe
from ..models.loading import load_model
from ..models.pair import Pair
from ..models.vocabulary import Difference, differences
from ..util.text import count, short
from .agreement import PROMPTS, agreement
from .break_even import BreakEven, break_even
from .side import Side
from .speculation import Agreement, Prices, prices, speculation_facts

CONTEXT = 4096  # tokens that memory is reckoned for, where the context has as many
SHOWN = 5  # tokens that differ


@dataclass(frozen=True)
class Fit:
    """What was found out about a pair.

    Attributes:
        small, large: either model.
        context: tokens of an answer, prompt included, that memory and costs are reckoned for.
        cohort: answers at a time.
        device: where they are to run.
        available: bytes that can be allocated there now.
        differences: the ids that stand for different tokens.
        probes: what was found when the models were loaded and tried; empty if they were not.
        agreement: how often they agree, likewise; None if they cannot answer together.
    """

    small: Side
    large: Side
    context: int
    cohort: int
    device: torch.device
    available: int
    differences: tuple[Difference, ...]
    probes: Mapping[Writer, Probe] = field(default_factory=dict)
    agreement: Agreement | None = None

    def probed(
        self, dtype: torch.dtype | str, prompts: Sequence[str] = PROMPTS, **options: Any
    ) -> Fit:
        """The same with what the models do when they run.

        Each is loaded and tried, and its weights are counted. How often they agree is measured on
        answers to ``prompts``.

        Raises:
            SteerError: a model cannot be loaded.
        """
        sides, probes, models = [], {}, {}
        for writer in WRITERS:
            side = self.side(writer)
            model = load_model(writer, side.source, dtype, options).to(self.device).eval()
            sides.append(replace(side, shape=ModelShape.of(model)))
            probes[writer], models[writer] = probe(model), model
        tried = replace(self, small=sides[0], large=sides[1], probes=probes)
        if not tried.fits:
            return tried
        with warnings.catch_warnings():  # of templates, which `notes` has
            warnings.simplefilter("ignore")
            pair = Pair(models["small"], models["large"], self.small.tokenizer)
        return replace(tried, agreement=agreement(pair, prompts))

    def side(self, writer: Writer) -> Side:
        return self.small if writer == "small" else self.large

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Why the two cannot answer together; none if they can."""
        found = [f"the {w} model {p}" for w in WRITERS for p in self.side(w).problems]
        found += [f"the {w} model {p}" for w, tried in self.probes.items() for p in tried.problems]
        if self.differences:
            first = self.differences[0]
            found.append(
                f"the tokenizers differ in {count(len(self.differences), 'id')}, the first is "
                f"{first.id}, {_word(first.small)} for the small model and {_word(first.large)} "
                "for the large one"
            )
        return tuple(found)

    @property
    def fits(self) -> bool:
        """Whether the two can answer together."""
        return not self.problems

    @cached_property
    def shapes(self) -> dict[Writer, ModelShape]:
        """The sizes of both models.

        They are empty where one of them is refused.
        """
        found = {w: self.side(w).shape for w in WRITERS}
        if None in found.values():
            return {}
        return {w: shape for w, shape in found.items() if shape is not None}

    @cached_property
    def costs(self) -> tuple[BreakEven, ...]:
        """Costs of either model's token, and where routing saves."""
        if not self.shapes:
            return ()
        return break_even(self.shapes["small"], self.shapes["large"], self.context - 1, self.cohort)

    @cached_property
    def prices(self) -> tuple[Prices, ...]:
        """What drafts and passes over them cost, by each cost."""
        if not self.shapes:
            return ()
        return prices(self.shapes["small"], self.shapes["large"], self.context - 1, self.cohort)

    @cached_property
    def caches(self) -> dict[Writer, int]:
        """Bytes of the keys and values.

        By the function that refuses answers which do not fit.
        """
        return cache_needs(self.shapes, self.context, self.cohort)

    @property
    def weights(self) -> dict[Writer, int]:
        """Bytes of the weights in memory."""
        return {w: shape.held_bytes for w, shape in self.shapes.items()}

    @property
    def needed(self) -> int:
        """Bytes of weights, keys and values of both models."""
        return sum(self.weights.values()) + sum(self.caches.values())

    @property
    def templates(self) -> str:
        """Whose chat templates there are.

        "same", "differ", "none", or which model has the only one: "small", "large".
        """
        small, large = (getattr(self.side(w).tokenizer, "chat_template", None) for w in WRITERS)
        if not small and not large:
            return "none"
        if not small or not large:
            return "small" if small else "large"
        return "same" if small == large else "differ"

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What else a user should know."""
        found = [f"the {w} model {note}" for w in WRITERS for note in self.side(w).notes]
        found += [f"the {w} model {note}" for w, p in self.probes.items() for note in p.notes]
        said = {
            "differ": "the chat templates differ: the small model's serves both",
            "small": "the large model has no chat template: the small model's serves both",
            "large": "the small model has no chat template: the large model's serves both",
        }
        if self.templates in said:
            found.append(said[self.templates])
        if self.small.eos_ids != self.large.eos_ids:
            found.append("the ids that end an answer differ: those of either end it")
        if not self.small.eos_ids | self.large.eos_ids:
            found.append("neither model has an id that ends an answer: answers end at their limit")
        limit = self.limit
        if limit is not None and self.context > limit:
            found.append(
                f"the context of the pair holds {limit} tokens, {self.context} are asked for"
            )
        if self.shapes and self.needed > self.available:
            found.append(
                f"{self.needed:,} bytes are needed on {self.device} and {self.available:,} are "
                "available: not on this machine as it is now"
            )
        if self.costs and self.costs[0].small >= self.costs[0].large:
            found.append("the small model has no fewer active parameters than the large one")
        return tuple(found)

    @property
    def limit(self) -> int | None:
        """Longest text that both models have positions for.

        None where nothing says.
        """
        limits = [self.side(w).context for w in WRITERS]
        limits += [tried.serving.limit for tried in self.probes.values()]
        return min((limit for limit in limits if limit), default=None)

    @property
    def verdict(self) -> str:
        """One sentence that says it all."""
        if not self.fits:
            return f"They do not fit: {'; '.join(self.problems)}."
        papers, processed, _ = self.costs
        return (
            f"They fit: one vocabulary of {len(self.small.tokenizer.get_vocab()):,} tokens, and a "
            f"token of the small model costs {papers.ratio:.3g} of one of the large model in FLOPs "
            f"as papers count them, {processed.ratio:.3g} processed, {self.costs[2].ratio:.3g} in "
            "bytes."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "fits": self.fits,
            "verdict": self.verdict,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "context": self.context,
            "cohort": self.cohort,
            "vocabulary": {
                "differences": len(self.differences),
                "first": [d._asdict() for d in self.differences[:SHOWN]],
            },
            "chat_templates": self.templates,
            "longest": self.limit,
            "memory": {
                "device": str(self.device),
                "weights": self.weights,
                "caches": self.caches,
                "needed": self.needed,
                "available": self.available,
            },
            "probes": {w: _tried(probe) for w, probe in self.probes.items()},
            "costs": [{**asdict(cost), "ratio": cost.ratio} for cost in self.costs],
            "speculation": speculation_facts(self.prices, self.agreement),
            "models": {w: _facts(self.side(w)) for w in WRITERS},
        }


def examine(
    small: Side, large: Side, device: torch.device, context: int | None = None, cohort: int = 1
) -> Fit:
    """Compare two models.

    Args:
        small, large: as :func:`~steer_decode.preflight.read_side` reads them.
        device: where they are to run.
        context: tokens of an answer, prompt included; by default 4096, or what both hold if less.
        cohort: answers at a time.
    """
    limits = [CONTEXT, *(side.context for side in (small, large) if side.context)]
    return Fit(
        small=small,
        large=large,
        context=min(limits) if context is None else context,
        cohort=cohort,
        device=device,
        available=available_bytes(device),
        differences=differences(small.tokenizer, large.tokenizer),
    )


def _word(token: str | None) -> str:
    return "nothing" if token is None else short(token)


def _facts(side: Side) -> dict[str, Any]:
    shape = side.shape
    return {
        "source": side.source,
        "family": side.family,
        "dtype": str(side.dtype).removeprefix("torch."),
        "quantization": side.quantization.method if side.quantization else None,
        "tokens": len(side.tokenizer.get_vocab()),
        "eos_ids": sorted(side.eos_ids),
        "context": side.context,
        "problems": list(side.problems),
        "notes": list(side.notes),
        "parameters": side.parameters,
        "active": shape.active if shape else None,
        "weight_bytes": shape.held_bytes if shape else None,
        "cache_bytes_a_token": shape.cache_bytes(1) if shape else None,
        "experts": [asdict(e) for e in shape.experts] if shape else [],
    }


def _tried(probe: Probe) -> dict[str, Any]:
    return {
        "problems": list(probe.problems),
        "notes": list(probe.notes),
        "cohort": probe.cohort,
        "roll_back": probe.roll_back,
        "seconds": probe.seconds,
    }
