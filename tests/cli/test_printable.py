"""What is printable, and the one place where commands print."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import steer_decode
from steer_decode.util.text import cell, dump, one_line, printable
from support.hostile import EVIL


def test_what_is_printable_and_what_is_not() -> None:
    assert printable("a\tb\nc") == "a\tb\nc"
    assert printable("\x00\x1b\r\x7f") == "\u2400\u241b\u240d\u2421"
    assert printable("\x9b\u202e\u2028\ud800\ufeff\xad") == "\ufffd" * 6
    kept = "é ü 漢字\u3000한 ไทย \u05d0 👩\u200d👩\u200d👧 \u0646\u200c\u062e a\xa0b"
    assert printable(kept) == kept
    assert one_line("a\r\n b\x85\tc\n") == "a b\ufffd c"
    assert len(one_line("x" * 10**6)) < 2100
    assert cell("a|b\nc<d") == r"a\|b c\<d"
    for odd in ("\x7f", "\x9b", "\u202e", "\ud800", "漢", EVIL):
        assert json.loads(dump([odd])) == [odd]
        assert dump([odd]).isprintable()
    assert dump([float("nan"), (1.0, float("inf"))]) == "[null, [1.0, null]]"


def test_commands_print_in_one_place_only() -> None:
    """No other module of the commands prints, writes to a stream, or makes a console of its own."""
    allowed = {"say.py": {"print"}, "terminal.py": set(), "__init__.py": {"write"}}
    for path in sorted((Path(steer_decode.__file__).parent / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("print", "Console", "sys.stdout.write", "sys.stderr.write"):
                assert called.split(".")[-1] in allowed.get(path.name, set()), (path, node.lineno)
