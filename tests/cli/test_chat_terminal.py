"""`steer chat` at a terminal, as a person would use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from steer_decode.cli.view.trace import COLOUR
from support.chats import ASK, save_chat_pair
from support.preloaded import Launch
from support.terminal import Terminal, plain

# Line editing may ask the terminal for bracketed paste before it shows the prompt.
READY = r"\n(?:\x1b\[\?2004h)?> "


def chat(launch: Launch, *args: object, **environment: str) -> Terminal:
    command = ["-m", "steer_decode", "chat", "--threads", "1"]
    return Terminal(launch, [*command, *(str(a) for a in args)], environment)


def colour(writer: str) -> str:
    code = COLOUR[writer].lstrip("#")  # type: ignore[index]
    return "38;2;" + ";".join(str(int(code[i : i + 2], 16)) for i in (0, 2, 4))


def obey(terminal: Terminal, line: str) -> str:
    """Types a line; returns what is printed until the next prompt."""
    terminal.type(line + "\r")
    return terminal.wait_for(READY)


@pytest.mark.slow
def test_a_conversation_at_a_terminal(tmp_path: Path, launch: Launch) -> None:
    pair, log = save_chat_pair(tmp_path / "pair"), tmp_path / "log.jsonl"
    args = [*pair, "--threshold", 99, "--max-new-tokens", 30, "--log", log]
    with chat(launch, *args) as terminal:
        greeting = plain(terminal.wait_for(READY))
        assert "S small" in greeting
        assert "router steer:threshold=99" in greeting
        assert "/help" in greeting

        answer = obey(terminal, ASK)
        assert colour("small") in answer
        assert colour("large") in answer
        assert "\x1b[J" in answer
        assert "taken back" in plain(answer)
        assert "by L" in plain(answer)
        assert "reused S 0 L 0" in plain(answer)

        assert "max-logit" in plain(obey(terminal, "/trace"))
        assert "unknown router 'nope'" in plain(obey(terminal, "/router nope"))
        assert "router small" in plain(obey(terminal, "/router small"))
        assert "no command '/foo'" in plain(obey(terminal, "/foo"))

        # Far more tokens than a machine writes before Ctrl-C arrives.
        obey(terminal, "/set max_new_tokens=12000")
        terminal.type(ASK + "\r")
        terminal.wait_for(colour("small"))
        terminal.type("\x03")
        assert "interrupted" in plain(terminal.wait_for(READY))
        obey(terminal, "/set max_new_tokens=8")
        assert "reused S 0" not in plain(obey(terminal, "w3"))

        assert "new conversation" in plain(obey(terminal, "/reset"))
        assert "reused S 0 L 0" in plain(obey(terminal, ASK))

        terminal.type("\x04")
        assert terminal.wait_for_end() == 0

    turns = [json.loads(line) for line in log.read_text().splitlines()]
    assert [t["trace"]["stop_reason"] for t in turns] == [
        "max_new_tokens",
        "interrupted",
        "max_new_tokens",
        "max_new_tokens",
    ]
    said = turns[1]["trace"]["prompt_ids"] + turns[1]["token_ids"]
    assert turns[2]["trace"]["prompt_ids"][: len(said)] == said


@pytest.mark.slow
def test_the_demo_pair_shows_what_to_ask_and_ctrl_c_warns(launch: Launch) -> None:
    with chat(launch, NO_COLOR="1") as demo:
        greeting = plain(demo.wait_for(READY))
        sample = next(line for line in greeting.splitlines() if "Compute" in line).strip()
        answer = plain(obey(demo, sample))
        assert "\nS " in answer
        assert "right" in answer or "wrong" in answer
        assert "reused" not in answer
        drawn = plain(obey(demo, "/problem planning:3"))
        assert "Route e5 to a1" in drawn
        assert "\nL " in drawn
        assert "right" in drawn
        assert "/problem" in plain(obey(demo, "hello there"))
        demo.type("\x03")
        demo.wait_for("Ctrl-C again")
        demo.wait_for(READY)
        demo.type("\x04")
        assert demo.wait_for_end() == 0
        assert colour("small") not in demo.seen
