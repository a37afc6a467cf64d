"""The `steer` command: what it prints, what it writes, and how it ends on bad input."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import PROMPT, refused, save, steer
from support.tiny import VOCABULARY


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    other = [*VOCABULARY[:5], "else", *VOCABULARY[6:]]
    return {
        "small": save(folder / "small", 0),
        "large": save(folder / "large", 1),
        "foreign": save(folder / "foreign", 1, other),
        "broken": save(folder / "broken", 2, broken=True),
        "third": save(folder / "third", 3),
    }


@pytest.fixture
def pair(models: dict[str, str]) -> list[str]:
    return ["--small", models["small"], "--large", models["large"]]


class TestGenerate:
    def test_text_is_the_kept_steps_and_nothing_else(self, pair: list[str], tmp_path: Path) -> None:
        trace = tmp_path / "t.json"
        args = ["--threshold", 99, "--max-new-tokens", 30, "--trace", trace]
        result = steer("generate", PROMPT, *pair, *args)
        assert result.exit_code == 0
        data = json.loads(trace.read_text())
        steps = data["trace"]["steps"]
        assert steps[0]["discarded"]
        kept = "".join(step["text"] for step in steps if not step["discarded"])
        assert result.stdout.rstrip("\n") == kept.rstrip("\n")
        assert "\x1b" not in result.stdout

    def test_json_is_one_document(self, pair: list[str]) -> None:
        result = steer("generate", PROMPT, *pair, "--router", "large", "--compare", "--json")
        data = json.loads(result.stdout)
        assert data["prompt"] == PROMPT
        assert data["cost"]["large_token_share"] == 1
        assert data["compare"]["large"]["text"] == data["text"]
        assert set(data["compare"]) == {"small", "large"}

    def test_prompt_comes_from_argument_file_or_input(
        self, pair: list[str], tmp_path: Path
    ) -> None:
        file = tmp_path / "q.txt"
        file.write_text(PROMPT + "\n")
        args = [*pair, "--router", "small", "--json", "--max-new-tokens", 8]
        texts = {
            json.loads(result.stdout)["text"]
            for result in (
                steer("generate", PROMPT, *args),
                steer("generate", "--file", file, *args),
                steer("generate", "-", *args, input=PROMPT + "\n"),
                steer("generate", *args, input=PROMPT + "\n"),
            )
        }
        assert len(texts) == 1

    def test_options_win_over_the_specification(self, pair: list[str]) -> None:
        args = ["--router", "random:share=0", "--share", 1, "--max-new-tokens", 8, "--json"]
        data = json.loads(steer("generate", PROMPT, *pair, *args).stdout)
        assert data["trace"]["policy"] == "random:share=1"
        assert data["cost"]["large_token_share"] == 1

    def test_seed_decides_what_is_sampled(self, pair: list[str]) -> None:
        args = [*pair, "--router", "small", "--temperature", 1, "--max-new-tokens", 30]
        one, again, two = (steer("generate", PROMPT, *args, "--seed", s).stdout for s in (1, 1, 2))
        assert one == again != two

    def test_trace_view_marks_the_writers_without_colour(self, pair: list[str]) -> None:
        args = ["--threshold", 99, "--max-new-tokens", 30, "--view", "trace"]
        out = steer("generate", PROMPT, *pair, *args).stdout
        assert "\x1b" not in out
        assert "   0 S" in out
        assert "   0 L" in out
        assert "large model takes over, reads" in out
        assert "taken back" in out

    def test_demo_problem_is_graded(self) -> None:
        args = ["--problem", "qa:1", "--router", "large", "--json"]
        data = json.loads(steer("generate", *args).stdout)
        assert data["problem"] == "qa:1"
        typed = json.loads(steer("generate", data["prompt"], "--router", "large", "--json").stdout)
        assert typed["correct"] == data["correct"]
        assert data["correct"] in (True, False)

    def test_demo_pair_says_which_words_it_does_not_know(self) -> None:
        result = steer("generate", "What is 2+2?", "--router", "small", "--max-new-tokens", 4)
        assert result.exit_code == 0
        assert "unknown" in result.stderr


class TestBadInput:
    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (["generate", ""], "empty"),
            (["generate", "   "], "empty"),
            (["generate", PROMPT, "--router", "best"], "unknown router 'best'"),
            (["generate", PROMPT, "--router", "steer:alpha=1"], "no setting"),
            (["generate", PROMPT, "--router", "steer:threshold=high"], "must be a number"),
            (["generate", PROMPT, "--threshold", "high"], "--threshold"),
            (["generate", PROMPT, "--threshold", "nan"], "threshold must be a number"),
            (["generate", PROMPT, "--threshold", "1", "--signal", "mood"], "unknown signal"),
            (["generate", PROMPT, "--router", "small", "--gamma", "1"], "no setting"),
            (["generate", PROMPT, "--pair", "mine"], "unknown pair 'mine'"),
            (["generate", PROMPT, "--small", "x"], "--large"),
            (["generate", PROMPT, "--large", "x"], "--small"),
            (["generate", PROMPT, "--pair", "demo", "--small", "x", "--large", "y"], "not both"),
            (["generate", PROMPT, "--file", "x"], "twice"),
            (["generate", "--file", "/nowhere/q.txt"], "cannot read"),
            (["generate", "--problem", "poetry"], "unknown domain"),
            (["generate", "--problem", "math:one"], "whole number"),
            (["generate", "--problem", "math", "--small", "x", "--large", "y"], "demo pair"),
            (["generate", PROMPT, "--calibration", "/nowhere.json"], "cannot read calibration"),
            (["generate", PROMPT, "--router", "small", "--calibration", "x"], "no calibration"),
            (
                ["generate", PROMPT, "--threshold", "1", "--trace", "/dev/null/t.json"],
                "cannot write",
            ),
            (["generate", PROMPT, "--router", "small", "--device", "abacus"], "abacus"),
            (["generate", PROMPT, "--no-such-option"], "--no-such-option"),
            (["eval", "--domains", "poetry"], "unknown domain"),
            (["eval", "--n", "0"], "at least 1"),
            (["eval", "--routers", "small,best"], "unknown router 'best'"),
            (["eval", "--routers", "random", "--random-shares", "half"], "between 0 and 1"),
            (["eval", "--split", "exam"], "exam"),
            (["eval", "--small", "x", "--large", "y"], "demo"),
            (["eval", "--routers", "small", "--out", "/dev/null/x"], "--out"),
            (["calibrate", "--signal", "mood"], "unknown signal"),
            (["calibrate", "--small", "x", "--large", "y"], "--prompts"),
            (["calibrate", "--large-share", "1.5"], "--large-share must lie between 0 and 1"),
            (["calibrate", "--large-share", "0.5", "--gamma", "0.5"], "not both"),
            (["calibrate", "--figure", "x.gif"], "--figure must end in"),
            (["calibrate", "--n", "0"], "at least 1"),
            (["show", "/nowhere.json"], "cannot read trace"),
            (["poem"], "poem"),
        ],
    )
    def test_is_one_sentence_and_status_2(self, args: list[str], words: str) -> None:
        assert words in refused(*args)

    def test_prompt_longer_than_the_context(self, pair: list[str]) -> None:
        assert "shorten" in refused("generate", "w1" * 600, *pair, "--router", "small")

    def test_pair_with_different_tokenizers(self, models: dict[str, str]) -> None:
        args = ["--small", models["small"], "--large", models["foreign"], "--router", "small"]
        assert "id 5" in refused("generate", PROMPT, *args)

    def test_broken_model(self, models: dict[str, str], tmp_path: Path) -> None:
        trace = tmp_path / "t.json"
        args = ["--small", models["small"], "--large", models["broken"], "--router", "large"]
        assert "NaN" in refused("generate", PROMPT, *args, "--trace", trace)
        assert json.loads(trace.read_text())["trace"]["stop_reason"] == "error"

    def test_steer_without_calibration(self, pair: list[str]) -> None:
        assert "steer calibrate" in refused("generate", PROMPT, *pair)

    def test_calibration_of_another_pair(
        self, models: dict[str, str], pair: list[str], tmp_path: Path
    ) -> None:
        prompts, out = tmp_path / "prompts.txt", tmp_path / "c.json"
        prompts.write_text("".join(f"w{i}w{i + 1}\n" for i in range(8)))
        args = ["--prompts", prompts, "--out", out, "--max-new-tokens", 40]
        made = steer("calibrate", *pair, *args)
        assert made.exit_code == 0, made.output
        answer = steer("generate", PROMPT, *pair, "--calibration", out, "--max-new-tokens", 20)
        assert answer.exit_code == 0, answer.output
        other = ["--small", models["small"], "--large", models["third"]]
        assert "another pair" in refused("generate", PROMPT, *other, "--calibration", out)

    @pytest.mark.parametrize("source", ["nobody/no-such-model", "./no/such/folder"])
    def test_unknown_model_is_refused_soon(
        self, source: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No host is looked for a second time, and none is waited for."""
        # As on a machine without a network: the hub's name does not resolve.
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
        looks: list[object] = []

        def look(host: object, *args: object, **options: object) -> None:
            looks.append(host)
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        def wait(seconds: float) -> None:
            raise AssertionError(f"waits {seconds} s to try again")

        monkeypatch.setattr(socket, "getaddrinfo", look)
        monkeypatch.setattr(time, "sleep", wait)
        args = ["--small", source, "--large", source, "--router", "small"]
        assert source in refused("generate", PROMPT, *args)
        assert len(looks) == len(set(looks))
        assert ("hub.invalid" in looks) == (not source.startswith("."))


def test_help_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\nfrom steer_decode.cli import app\n"
        "try: app(['generate', '--help'])\nexcept SystemExit as e: assert e.code == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)


def test_show_reads_what_generate_wrote(pair: list[str], tmp_path: Path) -> None:
    trace, picture = tmp_path / "t.json", tmp_path / "t.svg"
    args = ["--threshold", 99, "--max-new-tokens", 20, "--compare", "--trace", trace]
    assert steer("generate", PROMPT, *pair, *args).exit_code == 0
    shown = steer("show", trace)
    assert "FLOPs processed" in shown.stdout
    assert "taken back" in shown.stdout
    assert steer("show", trace, "--svg", picture).exit_code == 0
    assert picture.read_text().startswith("<svg")


def test_version_and_info() -> None:
    assert steer("--version").stdout.startswith("steer-kernels")
    assert "backend" in steer("info").stdout
