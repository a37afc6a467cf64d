"""A folder that ``generate`` is told: the same answers as with a router made in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import SteerError
from steer_decode.decode.hf_generate.exported import generate
from steer_decode.policies import parse_policy
from support.side_door import LIMIT, ONE, PAIR, THREE, door
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from steer_decode.cli import app

    made = tmp_path_factory.mktemp("hub") / "routed"
    result = CliRunner().invoke(app, ["export-generate", str(made)])
    assert result.exit_code == 0, result.output
    return made


def told(folder: Path, inputs: dict[str, Any], **options: Any) -> Any:
    return PAIR.small.generate(
        **inputs,
        custom_generate=str(folder),
        trust_remote_code=True,
        tokenizer=PAIR.tokenizer,
        large_model=PAIR.large,
        max_new_tokens=LIMIT,
        **options,
    )


@pytest.mark.parametrize("router", ["speculative:k=4", "first-token:threshold=3", "random"])
@pytest.mark.parametrize("inputs", [ONE, THREE], ids=["one", "three"])
@pytest.mark.few(2)
def test_the_folder_answers_as_the_router_does(
    folder: Path, router: str, inputs: dict[str, Any]
) -> None:
    found = told(folder, inputs, router=router)
    assert torch.equal(found, door(parse_policy(router), inputs))


def test_by_default_the_answer_is_the_large_models(folder: Path) -> None:
    assert torch.equal(told(folder, ONE), door(parse_policy("large"), ONE))


def test_what_comes_back_has_the_trace(folder: Path) -> None:
    found = told(folder, ONE, router="random", return_dict_in_generate=True)
    assert found.steer[0].trace.policy.startswith("random")


def test_a_large_model_by_its_folder(folder: Path, tmp_path: Path) -> None:
    PAIR.large.save_pretrained(tmp_path)
    found = generate(
        PAIR.small,
        tmp_path,
        PAIR.tokenizer,
        "first-token:threshold=3",
        max_new_tokens=LIMIT,
        **ONE,
    )
    assert torch.equal(found, door(parse_policy("first-token:threshold=3"), ONE))


@pytest.mark.slow
def test_without_a_large_model(folder: Path) -> None:
    with pytest.raises(SteerError, match="large_model is missing"):
        PAIR.small.generate(**ONE, custom_generate=str(folder), trust_remote_code=True)
    with pytest.raises(SteerError, match="cannot be loaded"):
        generate(PAIR.small, "no/such-model-anywhere", PAIR.tokenizer, **ONE)


def test_a_folder_that_is_there_is_not_written_over(folder: Path) -> None:
    from steer_decode.cli import app

    result = CliRunner().invoke(app, ["export-generate", str(folder)])
    assert result.exit_code == 2
    assert CliRunner().invoke(app, ["export-generate", str(folder), "--force"]).exit_code == 0
