"""The final answer of a text.

It is found once, in one way, before any checker looks at it. Thoughts do not count. Of what is
left, the last answer that is marked counts; without one, the last line that states it; without one,
the last line. `docs/results.md` has the rules in full.
"""
# ruff: noqa: RUF001  # signs that look like others are what this is about

from __future__ import annotations

import re

# Marks that open and close a thought, as models write them: R1 and Qwen; others' words for it;
# Magistral; Sky-T1 and OpenThinker; Cohere; Kimi-VL; Seed-OSS; gpt-oss; Gemma and MedGemma.
_NAMES = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad")
THOUGHTS: tuple[tuple[str, str], ...] = (
    *((f"<{name}>", f"</{name}>") for name in _NAMES),
    ("<seed:think>", "</seed:think>"),
    ("[think]", "[/think]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|start_thinking|>", "<|end_thinking|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
)
_CLOSES = dict(THOUGHTS)
_OPENS = {close: open_ for open_, close in THOUGHTS}
_THOUGHT = re.compile("|".join(re.escape(mark) for pair in THOUGHTS for mark in pair), re.I)

_END = re.compile(
    r"(?:\s*(?:<\|(?!end_of_box)[^<>|\s]{1,40}\|>|</?s>|<eos>|<end_of_turn>|<turn\|>))+\s*\Z"
)
_TAG = re.compile(
    r"(?P<answer><(?:final[_ ])?answer>)|(?P<answered></(?:final[_ ])?answer>)"
    r"|(?P<box><\|begin_of_box\|>)|(?P<boxed><\|end_of_box\|>)"
    r"|(?P<brace>\\{1,2}(?:boxed|fbox|framebox)\s*\{)|\\{1,2}boxed\s+(?P<token>[^\s${}\\.,;:!?]+)"
    r"|(?P<escaped>\\.)|(?P<open>\{)|(?P<close>\})",
    re.I | re.S,
)

_INK = re.compile(r"\S")
_MARKS = re.compile(r"(?<!\S)(?:\*\*|__)(?=\S)|(?<=\S)(?:\*\*|__)(?=[\s:.,;!?)]|$)")
_BLOCK = re.compile(r"\$\$.*?\$\$|\\\[.*?\\\]", re.S)
_FENCE = re.compile(r"^\s*(?:```\w*|~~~\w*|\$\$|\\\[|\\\]|[-*_]{3,})\s*$")
_WHOSE = r"(?:(?:the|my|our|your)\s+)?(?:(?:final|correct|right|best|exact|overall)\s+)*"
_NOUN = r"(?:answer(?:\s+(?:option|choice))?|(?<=correct\s)(?:option|choice))"
_IS = r"(?:(?:is|are|was|should\s+be|must\s+be|would\s+be|will\s+be|equals)(?!\w)|=|:|：)"
_SAY = _WHOSE + _NOUN + rf"\s*(?:\([^()]*\)\s*)?{_IS}\s*(?:(?:is|are)(?!\w)\s*)?[:=：]?\s*"
_STATES = re.compile(r"(?:^|(?<=[\s(*>]))" + _SAY, re.I)
_SO = r"(?:(?:therefore|thus|so|hence|then|and|finally|consequently|in conclusion|overall)\b,?\s*)*"
_OPENS_WITH = re.compile(r"(?:^|(?<=[.;!]\s))" + _SO + _SAY, re.I)
_NO_ANSWER = re.compile(r"(?:(?:in)?correct|wrong|clear|obvious|verified|confirmed|not)\b", re.I)
_ASKS = re.compile(r"[^.]*\?")
_BELOW = re.compile(
    r"(?:as follows|(?:the|one of the) following|(?:given\s+)?below)?\s*[:.]?\s*$", re.I
)
# "answer 1" states an answer; "Answer key" is one.
_BARE = re.compile(rf"^{_WHOSE}answer\s+(?P<rest>[-+−$\\(]?\s*(?:\S*\d\S*|\S\W?))$", re.I)
_GSM = re.compile(r"^#{4}\s*(?P<rest>\S.*)$")
_NOT_AN_END = re.compile(
    r"(?:^|[\s(])(?:st|mr|mrs|ms|dr|prof|jr|sr|mt|vs|etc|approx|ca|e\.g|i\.e|u\.s|inc|ltd|co)$",
    re.I,
)

_WRAPS = (
    re.compile(r"^\$\$(?P<inner>[^$]+)\$\$$"),
    re.compile(r"^\$(?P<inner>[^$]+)(?<!\\)\$$"),
    re.compile(r"^\\\((?P<inner>(?:(?!\\\)).)+)\\\)$"),
    re.compile(r"^\\\[(?P<inner>(?:(?!\\\]).)+)\\\]$"),
    re.compile(r"^\*\*(?P<inner>(?:(?!\*\*).)+)\*\*$"),
    re.compile(r"^__(?P<inner>(?:(?!__).)+)__$"),
    re.compile(r"^\*(?P<inner>[^*\s](?:[^*]*[^*\s])?)\*$"),
    re.compile(r"^```(?:\w*\n)?(?P<inner>[^`]+)```$"),
    re.compile(r"^`(?P<inner>[^`]+)`$"),
    re.compile(r"^\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{(?P<inner>[^{}]*)\}$"),
    re.compile(r"^<answer>(?P<inner>.*)</answer>$", re.S | re.I),
)


def final_answer(text: str) -> str:
    """What a text answers; "" where it answers nothing.

    That is the last ``<answer>``, ``\\boxed{}``, ``\\fbox{}`` or the like that is complete and not
    empty; else what the last line that states an answer says ("The answer is 42."); else the last
    line. Thoughts are left out, and so are dollars, emphasis and ``\\text{}`` around all of an
    answer.
    """
    text = _END.sub("", without_thoughts(text))
    marked = _marked(text)
    return bare(_stated(text) if marked is None else marked)


def reference_answer(answer: str) -> str:
    """The answer that a reference gives.

    What it marks (a box, "#### 42"), else all of it.
    """
    lines = answer.strip().splitlines()
    if lines and (found := _GSM.match(lines[-1].strip())):
        return bare(found["rest"])
    marked = _marked(answer)
    return bare(answer if marked is None else marked)


def without_thoughts(text: str) -> str:
    """The text less its thoughts.

    A thought that is never closed reaches to the end. A mark that closes one that was never opened
    (some chat templates open it in the prompt) ends a thought that began with the text.
    """
    parts: list[str] = []
    start, open_ = 0, ""
    for found in _THOUGHT.finditer(text):
        mark = found[0].lower()
        if open_:
            if mark == _CLOSES[open_]:
                start, open_ = found.end(), ""
        elif mark in _CLOSES:
            parts.append(text[start : found.start()])
            open_ = mark
        elif mark in _OPENS:
            parts, start = [], found.end()
    return "".join([*parts, "" if open_ else text[start:]])


def bare(answer: str) -> str:
    """An answer without what stands around all of it.

    Dollars, emphasis, ``\\text{}``.
    """
    answer = answer.strip()
    for _ in range(8):
        inner = next((m["inner"].strip() for wrap in _WRAPS if (m := wrap.match(answer))), None)
        if not inner:
            break
        answer = inner
    return answer


def _marked(text: str) -> str | None:
    """What the last complete mark holds that is not empty; of marks in marks the innermost."""
    spans: list[tuple[int, int]] = []  # by their ends
    braces: list[int] = []  # where what a brace holds begins; -1 where it is not a box's
    opened = {"answer": -1, "box": -1}
    for found in _TAG.finditer(text):
        kind, here = found.lastgroup or "", found.start()
        if kind == "token":
            spans.append(found.span("token"))
        elif kind in ("brace", "open"):
            braces.append(found.end() if kind == "brace" else -1)
        elif kind in opened:
            opened[kind] = found.end()  # "between <answer> and </answer>": the nearest one counts
        elif kind == "close" and braces:
            if (start := braces.pop()) >= 0:
                spans.append((start, here))
        elif kind in ("answered", "boxed"):
            which = "answer" if kind == "answered" else "box"
            if opened[which] >= 0:
                spans.append((opened[which], here))
            opened[which] = -1
    spans = [(start, end) for start, end in spans if _INK.search(text, start, end)]
    if not spans:
        return None
    start, end = spans.pop()
    while spans and spans[-1][0] >= start:
        start, end = spans.pop()
    return text[start:end].strip()


def _stated(text: str) -> str:
    """What the last line that states an answer says, or the last line."""
    text = _BLOCK.sub(lambda block: " ".join(block[0].split()), text)
    lines = [_MARKS.sub("", line).strip() for line in text.splitlines() if not _FENCE.match(line)]
    lines = [line for line in lines if line]
    for place in range(len(lines) - 1, -1, -1):
        said = _said(lines[place], last=place == len(lines) - 1)
        if said is not None:
            return said or ("".join(lines[place + 1 : place + 2]).strip())
    return _without_stop(lines[-1]) if lines else ""


def _said(line: str, last: bool) -> str | None:
    """What a line states as the answer; "" where that follows on the next; None where nothing."""
    if found := _GSM.match(line):
        return found["rest"].strip()
    line = re.sub(r"^#+\s+", "", line)
    if found := _BARE.match(line):
        return _without_stop(found["rest"])
    found = (_STATES if last else _OPENS_WITH).search(line)
    if found is None:
        return None
    for again in _STATES.finditer(line, found.end()):
        found = again
    rest = line[found.end() :]
    if _ASKS.match(rest) or (not last and _NO_ANSWER.match(rest)):
        return None
    return "" if _BELOW.match(rest) else _sentence(rest)


def _sentence(text: str) -> str:
    """The first sentence, less its full stop."""
    text = text.strip()
    for found in re.finditer(r"\.(?=\s|$)", text):
        head = text[: found.start()]
        open_ = head.count("$") % 2 or head.count("{") != head.count("}")
        if head.strip() and not open_ and not (text[found.end() :] and _NOT_AN_END.search(head)):
            return head.strip()
    return text


def _without_stop(text: str) -> str:
    text = text.strip()
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text
