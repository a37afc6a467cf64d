"""Text that a terminal would obey, and the look whether it did."""

from __future__ import annotations

import re

# Clipboard, title, screen, a C1 control, a bidi override, a carriage return, markup, an emoji code.
EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b]0;t\x07\x1b[2J\x9b31m\u202e\u2066\r[link=file:///x]y[/]:warning:"
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
# What rich and the chat send of their own: styles, and moves of the cursor.
OWN = re.compile(r"\x1b\[[0-9;]*[mKJ]|\x1b\[\d*[ABCD]|\x1b\[\?25[lh]|\r(?=\x1b\[)")


def check(sent: str, seen: bool = True) -> None:
    """Nothing is obeyed, and where ``seen``, what stood there is shown."""
    rest = OWN.sub("", sent)
    assert not UNSEEN.search(rest), repr(rest[UNSEEN.search(rest).start() - 40 :][:120])  # type: ignore[union-attr]
    assert "\x1b]8" not in sent
    assert "Traceback" not in sent
    if seen:
        assert "]52;c;" in rest
