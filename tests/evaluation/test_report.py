"""The page of a report: whole, self-contained, accessible, and safe with what models write."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from steer_decode.cli import app
from steer_decode.evaluation.report import build, load
from steer_decode.evaluation.report.styles import styles
from steer_decode.evaluation.rows import StepRecord
from steer_decode.util.palette import COLOURS
from support import made_results as made
from typer.testing import CliRunner

HOSTILE = '</script><script>alert("x")</script><!-- & \u2028 \x1b[31m'
_VOID = {"meta", "link", "input", "br", "wbr", "hr", "img", "path", "use"}


class Page(HTMLParser):
    """Tags, attributes and the text of scripts; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif self._open and self._open[-1] != "style":
            self.words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.attributes if name == tag]

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results")
    rows = [
        made.row(router, domain, i, seed)
        for domain in ("math", "qa")
        for i in range(8)
        for seed in (0, 1)
        for router in made.ROUTERS
    ]
    step = StepRecord("small", HOSTILE, 3, 14.0)
    rows[0] = made.row("small", "math", 0, 0, trace=[step], error=f"ValueError: {HOSTILE}")
    return made.write(path, rows)


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return build(load([folder]), title='Mine & "yours" <1>', resamples=200).page


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


class TestPage:
    @pytest.mark.slow
    def test_needs_nothing_from_outside(self, text: str, page: Page) -> None:
        for tag, attributes in page.attributes:
            for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
                value = attributes.get(name)
                assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert "@import" not in text
        assert not re.search(r"url\((?!#)", text)
        assert not re.search(r"https?://", text)
        policy = next(m for m in page.named("meta") if m.get("http-equiv"))
        assert str(policy["content"]).startswith("default-src 'none'")

    @pytest.mark.slow
    def test_every_picture_has_words_and_numbers(self, page: Page) -> None:
        pictures = page.named("svg")
        assert len(pictures) == page.tags["figure"] == page.tags["figcaption"] >= 12
        for picture in pictures:
            assert picture["role"] == "img"
            assert len(str(picture["aria-label"])) > 40
            assert re.search(r"\d", str(picture["aria-label"]))

    def test_names_are_unique_and_links_lead_somewhere(self, page: Page) -> None:
        names = Counter(str(a["id"]) for _, a in page.attributes if "id" in a)
        assert [name for name, times in names.items() if times > 1] == []
        for _, attributes in page.attributes:
            target = str(attributes.get("href") or "")
            assert not target.startswith("#") or target[1:] in names

    def test_words_of_others_are_text(self, page: Page) -> None:
        assert page.tags["script"] == 2
        assert "alert" not in page.scripts[1]
        answer = page.data["answers"][0]
        assert answer["steps"][0]["text"].startswith('</script><script>alert("x")')
        assert "\x1b" not in answer["steps"][0]["text"]
        words = " ".join(page.words)
        assert 'Mine & "yours" <1>' in words
        assert "tiny <small> & co" in words

    def test_says_what_a_reader_has_to_know(self, page: Page) -> None:
        words = re.sub(r"\s+", " ", " ".join(page.words))
        assert (
            "The checker failed on 1 answer, first on math:0 (small, seed 0): ValueError" in words
        )
        assert "Only 16 problems" in words
        assert "In math by the step itself" in words
        assert "In qa by the answer" in words
        assert "a random mix of that cost" in words

    @pytest.mark.slow
    def test_answers_are_capped_by_whole_problems(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.leave_pictures_blank(monkeypatch)
        found = Page(build(load([folder]), answers=25, resamples=100).page)
        assert len(found.data["answers"]) == 20
        assert set(found.data["problems"]) == {"math:0", "qa:0"}
        words = re.sub(r"\s+", " ", " ".join(found.words))
        assert "This page holds 20 of 160 answers: all those to 2 problems" in words

    def test_says_what_is_not_drawn(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made.leave_pictures_blank(monkeypatch)
        routers = ["small", "large", *(f"steer:gamma=0.{i}" for i in range(8))]
        rows = [made.row(r, f"d{i}", 0) for r in routers for i in range(8)]
        results = load([made.write(tmp_path, rows, made.settings(routers))])
        words = " ".join(Page(build(results, resamples=100).page).words)
        words = re.sub(r"\s+", " ", words)
        assert "The first 6 of 8 domains are drawn" in words
        assert "the first 6 of 8 routers are drawn" in words

    def test_colours_of_pictures_follow_the_page(self, text: str) -> None:
        pictures = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
        assert not any(re.search(r"#[0-9a-fA-F]{6}\b", picture) for picture in pictures)
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text

    @pytest.mark.slow
    def test_the_same_results_make_the_same_page(self, folder: Path, text: str) -> None:
        again = build(load([folder]), title='Mine & "yours" <1>', resamples=200)
        assert again.page == text


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("variant", ["light", "dark"])
def test_contrast(variant: str) -> None:
    """WCAG AA for text, on the page and on a panel; colours of routers label text as well."""
    colours = {name: getattr(colour, variant) for name, colour in COLOURS.items()}
    for ground in ("page", "panel"):
        back = _luminance(colours[ground])
        for name in set(colours) - {"page", "panel", "rule"}:
            front = _luminance(colours[name])
            ratio = (max(back, front) + 0.05) / (min(back, front) + 0.05)
            assert ratio >= 4.4, (variant, name, ground, ratio)


def test_routers_differ_by_marker_as_well() -> None:
    found = styles(
        [("small", "small"), ("large", "large"), *((f"r{i}", "routed") for i in range(8))]
    )
    assert len({style.marker for style in found.values()}) == 10


class TestCommand:
    def steer(self, *args: object) -> Any:
        return CliRunner().invoke(app, [str(a) for a in args])

    @pytest.mark.slow
    def test_writes_the_page_and_the_pictures(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.leave_pictures_blank(monkeypatch)  # in the page: their files are drawn
        out, figures = tmp_path / "r.html", tmp_path / "figures"
        options = ["--figures", figures, "--seconds", "--resamples", 100]
        result = self.steer("report", folder, "-o", out, *options)
        assert result.exit_code == 0, result.output
        page = Page(out.read_text(encoding="utf-8"))
        names = {path.name for path in figures.iterdir()}
        pictures = {str(a["id"]) for a in page.named("figure")}
        assert names == {"routers.json"} | {f"{p}.{s}" for p in pictures for s in ("svg", "png")}
        assert "accuracy-seconds" in pictures
        assert (figures / "accuracy-share.png").read_bytes().startswith(b"\x89PNG")
        numbers = json.loads((figures / "routers.json").read_text())
        assert [scope["domain"] for scope in numbers] == ["all", "math", "qa"]
        assert numbers[0]["routers"][1]["costs"]["flops_paper"] == [1, 1, 1]

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (["nothing"], "holds no results of `steer eval`"),
            (["FOLDER", "-o", "page.pdf"], "--out must end in .html"),
            (["FOLDER", "--figures", "FOLDER/results.jsonl"], "--figures must be a folder"),
        ],
    )
    def test_bad_input(self, folder: Path, args: list[str], words: str, monkeypatch: Any) -> None:
        monkeypatch.chdir(folder.parent)
        result = self.steer("report", *(a.replace("FOLDER", str(folder)) for a in args))
        assert result.exit_code == 2
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_missing_packages(self, folder: Path, monkeypatch: Any, tmp_path: Path) -> None:
        monkeypatch.setattr("steer_decode.evaluation.report.find_spec", lambda name: None)
        result = self.steer("report", folder, "-o", tmp_path / "r.html")
        assert "pip install steer-kernels[report]" in result.stderr
        assert result.exit_code == 2


@pytest.mark.slow
def test_from_the_demo_pair_to_the_page(tmp_path: Path) -> None:
    steer = TestCommand().steer
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"prompt": "Compute 39 -5 +3 ?", "answer": "37", "difficulty": 1}\n')
    args = ["--tasks", f"demo,{mine}", "--checker", "exact", "--n", 1, "--seeds", "0,1"]
    args += ["--temperature", 0.7, "--domains", "math", "--routers", "steer,first-token,random"]
    result = steer("eval", *args, "--random-shares", 0.5, "--out", tmp_path / "results")
    assert result.exit_code == 0, result.output
    result = steer("report", tmp_path / "results", "-o", tmp_path / "r.html", "--resamples", 100)
    assert result.exit_code == 0, result.output
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert len(page.data["answers"]) == 2 * 2 * 5
    assert page.data["problems"]["mine:1"]["answer"] == "37"


@pytest.mark.parametrize("trace", [[], [StepRecord("small", "", 1)]])
@pytest.mark.slow
def test_one_answer_is_enough(tmp_path: Path, trace: list[StepRecord]) -> None:
    rows = [made.row("steer", "qa", 0, trace=trace, difficulty=None, flops_paper=0.0)]
    report = build(load([made.write(tmp_path, rows, made.settings(["steer"]))]), resamples=100)
    words = re.sub(r"\s+", " ", " ".join(Page(report.page).words))
    assert "No comparison with chance" in words
    assert "nan" not in words
