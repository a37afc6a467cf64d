"""The demo pair's training: it learns, and a resumed run gives the same weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from steer_decode.demo.training import measure
from steer_decode.demo.training import train as training
from steer_decode.demo.training.recipes import SMALL

TINY = dataclasses.replace(
    SMALL, layers=1, width=32, heads=1, inner=64, steps=30, warm_up=3, batch=24, chunk=12
)


def test_training_lowers_the_loss_and_threads_change_nothing() -> None:
    one, two = training.Trainer(TINY, 0, 1), training.Trainer(TINY, 0, 2)
    losses = [one.train_step() for _ in range(20)]
    assert sum(losses[-3:]) / 3 < 0.75 * losses[0]
    assert [two.train_step() for _ in range(3)] == losses[:3]


def test_a_resumed_run_gives_the_same_weights(tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, weights=None, steps=6)
    whole = training.Trainer(recipe, 3, 1)
    for _ in range(6):
        whole.train_step()
    first = training.Trainer(recipe, 3, 1)
    for _ in range(3):
        first.train_step()
    first.save(tmp_path / "state.pt")
    second = training.Trainer(recipe, 3, 1)
    second.load(tmp_path / "state.pt")
    for _ in range(3):
        second.train_step()
    for mine, theirs in zip(whole.parameters, second.parameters, strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(ValueError, match="another seed or model shape"):
        training.Trainer(recipe, 4, 1).load(tmp_path / "state.pt")


def test_bad_options_end_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["--steps", "0"]) == 2
    assert "--steps 0 must be 1 or more" in capsys.readouterr().err
    assert measure.main(["--n", "0"]) == 2
    assert "--n 0" in capsys.readouterr().err
