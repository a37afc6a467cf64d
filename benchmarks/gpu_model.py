"""A model of the time of logit_stats and sample_logits on a card, from counts, latencies and bytes.

    python benchmarks/gpu_model.py                  the targets and what the model predicts
    python benchmarks/gpu_model.py --results DIR    beside what `make gpu-check` has measured there

Each constant has its source. Counts are read off compiled code or follow from the plan of a launch;
latencies are from published microbenchmarks and may be off by a third. **Nothing here is
measured**, but for the last two columns, which are empty until a card has run.

A launch of csrc/cuda/rows.cu is: launch, stream, finish. Stream is what takes longest of the bytes,
the warp schedulers' slots, the exponentials and one warp's own tiles one after another. Finish is
what the last warp of a row does, step by step; rows that end earlier finish while others stream.
Where no row's list decides a cut, steer_kernels/triton/select.py follows: a launch of steps, each
of which streams the row from L2 and hands over to the next.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"
VOCAB, K, ITEMSIZE = 151_936, 20, 2  # of all targets


class Constant(NamedTuple):
    """A number and where it is from."""

    value: float
    unit: str
    source: str


_JIA = "Luo and others, Benchmarking and Dissecting the NVIDIA Hopper GPU (2024)"
_PTX = "counted in the code of nvcc 13.0, sm_90: tests/kernels/test_hot_loops.py"
_PLAN = "csrc/cuda/rows_params.h"
_TRIAL = "counted on 151 936 normal logits of deviation 4: tests/bench/test_gpu_model.py"
_SEARCH = "steer_kernels/triton/pivots.py"
_TRITON = "counted in the code of Triton 3.9, sm_90: tests/kernels/test_hot_loops.py"
_ASSUMED = "assumed: no source; what a card says first"

CONSTANTS = {
    "tile_columns": Constant(1024, "columns", f"{_PLAN}: 2048 bytes of bf16"),
    "blocks_per_sm": Constant(5, "blocks", _PLAN),
    "warps_per_block": Constant(4, "warps", _PLAN),
    "tile_instructions": Constant(275, "instructions", _PTX),
    "mass_instructions": Constant(103, "more a tile, of a temperature", _PTX),
    "exponentials": Constant(32, "a lane and tile", "csrc/cuda/row_tile.h"),
    "schedulers": Constant(4, "an SM", "NVIDIA H100 white paper"),
    "exponentials_per_clock": Constant(16, "an SM", "CUDA C++ programming guide, throughput"),
    "issue": Constant(0.75, "of all slots", "gpu.md of the review: what a full SM reaches"),
    "one_warp": Constant(0.5, "instructions a cycle of a warp alone", _ASSUMED),
    "bandwidth": Constant(0.9, "of the peak", "quack's softmax reaches 89.7 %"),
    "launch": Constant(2.0, "us, of a graph's node to its first instruction", _ASSUMED),
    "dram": Constant(600, "cycles", _JIA),
    "l2": Constant(270, "cycles", _JIA),
    "atomic": Constant(350, "cycles", _ASSUMED),
    "fence": Constant(500, "cycles of a release and acquire for the whole GPU", _ASSUMED),
    "shared": Constant(30, "cycles", _JIA),
    "reduction": Constant(25, "cycles of redux, ballot or shuffle", _JIA),
    "steps": Constant(6, "of the threshold, k = 20", _TRIAL),
    "tiles_chosen": Constant(22, "k = 20", _TRIAL),
    "lanes_chosen": Constant(23, "k = 20", _TRIAL),
    "candidates": Constant(23, "k = 20", _TRIAL),
    "search_columns": Constant(2048, "columns of a tile", _SEARCH),
    "search_instructions": Constant(1400, "a tile and warp, to narrow a cut", _TRITON),
    "draw_instructions": Constant(280, "a tile and warp, to draw", _TRITON),
    "search_steps": Constant(4, "of 4 bits each: as many as bf16 has", _SEARCH),
    "merge": Constant(1500, "cycles to merge a row's sums and choose", _ASSUMED),
}


def c(name: str) -> float:
    return CONSTANTS[name].value


@dataclass(frozen=True)
class Card:
    """What the model needs to know of a card."""

    name: str
    sms: int
    clock: float  # GHz
    bandwidth: float  # TB/s


CARDS = (
    Card("H100 SXM", 132, 1.755, 3.35),  # NVIDIA's data sheet; clock under load, gpu.md
    Card("H200 SXM", 132, 1.98, 4.8),
)


class Target(NamedTuple):
    """A line of the table."""

    op: str
    sampling: str | None
    batch: int
    us: dict[str, float]  # by card


TARGETS = [
    Target("logit_stats", None, 1, {"H100 SXM": 6, "H200 SXM": 6}),
    Target("logit_stats", None, 8, {"H100 SXM": 7, "H200 SXM": 7}),
    Target("logit_stats", None, 64, {"H100 SXM": 9, "H200 SXM": 9}),
    Target("logit_stats", None, 256, {"H100 SXM": 29, "H200 SXM": 20}),
]
# With a temperature of its own sample_logits has no target but twice the time of logit_stats.
TARGETS += [
    Target("sample_logits", "plain", t.batch, {card: 2 * us for card, us in t.us.items()})
    for t in list(TARGETS)
]
# Nor have cuts that no list decides.
TARGETS += [
    Target("sample_logits", "top_p=0.95", t.batch, {card: 2 * us for card, us in t.us.items()})
    for t in TARGETS
    if t.op == "logit_stats" and t.batch in (1, 64)
]


@dataclass(frozen=True)
class Predicted:
    """Microseconds of the parts of a launch."""

    launch: float
    memory: float
    slots: float
    exponentials: float
    one_warp: float
    finish: float

    @property
    def stream(self) -> float:
        return max(self.memory, self.slots, self.exponentials, self.one_warp)

    @property
    def bound(self) -> str:
        names = ("memory", "slots", "exponentials", "one_warp")
        return max(names, key=lambda name: getattr(self, name)).replace("_", " ")

    @property
    def us(self) -> float:
        return self.launch + self.stream + self.finish


def predict(card: Card, batch: int, temperature: bool = False, vocab: int = VOCAB) -> Predicted:
    """The time of csrc/cuda/rows.cu on bf16 logits with a cold L2.

    Args:
        temperature: whether a token is drawn at another temperature than 0 and 1.
    """
    tiles = math.ceil(vocab / c("tile_columns"))
    units = batch * tiles
    cycle = 1e-3 / card.clock  # us
    warps = card.sms * c("blocks_per_sm") * c("warps_per_block")
    on_one_sm = math.ceil(units / card.sms)
    each = math.ceil(units / min(units, warps))
    instructions = c("tile_instructions") + temperature * c("mass_instructions")
    powers = 32 * c("exponentials") * (1 + temperature)
    return Predicted(
        launch=c("launch"),
        memory=batch * vocab * ITEMSIZE / (card.bandwidth * 1e6 * c("bandwidth"))
        + c("dram") * cycle,
        slots=on_one_sm * instructions / (c("schedulers") * c("issue")) * cycle,
        exponentials=on_one_sm * powers / c("exponentials_per_clock") * cycle,
        one_warp=(c("dram") + each * instructions / c("one_warp")) * cycle,
        finish=sum(finish(tiles, temperature).values()) * cycle,
    )


def finish(tiles: int, draws: bool = False) -> dict[str, float]:
    """Cycles of what the last warp does with a row, step by step, k = 20.

    Instructions are those of the source's loops, roughly; what is waited for is in the constants.
    """
    alone, reduction = c("one_warp"), c("reduction")
    found = {
        "arrive": c("atomic") + c("fence"),
        "merge": math.ceil(tiles / 256) * (c("l2") + 200 / alone) + 2 * 5 * (reduction + 20),
        "threshold": 3 * reduction + c("steps") * (reduction + 25 / alone),
        "tiles": math.ceil(min(tiles, 256) / 32) * (2 * reduction + c("shared") + 12 / alone),
        "lanes": math.ceil(c("tiles_chosen") / 16) * (c("l2") + 6 * reduction + 180 / alone),
        "elements": math.ceil(4 * c("lanes_chosen") / 64)
        * (c("l2") + 2 * (60 / alone + 2 * (2 * reduction + 20 / alone))),
        "ranks": c("candidates") * 8 / alone,
        "store": 100 / alone,
    }
    if draws:
        scans = math.ceil(tiles / 32) + 2
        found["draw"] = 3 * c("l2") + scans * (10 * reduction + 40 / alone)
    return found


def search(card: Card, batch: int, vocab: int = VOCAB) -> float:
    """Microseconds of the search for a cut that no row's list decides, and of the draw."""
    tiles = math.ceil(vocab / c("search_columns"))
    programs = min(tiles, math.ceil(4 * card.sms / batch))  # heuristics.py
    each, on_one_sm = math.ceil(tiles / programs), math.ceil(batch * tiles / card.sms)
    hand_over = 2 * (c("atomic") + c("fence")) + 3 * c("l2") + c("merge")

    def step(instructions: float) -> float:
        slots = on_one_sm * 4 * instructions / (c("schedulers") * c("issue"))
        return max(slots, c("l2") + each * instructions / c("one_warp")) + hand_over

    cycles = c("search_steps") * step(c("search_instructions")) + step(c("draw_instructions"))
    return c("launch") + cycles * 1e-3 / card.clock


