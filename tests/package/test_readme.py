"""The README stays short, its Python runs, and the documents name the commands that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from steer_decode.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_it_can_be_read_at_one_sitting() -> None:
    assert 115 <= len(README.splitlines()) <= 150


def test_its_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in python_blocks(README):
        exec(compile(block, "README.md", "exec"), names)
    assert names["out"].text in capsys.readouterr().out
    assert len(names["outs"]) == 16
    assert names["stats"].topk_ids.shape == (8, 8)


def test_the_pool_of_the_loop_s_page_runs() -> None:
    """The example of docs/loop.md, whose answers are those of a router alone."""
    page = (ROOT / "docs/loop.md").read_text(encoding="utf-8")
    (block,) = python_blocks(page[page.index("## Rows that come and go") :])
    names: dict[str, Any] = {}
    prompts = re.findall(r'"(Compute .*?)"', block)
    exec(compile(block, "docs/loop.md", "exec"), names)
    assert names["pool"].held_bytes == 0
    texts = [names["answers"][key].output.text for key in range(len(prompts))]
    assert texts == [out.text for out in names["router"].generate(prompts, max_new_tokens=200)]
    assert len(texts) == 3


def test_the_words_of_the_mission_stand_beside_our_names() -> None:
    where = README[README.index("## Where things are") :].lower()
    for theirs, ours in [
        ("shared-kv hand-over", "`kv_append_`"),
        ("softmax entropy and top-k margin", "`logit_stats`"),
        ("thin loop", "decode/`"),
    ]:
        (line,) = [line for line in where.splitlines() if theirs in line]
        assert ours in line


@pytest.mark.parametrize("page", ["README.md", "docs/command-line.md"])
def test_every_command_that_is_shown_is_there(page: str) -> None:
    shown = re.findall(r"^ {4}steer ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"), re.M)
    assert shown
    assert set(shown) <= commands()


def test_the_table_of_commands_is_whole() -> None:
    page = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `steer ([a-z-]+)` \|", page, re.M)) == commands()


def commands() -> set[str]:
    import typer

    return set(typer.main.get_command(app).commands)
