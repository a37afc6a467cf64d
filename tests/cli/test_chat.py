"""`steer chat` from a pipe: what it answers, obeys, refuses and writes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from steer_decode import Router, SteerError
from steer_decode.cli import app
from steer_decode.cli.chat.conversations import Chat
from steer_decode.cli.chat.room import _CtrlC
from steer_decode.policies import AlwaysSmall
from support.chats import ASK, chat_pair, logged, save_chat_pair
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_chat_pair(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def plain_pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_chat_pair(tmp_path_factory.mktemp("plain"), template=None)


def chat(*args: object, lines: list[str]) -> Any:
    text = "".join(f"{line}\n" for line in lines)
    return CliRunner().invoke(app, ["chat", *(str(a) for a in args)], input=text)


class TestConversation:
    def test_lines_are_turns_and_output_is_plain(self, pair: list[str], tmp_path: Path) -> None:
        log = tmp_path / "deep" / "log.jsonl"
        args = [*pair, "--threshold", 99, "--max-new-tokens", 24, "--log", log]
        result = chat(*args, lines=[ASK, "", "w8"])
        assert result.exit_code == 0, result.output
        assert "\x1b" not in result.output
        assert result.stderr == ""
        one, two = logged(log)
        texts = [one["text"], two["text"]]
        assert result.stdout == "".join(t if t.endswith("\n") else t + "\n" for t in texts)
        assert any(step["discarded"] for step in one["trace"]["steps"])
        said = one["trace"]["prompt_ids"] + one["token_ids"]
        assert two["trace"]["prompt_ids"][: len(said)] == said
        assert two["cost"]["small"]["processed"] < len(two["trace"]["prompt_ids"])

    def test_without_a_template_each_line_stands_alone(
        self, plain_pair: list[str], tmp_path: Path
    ) -> None:
        log = tmp_path / "log.jsonl"
        args = [*plain_pair, "--router", "small", "--max-new-tokens", 8, "--log", log]
        assert chat(*args, lines=[ASK, ASK]).exit_code == 0
        one, two = logged(log)
        assert one["trace"]["prompt_ids"] == two["trace"]["prompt_ids"]
        assert one["text"] == two["text"]

    def test_reset_begins_anew(self, pair: list[str], tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        args = [*pair, "--router", "small", "--max-new-tokens", 8, "--log", log]
        assert chat(*args, lines=[ASK, "/reset", ASK]).exit_code == 0
        one, two = logged(log)
        assert one["trace"]["prompt_ids"] == two["trace"]["prompt_ids"]
        assert [one["conversation"], two["conversation"]] == [0, 1]

    def test_a_space_in_front_makes_a_question_of_a_slash(self, pair: list[str]) -> None:
        result = chat(
            *pair, "--router", "small", "--max-new-tokens", 8, lines=[" /w5", "/quit", ASK]
        )
        assert result.exit_code == 0
        assert result.stdout.strip()

    def test_a_broken_model_does_not_end_the_chat(self, tmp_path: Path) -> None:
        broken = save_chat_pair(tmp_path, broken=True)
        result = chat(*broken, "--router", "small", lines=[ASK, "/router"])
        assert result.exit_code == 2
        assert "NaN" in result.stderr
        assert "router small" in result.stdout

    def test_a_full_context_names_the_way_out(self, pair: list[str]) -> None:
        args = [*pair, "--router", "small", "--max-new-tokens", 4]
        result = chat(*args, lines=["w5" * 16384, "/reset", ASK])
        assert result.exit_code == 2
        assert "context" in result.stderr
        assert "/reset" in result.stderr
        assert result.stdout.strip()

    def test_demo_problems_are_drawn_and_graded(self, tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        lines = ["/problem planning:3", "/problem", "/problem moon", "hello there"]
        result = chat("--log", log, lines=lines)
        assert result.exit_code == 2
        assert [bool(turn["problem"]) for turn in logged(log)] == [True, True]
        assert logged(log)[0]["correct"] is True
        first, second = result.stderr.splitlines()
        assert "unknown domain 'moon'" in first
        assert "/problem" in second


class TestCommands:
    def test_save_writes_everything(self, pair: list[str], tmp_path: Path) -> None:
        file = tmp_path / "chat.json"
        args = [*pair, "--router", "small", "--max-new-tokens", 8, "--system", "w9"]
        result = chat(*args, lines=[ASK, f"/save {file}", "w8", f"/save {file}"])
        assert result.exit_code == 0, result.output
        data = json.loads(file.read_text())
        assert [m["role"] for m in data["messages"]] == ["system", *["user", "assistant"] * 2]
        assert [turn["prompt"] for turn in data["turns"]] == [ASK, "w8"]
        assert data["turns"][1]["text"] == data["messages"][-1]["content"]
        assert data["turns"][0]["trace"]["steps"]
        assert list(tmp_path.iterdir()) == [file]

    def test_save_spares_the_files_of_others(self, pair: list[str], tmp_path: Path) -> None:
        file = tmp_path / "mine.txt"
        file.write_text("mine")
        args = [*pair, "--router", "small", "--max-new-tokens", 8]
        result = chat(*args, lines=[f"/save {file}", ASK, f"/save {file}", "/save", "/trace x"])
        assert result.exit_code == 2
        assert file.read_text() == "mine"
        nothing, exists, name, surplus = result.stderr.splitlines()
        assert "nothing to save yet" in nothing
        assert "take another name" in exists
        assert "needs the name" in name
        assert "takes no argument" in surplus

    def test_router_is_shown_exchanged_and_refused(self, pair: list[str], tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        args = [*pair, "--max-new-tokens", 8, "--log", log]
        lines = ["/router", "/router nope", "/router steer:threshold=3", ASK, "/router steer"]
        result = chat(*args, lines=lines)
        assert "router first-token:threshold=0.5:signal=entropy" in result.stdout
        assert logged(log)[0]["trace"]["policy"].startswith("steer:threshold=3")
        unknown, uncalibrated = result.stderr.splitlines()
        assert unknown.startswith("steer: unknown router 'nope': choose from small, large, ")
        assert "steer calibrate" in uncalibrated

    def test_set_changes_how_tokens_are_chosen(self, pair: list[str], tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        args = [*pair, "--router", "small", "--log", log]
        good = "/set temperature=0.5 max_new_tokens=6 seed=3"
        bad = ["/set top_k=0.5", "/set top_p=7", "/set moon=1", "/set max_new_tokens=0"]
        result = chat(*args, lines=[good, *bad, ASK])
        assert "temperature=0.5" in result.stdout
        assert len(result.stderr.splitlines()) == 4
        turn = logged(log)[0]
        assert len(turn["token_ids"]) == 6
        assert turn["options"]["temperature"] == 0.5
        assert turn["options"]["top_p"] == 1

    def test_trace_and_help(self, pair: list[str]) -> None:
        args = [*pair, "--threshold", 99, "--max-new-tokens", 8]
        result = chat(*args, lines=["/trace", ASK, "/trace", "/help"])
        assert "no answer yet" in result.stderr
        assert "max-logit" in result.stdout
        assert "/router [SPEC]" in result.stdout
        assert "/problem" not in result.stdout

    def test_unknown_commands_are_answered_with_the_list(self, pair: list[str]) -> None:
        result = chat(*pair, lines=["/foo bar"])
        assert result.exit_code == 2
        assert "no command '/foo': choose from /trace, /router" in result.stderr


class TestRefusal:
    def refused(self, *args: object) -> str:
        result = chat(*args, lines=[])
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        return str(result.stderr)

    def test_options(self, pair: list[str], plain_pair: list[str], tmp_path: Path) -> None:
        assert "--system" in self.refused(*plain_pair, "--system", "w9")
        assert "--system" in self.refused("--system", "Be brief.")
        assert "--log" in self.refused(*pair, "--log", tmp_path)
        assert "top_p" in self.refused(*pair, "--top-p", 0)
        assert "max_new_tokens" in self.refused(*pair, "--max-new-tokens", 0)
        assert "nope" in self.refused(*pair, "--router", "nope")

    def test_input_that_is_no_text(self, pair: list[str]) -> None:
        result = CliRunner().invoke(app, ["chat", *pair, "--router", "small"], input=b"w5\xff\n")
        assert result.exit_code == 2
        assert "UTF-8" in result.stderr


def test_a_template_that_refuses_or_drops_is_found_out() -> None:
    options = {"max_new_tokens": 8, "temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0}
    refuses = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.content }}<eos>{% endfor %}"
    )
    last = "{{ (messages | last).content }}"
    for template, remembers in ((refuses, True), (last, False)):
        router = Router(chat_pair(template=template), AlwaysSmall())
        with pytest.raises(SteerError, match="--system"):
            Chat(router, {}, options, "w9")
        assert Chat(router, {}, options).remembers == remembers


def test_a_second_ctrl_c_is_raised_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _CtrlC() as ctrl_c:
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
