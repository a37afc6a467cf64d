"""The page at / in a real browser: an answer in two colours with its costs, by keyboard, small."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import steer_decode
from steer_decode import Pair
from steer_decode.demo.problems import mathematics, planning, question_answering
from steer_decode.policies.from_data import data_spec
from steer_decode.serve.choices import nameable
from steer_decode.util.palette import COLOURS
from support.browser import CHROMIUM, MISSING, Browser, Page
from support.served import Served

PAGE = (Path(steer_decode.__file__).parent / "serve/page.html").read_text(encoding="utf-8")
QUESTION = "Compute 16 /8 *4 /2 *9 /3 ?"
NO_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
COSTS = ("flops_paper", "flops_processed", "bytes_read", "seconds")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """Opens a page of a server, once it knows the server's routers."""
    pages = []

    def opening(served: Served, path: str = "/", width: int = 1280, dark: bool = False) -> Page:
        pages.append(browser.page(width, dark=dark))
        page = pages[-1].__enter__()
        page.open(f"{served.url}{path}")
        page.until("document.getElementById('about').textContent !== ''")
        return page

    yield opening
    for page in pages:
        page.__exit__(None, None, None)


def ask(page: Page, question: str = QUESTION) -> None:
    page.value("at('question').value = ''; at('question').focus()")
    page.type(question)
    page.press("Enter")


def asked(page: Page, question: str = QUESTION) -> None:
    ask(page, question)
    page.until("document.body.dataset.state === 'idle'")


def text(page: Page, id_: str) -> str:
    return page.value(f"at('{id_}').textContent")


def runs(page: Page, list_: str) -> list[tuple[str, str]]:
    """Of each run in a list its writer and its text."""
    found = page.value(
        f"[...document.querySelectorAll('#{list_} .run')]"
        ".map((run) => [run.classList[1], run.textContent])"
    )
    return [tuple(run) for run in found]


def written(page: Page) -> str:
    """The answer, as its steps show it."""
    kept = page.value(
        "[...document.querySelectorAll('#steps .step:not(.discarded)')].map((step) =>"
        " [...step.querySelectorAll('.run')].map((run) => run.textContent).join(''))"
    )
    return "\n\n".join(kept)


