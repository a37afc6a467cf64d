"""Nothing that is typed ends a chat but leaving it, and errors leave the conversation as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from steer_decode import Pair, SteerError
from steer_decode.cli import app
from steer_decode.cli.chat.conversations import Chat
from steer_decode.cli.models import Models
from steer_decode.cli.prompt import demo_problem
from steer_decode.engines.hf.lane import Lane
from support.chats import ASK, logged, save_chat_pair
from typer.testing import CliRunner

NO_PLACES = [
    "x" * 300,
    "d/" * 2100 + "f",
    "~nobody_here_at_all/f.json",
    "a\0b",
    "/dev/full/x",
    "/dev/full",
    "/proc/nobody/f",
    "/",
    ".",
    "\x1b]52;c;aa\x07/" + "y" * 300,
]
REFUSED = [
    *("/", "//", "/ ", "/nope", "/trace x", "/reset now", "/help me", "/quit now", "/\x1b[2J"),
    *("/set temperature=nan", "/set temperature=1e999", "/set top_p=0", "/set top_k=-1"),
    *("/set max_new_tokens=0", "/set max_new_tokens=1e9", "/set seed=x", "/set =1", "/set seed="),
    *("/set seed=" + "9" * 5000, "/set x", "/set temperature=--1", "/set min_p=7"),
    *("/router zzz", "/router rsd:reward=os:nothing_here", "/router learned:path=/etc/passwd"),
    *(
        "/router rsd:reward=steer_nowhere:f",
        "/router rsd:reward=:",
        "/router replay:path=/dev/zero",
    ),
    *("/router steer:calibration=/dev/null", "/router steer:calibration=a\0b", "/router learned"),
    *("/router ecotab:path=" + "y" * 300, "/router replay:writers=", "/router small:x=1"),
    *("/router first-token:threshold=nan", "/router first-token:threshold=" + "9" * 5000 + "x"),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_chat_pair(tmp_path_factory.mktemp("chat"))


def chat(*args: object, lines: list[str | bytes]) -> Any:
    data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    return CliRunner().invoke(app, ["chat", *(str(a) for a in args)], input=data + b"\n")


def small(pair: list[str]) -> list[object]:
    return [*pair, "--router", "small", "--max-new-tokens", 8]


def test_a_place_that_cannot_be_does_not_end_the_chat(
    pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [ASK, *(f"/save {name}" for name in NO_PLACES), "w8", "/save kept.json"]
    result = chat(*small(pair), lines=lines)
    assert result.exit_code == 2
    said = result.stderr.splitlines()
    assert len(said) == len(NO_PLACES), result.stderr
    assert all(line.startswith("steer: ") and "Error" not in line for line in said), said
    assert "\x1b" not in result.stderr
    assert "2 answers saved in kept.json" in result.stdout
    assert len(json.loads(Path("kept.json").read_text())["turns"]) == 2


def test_a_full_disk_under_a_saved_chat_is_one_sentence(
    pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", nothing)
    path = tmp_path / "c.json"
    result = chat(*small(pair), lines=[ASK, f"/save {path}", "/router"])
    assert result.stderr == f"steer: cannot write {str(path)!r}: No space left on device\n"
    assert "router small" in result.stdout


def test_no_command_and_no_argument_ends_the_chat(pair: list[str]) -> None:
    odd = ["é ü 漢字 👩‍👩‍👧 \u202e", "/set seed=" + "9" * 400, "w" * 20_000]
    odd += ["\x1b]0;t\x07 w5", "\t/x", ";;"]
    result = chat(*small(pair), lines=[*REFUSED, *odd, ASK, "/set seed=0 temperature=0.5", ASK])
    assert result.exit_code == 2
    said = result.stderr.splitlines()
    assert sum(line.startswith("steer: ") for line in said) == len(said)
    assert len([line for line in said if "tokens of this prompt are unknown" not in line]) == len(
        REFUSED
    ), said
    assert not [line for line in said if "ended in an error" in line], said
    assert "\x1b" not in result.stderr
    assert "temperature=0.5" in result.stdout


def test_a_line_that_is_no_text_is_refused_alone(pair: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    result = chat(*small(pair), "--log", log, lines=[ASK, b"w5 \xff\xfe", b"/router \xff", "w8"])
    assert result.exit_code == 2
    assert [turn["prompt"] for turn in logged(log)] == [ASK, "w8"]
    said = "steer: a line of standard input is not UTF-8 text, and was left out"
    assert result.stderr.splitlines() == [said] * 2


def failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Makes a function of ``owner`` raise at this call after the question "w9"."""
    real, ask, left = getattr(owner, name), Chat.ask, [-1]

    def asked(self: Chat, question: str) -> Any:
        left[0] = call if question == "w9" else -1
        return ask(self, question)

    def maybe(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise RuntimeError("the \x1b]0;model\x07 is\nout of order")
        return real(*args, **options)

    monkeypatch.setattr(Chat, "ask", asked)
    monkeypatch.setattr(owner, name, maybe)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(Lane, "read", 0), (Lane, "read", 4), (Pair, "tokenize", 0), (Pair, "render", 0)],
    ids=["first pass", "in the middle", "tokenizer", "template"],
)
@pytest.mark.few(2)
def test_an_error_of_a_model_is_one_sentence_and_leaves_the_conversation(
    pair: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
) -> None:
    logs = tmp_path / "without.jsonl", tmp_path / "with.jsonl"
    assert chat(*small(pair), "--log", logs[0], lines=[ASK, "w8"]).exit_code == 0
    failing(monkeypatch, owner, name, call)
    result = chat(*small(pair), "--log", logs[1], lines=[ASK, "w9", "w8"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "RuntimeError: the \u241b]0;model\u2407 is out of order" in result.stderr
    want, got = logged(logs[0]), logged(logs[1])
    assert [turn["prompt"] for turn in got] == [ASK, "w8"]
    assert [turn["token_ids"] for turn in got] == [turn["token_ids"] for turn in want]
    assert [t["trace"]["prompt_ids"] for t in got] == [t["trace"]["prompt_ids"] for t in want]


@pytest.mark.parametrize(
    "index", ["999999999999", "-1", "x", "1.5", "٣", "²", "9" * 5000, "10000", "1_0", " 1"]
)
def test_a_problem_that_is_not_there_is_said_at_once(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer_decode.demo.problems", lambda *_, **__: 1 / 0)
    with pytest.raises(SteerError, match=r"index of a problem must be a whole number up to 9,999"):
        demo_problem(f"math:{index}", Models(None, None, None, None, None))


def test_a_problem_by_name_is_that_of_the_whole_list() -> None:
    from steer_decode.demo import DOMAINS, problems

    models = Models(None, None, None, None, None)
    for domain in DOMAINS:
        for index, problem in enumerate(problems(domain, 12)):
            assert demo_problem(f"{domain}:{index}", models).task == problem
