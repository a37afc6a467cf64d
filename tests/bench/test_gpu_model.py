"""The model of time: its constants, what follows from them, and its error beside a measurement."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from support import gpu_path
from torch import Tensor

import gpu_model  # isort: skip
from gpu_model import CARDS, CONSTANTS, TARGETS, lines, measured, predict, search  # isort: skip

H100, H200 = CARDS
PARAMS = (gpu_path.ROOT / "csrc/cuda/rows_params.h").read_text()


def test_every_constant_has_a_source() -> None:
    for name, constant in CONSTANTS.items():
        assert constant.value > 0, name
        assert len(constant.source) > 10, name
        assert constant.unit, name


def test_the_plan_of_a_launch_is_that_of_the_kernel() -> None:
    assert f"kRowBlocksPerSm = {CONSTANTS['blocks_per_sm'].value};" in PARAMS
    assert f"kTileBytes = {CONSTANTS['tile_columns'].value * 2};" in PARAMS
    assert f"kRowThreads = {32 * CONSTANTS['warps_per_block'].value};" in PARAMS


def test_targets_are_those_of_the_batches_and_cards() -> None:
    stats = {(t.batch, card): us for t in TARGETS if t.op == "logit_stats"
             for card, us in t.us.items()}  # fmt: skip
    assert stats == {
        (1, "H100 SXM"): 6, (8, "H100 SXM"): 7, (64, "H100 SXM"): 9, (256, "H100 SXM"): 29,
        (1, "H200 SXM"): 6, (8, "H200 SXM"): 7, (64, "H200 SXM"): 9, (256, "H200 SXM"): 20,
    }  # fmt: skip
    for target in TARGETS:
        if target.op == "sample_logits":  # at most twice the time of logit_stats
            assert target.us == {c: 2 * stats[target.batch, c] for c in target.us}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_bytes_are_a_floor_and_more_work_takes_longer(card: gpu_model.Card) -> None:
    times = [predict(card, batch).us for batch in (1, 8, 64, 256, 1024)]
    assert times == sorted(times)
    for batch in (1, 8, 64, 256):
        plain, drawn = predict(card, batch), predict(card, batch, temperature=True)
        assert drawn.us > plain.us
        assert drawn.slots > plain.slots
        assert drawn.exponentials == 2 * plain.exponentials
        read = batch * 151_936 * 2 / (card.bandwidth * 1e6)  # us
        assert plain.memory > read
        assert plain.us > plain.stream > read


def test_what_bounds_a_launch() -> None:
    """By hand: 256 rows of 304 kB at 90 % of 4.8 TB/s; 149 tiles a row, 275 instructions each."""
    found = predict(H200, 256)
    assert found.memory == pytest.approx(77.79e6 / 4.32e6 + 0.303, rel=1e-3)
    tiles = math.ceil(256 * 149 / 132)
    assert found.slots == pytest.approx(tiles * 275 / (4 * 0.75) / 1980, rel=1e-6)
    assert found.bound == "memory"
    assert predict(H200, 1).bound == "one warp"


def test_the_search_for_a_cut() -> None:
    """By hand: a tile a program at B = 1; at B = 64 the slots of 37 tiles on a multiprocessor."""
    hand_over = 2 * (350 + 500) + 3 * 270 + 1500
    cycles = 5 * hand_over + 5 * 270 + 2 * (4 * 1400 + 280)
    assert search(H200, 1) == pytest.approx(2.0 + cycles / 1980, rel=1e-6)
    cycles = 5 * hand_over + 37 * 4 * (4 * 1400 + 280) / (4 * 0.75)
    assert search(H200, 64) == pytest.approx(2.0 + cycles / 1980, rel=1e-6)


def threshold(x: Tensor, k: int) -> tuple[int, int, int, int]:
    """As csrc/cuda/row_list.h: steps, tiles that reach it, their lanes, elements. bf16 [V]."""
    tiles = math.ceil(len(x) / 1024)
    padded = torch.full((tiles * 1024,), -torch.inf, dtype=torch.bfloat16)
    padded[: len(x)] = x
    bits = padded.view(torch.int16).int()
    keys = torch.where(bits < 0, bits ^ 0x7FFF, bits).view(tiles, 4, 32, 8)
    of_tiles, of_lanes = keys.amax((1, 2, 3)), keys.amax((1, 3))
    low, high, count, steps = int(of_tiles.min()), int(of_tiles.max()) + 1, tiles, 0
    while count > k + 4 and high - low > 1:
        tried, steps = low + (high - low) // 2, steps + 1
        reach = int((of_tiles >= tried).sum())
        low, high, count = (tried, high, reach) if reach >= k else (low, tried, count)
    return steps, count, int((of_lanes >= low).sum()), int((keys >= low).sum())


def test_counts_of_normal_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    trials = torch.tensor(
        [
            threshold((torch.randn(151_936, generator=generator) * 4).bfloat16(), 20)
            for _ in range(9)
        ]
    )
    names = ("steps", "tiles_chosen", "lanes_chosen", "candidates")
    for name, median in zip(names, trials.double().median(0).values.tolist(), strict=True):
        assert abs(CONSTANTS[name].value - median) <= 2, (name, median)


def test_the_error_stands_beside_what_was_measured(tmp_path: Path) -> None:
    row = {"op": "logit_stats", "sampling": None, "batch": 8, "vocab": 151_936, "k": 20,
           "dtype": "bfloat16", "device": "cuda", "clock": "graph", "backend": "cuda",
           "median_us": 10.0}  # fmt: skip
    others = [
        row | change | {"median_us": 1.0}
        for change in (
            {"clock": "wall"},
            {"backend": "triton"},
            {"vocab": 1000},
            {"device": "cpu"},
            {"k": 8},
        )
    ]
    folder = tmp_path / "nvidia-h200-2027-01-01"
    folder.mkdir()
    (folder / "measure.json").write_text(json.dumps({"rows": [*others, row, *others]}))
    assert measured(tmp_path, "H200 SXM") == {("logit_stats", None, 8): 10.0}
    assert measured(tmp_path, "H100 SXM") == {}
    table = list(lines([H200], tmp_path))
    (line,) = (text for text in table if text.endswith("%  |") or "| 10.0 |" in text)
    error = 100 * (predict(H200, 8).us / 10.0 - 1)
    assert line.startswith("| H200 SXM | logit_stats | 8 | 7 |")
    assert f"| {error:+.0f} % |" in line
    assert len(table) == 2 + len(TARGETS)
    assert sum(text.endswith("|  |  |") for text in table) == len(TARGETS) - 1


def test_without_a_measurement_the_columns_are_empty(tmp_path: Path) -> None:
    assert all(text.endswith("|  |  |") for text in list(lines(CARDS, tmp_path))[2:])
