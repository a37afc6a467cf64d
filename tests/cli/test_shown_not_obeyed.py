"""Whatever stands in a file, a terminal shows it and does not obey it: all commands and fields."""

from __future__ import annotations

import io
import json
import sys
import xml.dom.minidom
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text
from steer_decode import Calibration
from steer_decode.cli import app, say
from steer_decode.cli.view.answer import svg
from steer_decode.cli.view.terminal import console
from steer_decode.core.saved import load
from steer_decode.evaluation.rows import ResultRow
from steer_decode.policies.fitted.file import SHIPPED
from support import made_results
from support.forged import places, put
from support.hostile import EVIL, UNSEEN, check
from typer.testing import CliRunner


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Run:
    """What a command sent to a terminal, and its exit status."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def __call__(self, *arguments: object) -> str:
        out, err = Screen(), Screen()
        with self._patch.context() as patch:
            patch.setenv("TERM", "xterm-256color")
            patch.setenv("COLORTERM", "truecolor")  # rich keeps codes of the first it was asked for
            patch.delenv("NO_COLOR", raising=False)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            try:
                app([str(a) for a in arguments], prog_name="steer")
            except SystemExit as left:
                self.status = left.code
        self.sent = out.getvalue() + err.getvalue()
        return self.sent


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def texts(data: Any) -> Iterator[tuple[Any, ...]]:
    """The ways to all texts of a document."""
    for at in places(data):
        value = data
        for key in at:
            value = value[key]
        if isinstance(value, str):
            yield at


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    asked = ["generate", "--problem", "math:1", "--compare", "--json"]
    return json.loads(CliRunner().invoke(app, asked).stdout)


FIELDS = ["prompt", "problem", "models.small.name", "text", "trace.policy", "trace.signal"]
FIELDS += ["trace.stop_reason", "trace.steps.0.text", "trace.steps.0.writer", "version"]


@pytest.mark.parametrize("field", FIELDS)
def test_show(run: Run, trace: Any, tmp_path: Path, field: str) -> None:
    at = tuple(int(key) if key.isdigit() else key for key in field.split("."))
    path = tmp_path / "t.json"
    path.write_text(json.dumps(put(trace, at, EVIL)))
    shown = field in ("prompt", "trace.policy", "trace.steps.0.text")
    # A closed field is refused by name; some are not for the eye.
    check(run("show", path), seen=shown or run.status != 0)
    if run.status == 0:
        assert run("show", path, "--svg", tmp_path / "t.svg") == ""
        xml.dom.minidom.parse(str(tmp_path / "t.svg"))


def test_show_of_every_text_at_once(run: Run, trace: Any, tmp_path: Path) -> None:
    closed = ("writer", "stop_reason")
    for at in list(texts(trace)):
        if at[-1] not in closed:
            value = EVIL + "]]>\x00&<"
            trace = put(trace, at, value)
    path = tmp_path / f"t{EVIL.replace('/', '')}.json"
    path.write_text(json.dumps(trace))
    check(run("show", path))
    answer, alone = load(path)
    xml.dom.minidom.parseString(svg(answer, alone))
    path.write_text("{")
    check(run("show", path))
    assert run.status == 2


def a_folder(folder: Path, names: Collection[str], evil: str = EVIL) -> Path:
    """Results of `steer eval` in which these things are not what they should be."""
    routers = ("small", "large", evil if "router" in names else "steer")
    domain = evil if "domain" in names else "math"
    rows = []
    for router in routers:
        for i in range(2):
            fields = made_results.row(router, domain, i).to_dict()
            if "problem" in names:
                fields["problem"] = f"{evil}{i}"
            if "error" in names:
                fields["error"] = evil
            if "step" in names:
                fields["trace"][0]["text"] = evil
            rows.append(ResultRow.from_dict(fields))
    kept = made_results.settings(routers)
    if "signal" in names:
        kept["signals"][routers[2]] = {"name": evil, "higher_is_surer": True}
    if "model" in names:
        kept["about"]["small"]["name"] = evil
    if "setting" in names:
        kept["note"] = evil
    if "pair" in names:
        kept["pair"] = evil
    return made_results.write(folder, rows, kept)


WHERE = ["router", "domain", "problem", "error", "step", "signal", "model", "setting", "pair"]


@pytest.mark.slow
def test_report(run: Run, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "r", WHERE, EVIL + "]]><script>alert(1)</script>$x^$")
    page = tmp_path / "r.html"
    check(run("report", folder, "-o", page, "--resamples", 100), seen=False)
    assert run.status == 0, run.sent
    text = page.read_text()
    assert not UNSEEN.search(text)
    assert "<script>alert" not in text
    assert "\u241b]52;c;" in text


@pytest.mark.slow
def test_pictures_of_a_report_are_well_formed(run: Run, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "r", WHERE, EVIL + "]]>--><script>$x^$")
    command = ["report", folder, "-o", tmp_path / "r.html", "--resamples", 100]
    run(*command, "--figures", tmp_path / "f")
    pictures = list((tmp_path / "f").glob("*.svg"))
    assert len(pictures) > 5
    for picture in pictures:
        xml.dom.minidom.parse(str(picture))


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.few(3)
def test_what_is_said_of_folders(run: Run, tmp_path: Path, where: str) -> None:
    """Two folders that do not go together, and one that cannot be replayed."""
    one = a_folder(tmp_path / "one", [where, "pair"])
    two = a_folder(tmp_path / f"two{EVIL.replace('/', '')}", [where, "pair"], EVIL + "2")
    check(run("report", one, two, "-o", tmp_path / "r.html"))
    assert run.status == 2
    check(run("eval", "--replay", two))
    assert run.status == 2


@pytest.mark.few(2)
@pytest.mark.parametrize("field", ["id", "domain", "answer", "prompt", EVIL])
def test_eval(run: Run, tmp_path: Path, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_checker.py").write_text(
        f"def check(text, answer):\n    raise ValueError({EVIL!r})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    task = {"prompt": "Compute 4 +5 -2 ?", "answer": "7", "id": "a", "domain": "d"}
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({**task, field: f"{task.get(field, '')} {EVIL}"}) + "\n")
    command = ["eval", "--tasks", path, "--checker", "evil_checker:check", "--routers", "small"]
    check(run(*command, "--out", tmp_path / "o"))
    assert run.status == 0
    for name in ("summary.md", "results.jsonl", "problems.jsonl", "settings.json"):
        assert not UNSEEN.search((tmp_path / "o" / name).read_text()), name
    # The same file twice, and into the folder of another.
    path.write_text(path.read_text() * 2)
    check(run(*command, "--out", tmp_path / "p"), seen=field == "id")
    assert run.status == 2


REFUSED = [
    ["generate", "x", "--threshold", "1", "--small", f"/{EVIL}", "--large", "/y"],
    ["generate", "--router", EVIL, "x"],
    ["generate", "--router", f"steer:{EVIL}=1", "x"],
    ["generate", "--router", f"rsd:reward={EVIL}:f", "x"],
    ["generate", "--calibration", EVIL, "x"],
    ["generate", "--problem", EVIL],
    ["generate", "--file", EVIL],
    ["generate", "--trace", f"/proc/{EVIL}/x", "x"],
    ["eval", "--tasks", f"{EVIL}.jsonl"],
    ["eval", "--tasks", EVIL],
    ["eval", "--domains", EVIL],
    ["eval", "--seeds", EVIL],
    ["calibrate", "--prompts", EVIL],
    ["show", EVIL],
    ["report", EVIL],
    ["train-router", "corea", "--signal", EVIL],
    [EVIL],
    [f"--{EVIL}"],
]


@pytest.mark.parametrize("command", REFUSED, ids=lambda c: " ".join(map(repr, c))[:40])
def test_errors(run: Run, command: list[str]) -> None:
    check(run(*command))
    assert run.status == 2
    assert "steer: " in run.sent


@pytest.mark.parametrize("field", ["pair", "signal", "settings"])
def test_a_calibration(run: Run, tmp_path: Path, field: str) -> None:
    good = json.loads((SHIPPED.parent / "calibration.json").read_text())
    path = tmp_path / f"c{EVIL.replace('/', '')}.json"
    path.write_text(json.dumps({**good, field: EVIL}))
    check(run("generate", "--calibration", path, "Compute 4 +5 ?"))
    assert run.status == 2
    assert Calibration  # what reads it


@pytest.mark.parametrize("view", ["trace", "text", "json"])
def test_generate(run: Run, view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that writes escape sequences, and a question that holds some."""
    monkeypatch.setattr("steer_decode.core.detokenizer.Detokenizer.push", lambda *_: EVIL)
    check(run("generate", f"Compute 4 +5 {EVIL} ?", "--view", view, "--max-new-tokens", 4), False)
    assert run.status == 0
    assert ("\\u001b]52" if view == "json" else "\u241b]52") in run.sent


def test_an_answer_for_another_program_is_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steer_decode.core.detokenizer.Detokenizer.push", lambda *_: EVIL)
    command = ["generate", "Compute 4 +5 ?", "--view", "text", "--max-new-tokens", "1"]
    answer = CliRunner().invoke(app, command).stdout_bytes.decode()
    assert answer == EVIL + "\n"


def test_consoles_read_no_markup_and_send_no_control_character() -> None:
    screen = console()
    screen.file, screen.width = io.StringIO(), 300
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    screen.print(EVIL, Text(EVIL, style="bold"), table)
    sent = screen.file.getvalue()
    check(sent)
    assert "[link=file:///x]y[/]" in sent
    assert ":warning:" in sent


def test_other_packages_warn_and_log_through_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging
    import warnings

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    before = logging.getLogRecordFactory()
    try:
        say.guard()
        check(warnings.formatwarning(EVIL, UserWarning, "f", 1))
        record = logging.getLogger("x").makeRecord("x", 30, "f", 1, "%s", (EVIL,), None)
        check(record.getMessage())
    finally:
        logging.setLogRecordFactory(before)
