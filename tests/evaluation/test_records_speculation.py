"""Speculation replayed over records: its passes, drafts and costs are those of a run."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from steer_decode import (
    AlwaysLarge,
    Pair,
    Router,
    SteerError,
)
from steer_decode.evaluation.records.record import Records
from steer_decode.evaluation.records.replayed import replay_records
from steer_decode.evaluation.records.speculation import (
    SpeculationCosts,
    acceptance,
    passes_of,
    speculate,
)
from steer_decode.evaluation.records.tables import markdown
from steer_decode.policies import Speculative
from support.recorded import answer, evaluation, header, recorded, run, shaken_pair, view
from support.tiny import prompt_text

LENGTHS = (1, 2, 3, 5, 16)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return shaken_pair()


def test_greedy_passes_are_those_of_a_plain_loop() -> None:
    """Draft k tokens, take those that agree and one more of the large model's."""
    rng = np.random.default_rng(0)
    for k, limit in itertools.product(LENGTHS, (None, 20, 23)):
        for _ in range(20):
            agrees = rng.random(20) < 0.7
            at, passes, looked, kept = 0, [], [0] * k, [0] * k
            while at < 20:
                passes.append(at)
                drafts = k if limit is None else min(k, limit - at - 1)
                for i in range(drafts):
                    if at == 20:
                        break
                    looked[i] += 1
                    if not agrees[at]:
                        break
                    kept[i] += 1
                    at += 1
                at += 1  # the large model's own
            found = passes_of(agrees.astype(float), k, limit)
            assert [one.start for one in found.begun] == passes
            assert found.passes == len(passes)
            assert found.examined.tolist() == looked
            assert found.accepted.tolist() == kept


