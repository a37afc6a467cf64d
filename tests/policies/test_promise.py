"""A promise of accuracy: what holds it, what cannot be promised, and what is then done."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import beta, binom
from steer_decode import BothSides, Router, SteerError, parse_policy
from steer_decode.core.sampling import Sampling
from steer_decode.fitting.mixtures import Prompts
from steer_decode.fitting.promises import make_promise
from steer_decode.policies.fitted.promise import (
    CONFIDENCE,
    Promise,
    Rung,
    chance_of_so_few,
    fewest_prompts,
)
from support.tiny import make_close_pair, prompt_ids, prompt_text

PAIR = make_close_pair("llama", 4, 0.02)


def promise(*bars: tuple[float, int, int], pair: str = "") -> Promise:
    return Promise(pair or PAIR.fingerprint, 4, 0.0, [Rung(*bar) for bar in bars])


@pytest.mark.parametrize(("differ", "asked"), [(0, 10), (3, 300), (12, 299), (300, 300)])
@pytest.mark.parametrize("loss", [0.0, 0.001, 0.01, 0.3, 1.0])
def test_the_binomial_tail(differ: int, asked: int, loss: float) -> None:
    expected = binom.cdf(differ, asked, loss)
    assert chance_of_so_few(differ, asked, loss) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", [0.005, 0.01, 0.05, 0.5])
def test_the_fewest_prompts(loss: float) -> None:
    n = fewest_prompts(loss)
    assert chance_of_so_few(0, n, loss) <= 1 - CONFIDENCE
    assert chance_of_so_few(0, n - 1, loss) > 1 - CONFIDENCE
    # The bound of Clopper and Pearson says the same.
    assert beta.ppf(CONFIDENCE, 1, n) <= loss < beta.ppf(CONFIDENCE, 1, n - 1)


def test_the_last_bar_before_one_that_fails_holds() -> None:
    made = promise((0.99, 400, 0), (0.95, 400, 0), (0.9, 400, 9), (0.8, 400, 0))
    assert made.sure(0.01) == 0.95  # 0.8 is behind one that failed
    assert made.sure(0.005) == 1.0  # 400 answers are too few for it
    assert made.sure(0.05) == 0.8


def test_above_temperature_0_every_draft_is_read() -> None:
    router = BothSides(loss=0.01, path=promise((0.9, 400, 0)))
    assert router.drafting is not None
    assert router.drafting.sure == 0.9
    sampled = router.drafts(Sampling(0.7))
    assert sampled is not None
    assert sampled.sure == 1.0
    assert sampled.lossless
    out = Router(PAIR, router).generate(prompt_ids(0, 9), max_new_tokens=40, temperature=0.7)
    assert not any(step.others for step in out.trace.steps)
    greedy = Router(PAIR, router).generate(prompt_ids(0, 9), max_new_tokens=40)
    plain = Router(PAIR, BothSides(part=4, sure=0.9)).generate(prompt_ids(0, 9), max_new_tokens=40)
    assert greedy.token_ids == plain.token_ids


def test_what_cannot_be_promised_is_the_large_models_answer() -> None:
    router = Router(PAIR, BothSides(loss=0.01, path=promise((0.1, 20, 0))))
    prompt = prompt_ids(3, 7)
    large = Router(PAIR, parse_policy("large")).generate(prompt, max_new_tokens=40)
    assert router.generate(prompt, max_new_tokens=40).token_ids == large.token_ids


@pytest.mark.slow
def test_a_promise_is_made_of_answers_that_are_compared() -> None:
    pair = make_close_pair("llama", 4, 0.6)
    prompts = [prompt_text(i, 4 + i % 5) for i in range(24)]
    run = Prompts(pair, prompts, options={"max_new_tokens": 30}, cohort=8)
    made = make_promise(run, str.strip, part=4, least=0.0, bars=(0.9, 0.3, 0.1))
    large = [
        o.text.strip()
        for o in Router(pair, parse_policy("large")).cohort(prompts, max_new_tokens=30)
    ]
    for bar in made.bars:
        router = Router(pair, BothSides(part=4, sure=bar.sure))
        texts = [o.text.strip() for o in router.cohort(prompts, max_new_tokens=30)]
        assert bar.asked == 24
        assert bar.differ == sum(a != b for a, b in zip(texts, large, strict=True))
    assert [bar.sure for bar in made.bars] == [0.9, 0.3, 0.1]
    assert made.bars[-1].differ > 0


def test_it_is_saved_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "promise.json"
    made = promise((0.99, 400, 0), (0.95, 400, 9))
    made.save(path)
    router = parse_policy(f"both-sides:loss=0.01:path={path}")
    assert router.label == f"both-sides:loss=0.01:path={path}"
    assert parse_policy(router.label).drafting == router.drafting
    with pytest.raises(SteerError, match="another pair"):
        Router(make_close_pair("llama", 5), router)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bars": [Rung(0.9, 10, 0), Rung(0.95, 10, 0)]},
        {"bars": [Rung(0.9, 10, 11)]},
        {"bars": [Rung(1.9, 10, 0)]},
        {"least": 2.0},
        {"part": 0},
    ],
)
def test_a_file_that_promises_nothing_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    path = tmp_path / "promise.json"
    replace(promise((0.9, 10, 0)), **wrong).save(path)  # type: ignore[arg-type]
    with pytest.raises(SteerError, match="no promise"):
        Promise.load(path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": 0.01}, "needs a promise for the pair"),
        ({"loss": 2, "path": promise((0.9, 10, 0))}, "loss must lie in"),
        ({"loss": 0.01, "sure": 0.5, "path": promise((0.9, 10, 0))}, "the promise sets it"),
        ({"loss": 0.01, "part": 3, "path": promise((0.9, 10, 0))}, "give either loss or part"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SteerError, match=words):
        BothSides(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "temperature"), [(19, 0.0), (30, 0.7)])
def test_what_no_promise_can_be_made_of_is_refused(n: int, temperature: float) -> None:
    run = Prompts(PAIR, ["w1"] * n, options={"temperature": temperature})
    with pytest.raises(SteerError, match=r"temperature must be 0|at least 20 prompts"):
        make_promise(run, str)


def test_the_rule_keeps_its_word() -> None:
    """Draws of calibrations from pairs whose loss at each bar is known: kept in 95 % of them."""
    import random

    chance, kept, draws = random.Random(0), 0, 400
    risks = [0.0005, 0.004, 0.011, 0.02, 0.05]
    for _ in range(draws):
        bars = []
        for i, risk in enumerate(risks):
            differ = sum(chance.random() < risk for _ in range(600))
            bars.append((0.99 - i / 10, 600, differ))
        sure = promise(*bars, pair="x").sure(0.01)
        true = 0.0 if sure >= 1 else risks[round((0.99 - sure) * 10)]
        kept += true <= 0.01
    # Three deviations below 95 %.
    assert kept / draws >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)