@NO_BROWSER
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.few(1)
def test_an_answer_comes_in_two_colours_with_its_costs(
    served: Served, opened: Opened, width: int, dark: bool
) -> None:
    page = opened(served, width=width, dark=dark)
    asked(page)
    assert page.complaints == []
    assert text(page, "status") == "Done."
    assert page.value("document.documentElement.scrollWidth") <= width

    told = served.ask(QUESTION, steer={"trace": True}).json()
    answer, usage = told["choices"][0]["message"]["content"], told["usage"]["steer"]
    (steps,) = usage["steps"]
    assert written(page) == answer
    by_large = [run for who, run in runs(page, "steps") if who == "large"]
    assert by_large == ["2", "8", "36", "12"]  # a token each
    assert usage["tokens"]["large"] == len(by_large)
    back = [s["text"].strip() for s in steps if s["discarded"]]
    assert len(back) == 4
    struck = "[...document.querySelectorAll('#steps s .unseen + span')]"
    assert page.value(f"{struck}.map((run) => run.textContent)") == back
    assert page.value(
        "getComputedStyle(document.querySelector('#steps s')).textDecorationLine"
    ) == ("line-through")

    style = "getComputedStyle(document.querySelector('#steps .run.%s')).%s"
    for writer, line in (("small", "dotted"), ("large", "solid")):
        colour = COLOURS[writer].dark if dark else COLOURS[writer].light
        red, green, blue = bytes.fromhex(colour[1:])
        assert page.value(style % (writer, "color")) == f"rgb({red}, {green}, {blue})"
        assert page.value(style % (writer, "textDecorationStyle")) == line

    assert {who for who, _ in runs(page, "largeSteps")} == {"large"}
    alone = served.ask(QUESTION, model="large").json()["usage"]["steer"]
    rows = page.value(
        "[...at('rows').rows].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert len(rows) == len(COSTS)
    assert all(re.fullmatch(r"[\d.]+ ?[kMG]?[Bs]?", cell) for row in rows for cell in row[1:])
    (_, routed, large, ratio) = rows[0]
    first, second = usage["cost"]["flops_paper"], alone["cost"]["flops_paper"]
    assert (routed, large) == (f"{first / 1e6:.3g} M", f"{second / 1e6:.3g} M")
    assert ratio == f"{first / second:.2f}"


@NO_BROWSER
def test_steps_are_told_to_a_screen_reader_one_by_one(served: Served, opened: Opened) -> None:
    page = opened(served)
    unnamed = (
        "[...document.querySelectorAll('textarea, select, input')].filter((e) => !e.labels.length)"
    )
    assert page.value(f"{unnamed}.length") == 0
    asked(page)
    lines = page.value("[...at('log').children].map((line) => line.textContent)")
    assert lines[0] == "Step 1, small model, taken back: 5 = 16 /8\n\n"
    assert lines[-1] == "Step 6, small model: answer 12"
    assert len(lines) == page.value("at('steps').children.length") == 10
    assert page.value("at('log').getAttribute('aria-live')") == "polite"
    assert page.value("document.querySelectorAll('[aria-live]').length") == 1


@NO_BROWSER
def test_the_share_is_set_by_keyboard_and_sent(served: Served, opened: Opened) -> None:
    page = opened(served)
    assert page.value("at('share').disabled") is True
    page.value("at('router').value = 'random'; at('router').dispatchEvent(new Event('change'))")
    page.value("at('share').focus()")
    for _ in range(3):
        page.press("ArrowRight")
    assert text(page, "percent") == "45 %"
    asked(page)
    assert text(page, "told").startswith("random:share=0.45: ")
    assert page.complaints == []


@NO_BROWSER
def test_a_link_fills_the_question_in_and_asks_nothing(served: Served, opened: Opened) -> None:
    """Or any page could make a browser that can reach the server work for it."""
    served.settle()
    before = served.metric("vllm:prompt_tokens_total")
    page = opened(served, "/?q=Compute+1+%2B1+%3F&router=random&share=0.7&go=1")
    assert page.value("at('question').value") == "Compute 1 +1 ?"
    assert (page.value("at('router').value"), text(page, "percent")) == ("random", "70 %")
    assert page.value("document.body.dataset.state || ''") == ""
    served.settle()
    assert served.metric("vllm:prompt_tokens_total") == before


@NO_BROWSER
def test_what_the_server_says_is_text(served: Served, opened: Opened) -> None:
    page = opened(served)
    markup = "<img src=x onerror=alert(1)>"
    page.value(f"at('router').append(new Option('x', '{markup}')); at('router').value = '{markup}'")
    asked(page)
    assert markup in text(page, "error")
    step = {"index": 0, "writer": "small", "text": markup, "tokens": 1, "score": 1, "drafts": []}
    step |= {
        "posterior": None,
        "refused": None,
        "discarded": True,
        "prefilled": 0,
        "milliseconds": 1,
    }
    page.value(
        f"steps = new Steps(at('steps'), at('log')); took = {json.dumps(step)};"
        "steps.close(took); steps.piece({writer: 'large', step: 0, text: took.text});"
    )
    assert text(page, "steps").count(markup) == 2
    assert markup in text(page, "log")
    assert page.value("document.images.length") == 0
    assert [said for said in page.complaints if "400" not in said] == []


@NO_BROWSER
def test_a_key_is_asked_for_and_kept_in_the_page_alone(demo: Pair, opened: Opened) -> None:
    with Served(demo, "random:share=0.5", allowed=(), key="secret-7") as served:
        page = opened(served)
        assert page.value("at('locked').hidden") is True
        assert page.value("at('router').options.length") == 1  # a request may name none
        asked(page)
        assert "the API key is wrong or missing" in text(page, "error")
        assert page.value("document.activeElement.id") == "key"
        page.type("secret-7")
        page.press("Enter")
        page.until("at('status').textContent === 'Done.'")
        assert page.value("at('error').hidden") is True
        assert page.value("at('rows').rows.length") == 4
        assert page.value("[localStorage.length, sessionStorage.length, document.cookie]") == [
            0,
            0,
            "",
        ]
        assert "secret" not in page.value("document.documentElement.outerHTML + location.href")


@NO_BROWSER
def test_stopping_frees_the_row(demo: Pair, opened: Opened) -> None:
    with Served(demo) as served:
        page = opened(served)
        may, begun, iterate = threading.Event(), threading.Event(), served.worker.core.pool.iterate

        def held() -> Any:
            if len(served.worker.core.pool):
                begun.set()
                may.wait(60)
            return iterate()

        served.worker.core.pool.iterate = held  # type: ignore[method-assign]
        ask(page)
        assert begun.wait(60)
        page.press("Escape")
        page.until("document.body.dataset.state === 'idle'")
        assert text(page, "status") == "Stopped."
        assert page.value("at('costs').hidden && at('error').hidden")
        may.set()
        served.settle()
        assert served.metric("steer_requests_total", how="cancelled") == 1
        asked(page)
        assert text(page, "status") == "Done."


@pytest.mark.slow
@NO_BROWSER
def test_every_example_is_answered(served: Served, opened: Opened) -> None:
    tasks = {"Compute": mathematics, "Who": question_answering, "Route": planning}
    page = opened(served)
    page.value("at('compare').checked = false")
    seen = set()
    while (question := page.value("at('example').click(), at('question').value")) not in seen:
        seen.add(question)
        asked(page, question)
        answer = served.ask(question).json()["choices"][0]["message"]["content"]
        assert tasks[question.split()[0]].grade(question, answer), question
        assert written(page) == answer
    assert len(seen) == 6
    assert page.complaints == []


def test_its_colours_are_those_of_the_palette_and_can_be_read() -> None:
    for shade, block in zip(("light", "dark"), re.findall(r":root \{(.*?)\}", PAGE), strict=True):
        found = dict(re.findall(r"--(\w+): (#\w+);", block))
        assert found == {name: getattr(COLOURS[name], shade) for name in found}
        for name in ("ink", "quiet", "small", "large", "r0"):
            assert contrast(found[name], found["page"]) >= 4.5, (shade, name)


def contrast(first: str, second: str) -> float:
    """The ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [part / 255 for part in bytes.fromhex(colour[1:])]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_it_knows_which_routers_take_a_share() -> None:
    (listed,) = re.findall(r"const TAKE_A_SHARE = \[(.*?)\];", PAGE)
    takers = [name for name in nameable() if "share" in data_spec(name).known]
    assert sorted(re.findall(r'"(.*?)"', listed)) == sorted(takers)


def test_it_fetches_nothing_from_elsewhere_and_writes_no_html() -> None:
    assert not re.search(r"https?://|//\w+\.\w|@import|src=|innerHTML|insertAdjacentHTML", PAGE)
    assert len(PAGE.splitlines()) < 400