def toy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models of three tokens, each a table by the token before."""
    rng = np.random.default_rng(seed)
    return tuple(rng.dirichlet([0.6] * 3, size=4) for _ in range(2))  # type: ignore[return-value]


def passes_of_the_algorithm(p: np.ndarray, q: np.ndarray, n: int, k: int) -> float:
    """Expected passes until n tokens are written, by the rule itself: draft, coin, residual."""

    def begin(last: int, done: int) -> float:
        return 0.0 if done >= n else 1 + draft(last, done, min(k, n - done - 1))

    def draft(last: int, done: int, left: int) -> float:
        if not left:
            return sum(p[last, x] * begin(x, done + 1) for x in range(3))
        keep = np.minimum(1, p[last] / q[last])
        total = sum(q[last, x] * keep[x] * draft(x, done + 1, left - 1) for x in range(3))
        residual = np.maximum(0, p[last] - q[last])
        refusal = 1 - float((q[last] * keep).sum())
        if refusal > 1e-12:
            residual /= residual.sum()
            total += refusal * sum(residual[x] * begin(x, done + 1) for x in range(3))
        return total

    return begin(3, 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2, 4, 7])
@pytest.mark.few(3)
def test_sampled_passes_are_those_of_the_algorithm(seed: int, k: int) -> None:
    """Exact to rounding: the sum over all texts of the large model, against all that may be drawn.

    Nothing but the large model's texts, and both models' probabilities of their tokens, goes in.
    """
    p, q = toy(seed)
    n = 6
    expected = 0.0
    for text in itertools.product(range(3), repeat=n):
        before = (3, *text[:-1])
        of_p = np.log([p[b, x] for b, x in zip(before, text, strict=True)])
        of_q = np.log([q[b, x] for b, x in zip(before, text, strict=True)])
        likeliest = [[0, 1]] * n
        one = answer(view(of_q, likeliest), view(of_p, likeliest), text)
        coins = acceptance(header(1.0), one)
        expected += math.exp(of_p.sum()) * passes_of(coins, k, n).passes
    assert expected == pytest.approx(passes_of_the_algorithm(p, q, n, k), rel=1e-9)


def test_coins_behind_temperature_and_cuts() -> None:
    small = view([-1.0, -1.0, -1.0], [[0, 1]] * 3, drawn=np.array([-2.0, -np.inf, -0.5]))
    large = view([-9.0, -9.0, -9.0], [[0, 1]] * 3, drawn=np.array([-1.0, -0.1, -0.7]))
    coins = acceptance(header(0.7), answer(small, large, [0, 0, 0]))
    assert coins == pytest.approx([math.exp(-1.0), 0.0, 1.0])
    bare = answer(view([-1.0], [[0, 1]]), view([-1.0], [[0, 1]]), [0])
    with pytest.raises(SteerError, match="cannot be replayed on texts sampled with Sampling"):
        acceptance(header(0.7), bare)
    # And a replay says so, and does the rest.
    found = replay_records(Records(header(0.7), [bare]), 100)
    assert found.drafts == []
    assert "cannot be replayed on texts sampled" in markdown(found)


def test_costs_of_the_large_model_alone_are_those_of_a_run(pair: Pair) -> None:
    made = evaluation(pair, {"large": AlwaysLarge()}, n=6)
    costs = SpeculationCosts(pair.shapes)
    for row in run(made):
        assert row.record is not None
        paper, processed, read = costs.alone(row.record)
        assert (paper, processed) == (row.flops_paper, row.flops_processed)
        assert read == pytest.approx(row.bytes_read)


def test_costs_of_a_pass_by_hand(pair: Pair) -> None:
    """k = 2: all drafts accepted, then the first refused, then one that ends the text."""
    small, large = pair.shapes["small"], pair.shapes["large"]
    coins = np.array([1.0, 1.0, 0.0, 0.0, 1.0])  # tokens 0 1 +2, then 3 refused, then 4
    one = answer(view([-1.0] * 5, [[0, 1]] * 5), view([-1.0] * 5, [[0, 1]] * 5), [0] * 5)
    found = passes_of(coins, 2)
    assert [tuple(begun) for begun in found.begun] == [
        (0, 2, False, 1.0),
        (3, 2, True, 1.0),
        (4, 2, False, 1.0),
    ]
    paper, processed, read = SpeculationCosts(pair.shapes).of(one, found)
    # Six tokens are drafted; of the five that stand, three were accepted drafts.
    assert paper == 6 * 2.0 * small.active + 2 * 2.0 * large.active
    # The prompt has three tokens. The large model reads what is pending and two drafts; the small
    # one what is pending, for its first draft, and that, for its second.
    of_large = large.flops(5, 0, 3) + large.flops(3, 5, 3) + large.flops(3, 6, 3)
    of_small = small.flops(3, 0) + small.flops(1, 3)
    of_small += small.flops(2, 4) + small.flops(1, 6)  # its last draft, unread, and the own token
    of_small += small.flops(1, 6) + small.flops(1, 7)
    assert processed == of_large + of_small
    weights = small.read_bytes(1)
    assert read > 3 * large.read_bytes(1) + 6 * weights


@pytest.mark.parametrize("k", [1, 4, "auto"])
@pytest.mark.few(1)
def test_a_replay_of_greedy_speculation_is_a_run_of_it(pair: Pair, k: int | str) -> None:
    """Passes, drafts that stay and costs, answer by answer, to the last digit."""
    records = recorded(pair, {"large": AlwaysLarge()}, n=6)
    costs, exact = SpeculationCosts(pair.shapes), 0
    for one in records.answers:
        router = Router(pair, Speculative(k))  # type: ignore[arg-type]
        i = int(one.problem)
        out = router.generate(prompt_text(i, 5 + i), max_new_tokens=24)
        assert out.text == one.text
        found = passes_of(acceptance(records.header, one), k, 24, one.stop_reason == "eos")
        drafts = [draft for step in out.trace.steps for draft in step.drafts]
        assert found.passes == out.cost.large.forwards
        assert found.accepted.sum() == sum(stayed for _, stayed in drafts)
        paper, processed, read = costs.of(one, found)
        # What the small model ends itself behind a token that falls, nobody has recorded.
        shorter = found.drafted - out.cost.small.written
        assert shorter >= 0
        if shorter:
            assert paper > out.cost.flops_paper
            assert processed > out.cost.flops_processed
        else:
            exact += 1
            assert (paper, processed) == (out.cost.flops_paper, out.cost.flops_processed)
            assert read == pytest.approx(out.cost.bytes_read)
    assert exact >= 3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.few(1)
def test_speculation_over_real_texts(pair: Pair, temperature: float) -> None:
    options = {"temperature": temperature}
    records = recorded(pair, {"large": AlwaysLarge()}, n=12, options=options)
    tokens = sum(map(len, records.answers))
    last = 0.0
    for one in speculate(records.header, records.by("large"), (*LENGTHS, "auto")):
        rate = one.tokens.sum() / one.passes.sum()
        # Each pass writes the drafts that stayed and one more, but where a draft ended the text.
        more = one.accepted.sum() + one.passes.sum() - tokens
        assert -1e-6 <= more <= len(records.answers)
        assert (one.accepted <= one.examined + 1e-9).all()
        if one.k != "auto":
            assert last <= rate <= float(one.k) + 1
            last = rate
    assert 1.3 < last < 10, "drafts are accepted, and refused"