# ---- beside what was measured --------------------------------------------------------------------


def measured(folder: Path, card: str) -> dict[tuple[str, str | None, int], float]:
    """Microseconds in a graph of what `make gpu-check` has written in folders of a card.

    A rehearsal, and rows of another kernel than the CUDA part's, are left out.
    """
    found: dict[tuple[str, str | None, int], float] = {}
    files = sorted(folder.glob("*/measure.json"))
    name = card.split()[0].lower()
    for file in (file for file in files if name in file.parent.name.lower()):
        said = json.loads(file.read_text(encoding="utf-8"))
        for row in said.get("rows", []):
            same = row["vocab"] == VOCAB and row["k"] == K and row["dtype"] == "bfloat16"
            where = row["device"], row["clock"], row["backend"]
            if same and where == ("cuda", "graph", "cuda"):
                found[row["op"], row["sampling"], row["batch"]] = row["median_us"]
    return found


_SAMPLINGS = {"plain": "temperature", "top_p=0.95": "top_p 0.95 beyond the list"}


def lines(cards: Iterable[Card], results: Path) -> Iterator[str]:
    """The table, in Markdown."""
    yield ("| card | op | B | target, us | predicted, us | bound by | finish, us | measured, us "
           "| error |")  # fmt: skip
    yield "|---|---|---:|---:|---:|---|---:|---:|---:|"
    for card in cards:
        there = measured(results, card.name)
        for op, sampling, batch, us in TARGETS:
            guess = predict(card, batch, sampling == "plain")
            searched = 0.0 if sampling in (None, "plain") else search(card, batch)
            predicted, bound = guess.us + searched, "the search" if searched else guess.bound
            real = there.get((op, sampling, batch))
            name = op if sampling is None else f"{op}, {_SAMPLINGS.get(sampling, sampling)}"
            shown = ["", ""]
            if real is not None:
                shown = [f"{real:.1f}", f"{100 * (predicted / real - 1):+.0f} %"]
            yield (f"| {card.name} | {name} | {batch} | {us[card.name]:g} | {predicted:.1f} | "
                   f"{bound} | {guess.finish:.1f} | {shown[0]} | {shown[1]} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folders of gpu-check")
    options = parser.parse_args()
    print("Predicted, not measured: benchmarks/gpu_model.py\n")
    print("\n".join(lines(CARDS, options.results)))
    print("\n| constant | value | unit | source |\n|---|---:|---|---|")
    for name, constant in CONSTANTS.items():
        print(f"| {name} | {constant.value:g} | {constant.unit} | {constant.source} |")


if __name__ == "__main__":
    main()
