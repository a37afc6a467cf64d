"""The page in a real browser: it draws, fits its window, filters, and prints."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from pathlib import Path

import pytest
from steer_decode.evaluation.report import build, load
from steer_decode.evaluation.rows import StepRecord
from support import made_results as made
from support.browser import CHROMIUM, MISSING, command

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)

# Appended to a copy of the page; what it finds is read back out of the document.
_PROBE = """
<script>
window.problems = [];
const note = (event) => window.problems.push(event.message || event.violatedDirective);
addEventListener("error", note);
addEventListener("securitypolicyviolation", note);
addEventListener("load", () => {
  const cards = () => document.querySelectorAll(".answer").length;
  const found = {width: innerWidth, scroll: document.documentElement.scrollWidth, cards: cards()};
  const flat = (picture) => picture.getBoundingClientRect().height < 100;
  found.empty = [...document.querySelectorAll("svg")].filter(flat).length;
  const form = document.getElementById("filters");
  const choose = (name, value) => {
    form.elements[name].value = value;
    form.dispatchEvent(new Event("input", {bubbles: true}));
    return document.getElementById("found").textContent;
  };
  found.steer = choose("router", "steer");
  found.wrong = choose("correct", "false");
  found.none = choose("text", "no such words");
  found.back = ["router", "correct", "text"].map((name) => choose(name, "")).pop();
  document.getElementById("more").click();
  found.more = cards();
  const struck = document.querySelector("s.text");
  found.struck = struck ? getComputedStyle(struck).textDecorationLine : "";
  // Pieces of the legend that lie over each other.
  found.overlaps = [...document.querySelectorAll(".legend .who")].filter((who) => {
    const pieces = [...who.childNodes].map((node) => {
      const range = document.createRange();
      range.selectNode(node);
      return [...range.getClientRects()];
    });
    return pieces.some((boxes, i) => {
      const before = i ? pieces[i - 1].at(-1) : null;
      return before && boxes[0].top < before.bottom - 1 && boxes[0].left < before.right - 1;
    });
  }).length;
  found.problems = window.problems;
  const out = document.createElement("output");
  out.id = "probe";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>
</body>"""


def browse(page: Path, *flags: str) -> str:
    started = [*command(page.parent / "profile"), *flags, "--virtual-time-budget=5000"]
    result = subprocess.run(
        [*started, page.as_uri()], capture_output=True, text=True, timeout=600, check=True
    )
    return result.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    results = load([made.write(folder / "results", n=8)])
    path = folder / "report.html"
    path.write_text(build(results, resamples=100).page, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_fits_the_window_and_filters(page: Path, width: int) -> None:
    probed = page.with_name(f"probe-{width}.html")
    text = page.read_text(encoding="utf-8")
    probed.write_text(text.replace("</body>", _PROBE), encoding="utf-8")
    dom = browse(probed, f"--window-size={width},900", "--dump-dom")
    match = re.search(r'<output id="probe">(.*?)</output>', dom)
    assert match is not None
    found = json.loads(unescape(match[1]))
    assert found["problems"] == []
    assert found["overlaps"] == 0
    assert found["scroll"] <= found["width"]
    assert found["empty"] == 0
    assert found["cards"] == 12
    assert found["more"] == 24
    assert found["steer"] == "32 answers found."
    wrong = sum(not r.correct for r in load([page.parent / "results"]).rows["steer"])
    assert found["wrong"] == f"{wrong} answers found."
    assert found["none"] == "0 answers found."
    assert found["back"] == "160 answers found."
    assert found["struck"] == "line-through"


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, pytest.param(760, marks=pytest.mark.exhaustive), 1000])
def test_a_page_with_drafts_fits_the_window(tmp_path: Path, width: int) -> None:
    """Its tables have two columns more, and its steps say what was drafted."""
    rows = [made.row(r, "qa", i) for r in ("small", "large") for i in range(6)]
    step = StepRecord("large", "a b\n\n", 8, drafts=((4, 4), (4, 1)))
    drafted = ("speculative:k=4", "speculative:k=auto", "both-sides:part=auto:sure=0.95")
    rows += [made.row(r, "qa", i, trace=[step], large_passes=3) for r in drafted for i in range(6)]
    folder = made.write(tmp_path / "results", rows, made.settings(["small", "large", *drafted]))
    path = tmp_path / "report.html"
    page = build(load([folder]), resamples=100).page
    path.write_text(page.replace("</body>", _PROBE), encoding="utf-8")
    dom = browse(path, f"--window-size={width},900", "--dump-dom")
    match = re.search(r'<output id="probe">(.*?)</output>', dom)
    assert match is not None
    found = json.loads(unescape(match[1]))
    assert (found["problems"], found["overlaps"], found["empty"]) == ([], 0, 0)
    assert found["scroll"] <= found["width"]
    assert "<span>5 of 8 drafted</span>" in dom


@pytest.mark.parametrize(
    ("width", "height"), [pytest.param(390, 2400, marks=pytest.mark.slow), (1280, 2400)]
)
@pytest.mark.slow
def test_a_screenshot_shows_both_writers(page: Path, width: int, height: int) -> None:
    from matplotlib.image import imread
    from steer_decode.util.palette import COLOURS

    shot = page.with_name(f"shot-{width}.png")
    browse(page, f"--window-size={width},{height}", f"--screenshot={shot}")
    pixels = (imread(shot)[..., :3] * 255).round().astype(int)
    assert pixels.shape[:2] == (height, width)
    for name in ("small", "large", "ink", "chance"):
        colour = [int(COLOURS[name].light[i : i + 2], 16) for i in (1, 3, 5)]
        assert (abs(pixels - colour).sum(-1) < 6).sum() > 20, name


@pytest.mark.slow
def test_prints(page: Path) -> None:
    path = page.with_name("report.pdf")
    browse(page, "--no-pdf-header-footer", f"--print-to-pdf={path}")
    data = path.read_bytes()
    assert data.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 60
