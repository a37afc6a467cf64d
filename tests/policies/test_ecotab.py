"""EcoTab: which tokens are the table's, how two risks combine, and how the maps are fitted."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steer_decode import EcoTab, Router, SteerError, Step, parse_policy
from steer_decode.fitting import CheckedPrompt, fit_corea, fit_ecotab
from steer_decode.fitting.logistic import fit_noisy_or
from steer_decode.policies.ecotab import Trie, cells, split_entropy, table_tokens
from steer_decode.policies.fitted.logistic import Logistic, LogisticMaps
from support import reference_loop as ref
from support.tiny import make_pair, prompt_text

TABLE = """Which city is larger?
| city | people |
|------|-------:|
| New York | 8.3 |
| Rome | 2.8 |
"""


def plain_spans(strings: list[str], text: str) -> list[tuple[int, int]]:
    """Whole words, the longest at each place, from left to right; by trying every string."""

    def edge(at: int) -> bool:
        return not (0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum())

    spans, at = [], 0
    while at < len(text):
        ends = [at + len(s) for s in strings if s and text.startswith(s, at) and edge(at + len(s))]
        end = max(ends, default=at) if edge(at) else at
        if end > at:
            spans.append((at, end))
        at = max(end, at + 1)
    return spans


@given(
    strings=st.lists(st.text("ab1 .", max_size=4), max_size=6),
    text=st.text("ab1 .", max_size=30),
)
def test_the_trie_finds_what_trying_every_string_finds(strings: list[str], text: str) -> None:
    assert Trie(strings).spans(text) == plain_spans(strings, text)


def test_cells_of_a_table_or_words_of_the_question() -> None:
    assert cells(TABLE) == ["city", "people", "New York", "8.3", "Rome", "2.8"]
    assert cells("Route a5 to a1 walls c1 ?") == ["Route", "a5", "to", "a1", "walls", "c1"]


def test_tokens_that_overlap_a_cell_are_the_tables() -> None:
    texts = ["New", " Yo", "rk", " has", " 8", ".3", " million", ", Rome", "s", " not"]
    assert table_tokens(texts, TABLE) == [True, True, True, False, True, True, *[False] * 4]
    assert table_tokens(texts, TABLE, Trie(["million"])) == [*[False] * 6, True, *[False] * 3]


def maps(table: Logistic, text: Logistic, fingerprint: str = "x") -> LogisticMaps:
    return LogisticMaps("ecotab", fingerprint, {"table": table, "text": text})


def test_the_two_risks_are_joined_by_noisy_or() -> None:
    policy = EcoTab(0.5, maps(Logistic(2.0, -1.0), Logistic(3.0, -2.0)))
    step = Step(1, "small", values=[0.2, 0.4, 1.0], counted=[True, False, True])
    table, text = 1 / (1 + math.exp(-(2 * 0.6 - 1))), 1 / (1 + math.exp(-(3 * 0.4 - 2)))
    risk = 1 - (1 - table) * (1 - text)
    assert policy.risk(step) == pytest.approx(risk)
    assert policy.after_step(step) == ("large" if risk > 0.5 else "small") == "large"
    # A kind of which there is no token adds no risk.
    assert policy.risk(Step(1, "small", values=[0.4], counted=[False])) == pytest.approx(text)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.few(1)
def test_routing_equals_recomputation_from_scratch(family: str) -> None:
    pair = make_pair(family, 0)
    prompt, strings = prompt_text(2), ["w1", "w2", "w3", "w12"]
    level, ids = 0.0, pair.encode(prompt)

    def risk(values: list[float], counted: list[bool]) -> float:
        parts = [[v for v, c in zip(values, counted, strict=True) if c is k] for k in (True, False)]
        chances = [1 / (1 + math.exp(-(sum(p) / len(p) - 1.5))) for p in parts if p]
        return 1 - math.prod(1 - c for c in chances)

    def recomputed(level: float) -> Any:
        text, risks = list(ids), []

        def after(index: int, step: ref.RefStep) -> str:
            values = [
                ref.entropy(ref.next_logits(pair, step.writer, text + step.ids[:i]))
                for i in range(len(step.ids))
            ]
            text.extend(step.ids)
            words = [pair.tokenizer.decode([i]) for i in step.ids]
            spans, at, counted = plain_spans(strings, "".join(words)), 0, []
            for word in words:
                counted.append(any(a < at + len(word) and at < b for a, b in spans))
                at += len(word)
            risks.append(risk(values, counted))
            return "large" if risks[-1] > level else "small"

        return ref.generate(pair, ids, 40, lambda i, w, z: w, after), risks

    _, risks = recomputed(2.0)
    level = sorted(risks)[len(risks) // 2] - 1e-3
    (expected, steps), _ = recomputed(level)
    shared = Logistic(1.0, -1.5)
    policy = EcoTab(level, maps(shared, shared, pair.fingerprint), strings)
    out = Router(pair, policy).generate(prompt, max_new_tokens=40)
    assert out.token_ids == expected
    assert [s.writer for s in out.trace.steps] == [s.writer for s in steps]
    assert out.cost.hand_overs


def test_a_row_of_a_cohort_is_routed_as_alone() -> None:
    pair, shared = make_pair("qwen2", 0), Logistic(1.0, -1.5)
    router = Router(pair, EcoTab(0.5, maps(shared, shared, pair.fingerprint)))
    prompts = [prompt_text(i, 3 + 2 * i) for i in range(5)]
    together = router.cohort(prompts, max_new_tokens=40)
    for prompt, output in zip(prompts, together, strict=True):
        alone = router.generate(prompt, max_new_tokens=40)
        assert output.token_ids == alone.token_ids
        assert [s.counted for s in output.trace.steps] == [s.counted for s in alone.trace.steps]
    assert any(o.cost.hand_overs for o in together)


def test_fits_find_the_maps_that_made_the_labels() -> None:
    draw = random.Random(0)
    true = Logistic(3.0, -2.0), Logistic(1.5, -1.0)
    inputs, labels = [], []
    for _ in range(6000):
        row = [draw.uniform(0, 2), draw.uniform(0, 2)]
        if draw.random() < 0.3:
            row[0] = math.nan
        quiet = math.prod(1 - m(x) for m, x in zip(true, row, strict=True) if not math.isnan(x))
        inputs.append(row)
        labels.append(draw.random() > quiet)
    for fitted, wanted in zip(fit_noisy_or(inputs, labels, ridge=0.0), true, strict=True):
        assert fitted.slope == pytest.approx(wanted.slope, abs=0.5)
        assert fitted.intercept == pytest.approx(wanted.intercept, abs=0.5)
    # One column is logistic regression: at its optimum the mean chance is the share of labels.
    column = [[row[1]] for row in inputs]
    (single,) = fit_noisy_or(column, labels, ridge=0.0)
    assert sum(single(x) for (x,) in column) == pytest.approx(sum(labels), rel=1e-3)


@pytest.mark.parametrize("labels", [[True] * 20, [False] * 20, [True, False] * 4])
def test_labels_that_tell_nothing_are_refused(labels: list[bool]) -> None:
    with pytest.raises(SteerError, match=f"cannot fit {len(labels)} labels"):
        fit_noisy_or([[float(i)] for i in range(len(labels))], labels)


def test_separable_labels_have_a_finite_fit() -> None:
    (fitted,) = fit_noisy_or([[float(i)] for i in range(20)], [i >= 10 for i in range(20)])
    assert 0 < fitted.slope < 100
    assert fitted(0.0) < 0.1 < 0.9 < fitted(19.0)


@pytest.mark.slow
def test_suffix_replacement_on_a_pair(tmp_path: Path) -> None:
    pair = make_pair("llama", 0)
    with torch.no_grad():
        for model in (pair.small, pair.large):
            model.get_output_embeddings().weight[1] *= 3
    seen: list[str] = []
    tasks = []
    for i in range(60):
        # A question counts as answered rightly by whatever text has an even length.
        tasks.append(
            CheckedPrompt(
                prompt_text(i, 4), lambda text: not seen.append(text) and len(text) % 2 == 0
            )
        )  # type: ignore[func-returns-value]
    made = fit_ecotab(pair, tasks, max_new_tokens=40)
    assert made.pair == pair.fingerprint
    assert 0 < made.settings["failed"] < made.settings["labels"] <= 60  # type: ignore[operator]
    assert fit_ecotab(pair, tasks, max_new_tokens=40) == made
    path = tmp_path / "e.json"
    made.save(path)
    policy = parse_policy(f"ecotab:path={path}:threshold=0.3")
    assert str(policy) == f"ecotab:threshold=0.3:path={path}"
    Router(pair, policy).cohort([t.prompt for t in tasks[:3]], max_new_tokens=20)
    with pytest.raises(SteerError, match="were fitted for another pair"):
        Router(make_pair("llama", 3), policy)
    answer = fit_corea(pair, tasks, max_new_tokens=40).maps["answer"]
    assert math.isfinite(answer.slope)


def test_split_entropy_of_a_step_without_a_table() -> None:
    table, text = split_entropy(Step(0, "small", values=[1.0, 3.0], counted=[False, False]))
    assert math.isnan(table)
    assert text == 2.0


def test_bad_settings(tmp_path: Path) -> None:
    good = maps(Logistic(1, 0), Logistic(1, 0))
    with pytest.raises(SteerError, match="ecotab needs path=FILE"):
        EcoTab()
    with pytest.raises(SteerError, match=r"threshold must lie in \[0, 1\], got 1.5"):
        EcoTab(1.5, good)
    with pytest.raises(SteerError, match=r"cannot read strings 'none\.txt'"):
        EcoTab(0.5, good, "none.txt")
    empty = tmp_path / "s.txt"
    empty.write_text("\n")
    with pytest.raises(SteerError, match="holds no strings: give one a line"):
        EcoTab(0.5, good, str(empty))
