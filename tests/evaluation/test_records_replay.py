"""Routers replayed over records: what is exact is that of a run, the rest is refused by name."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from steer_decode import (
    AlwaysLarge,
    AlwaysSmall,
    BothSides,
    FirstTokenEntropy,
    Pair,
    Policy,
    Router,
    Steer,
    SteerError,
)
from steer_decode.core.signals import SIGNALS
from steer_decode.evaluation.records.record import AnswerRecord, Records
from steer_decode.evaluation.records.replayed import refused, replay_records, to_dict
from steer_decode.evaluation.records.scores import scores
from steer_decode.evaluation.records.signals import Signals, told_by_signals
from steer_decode.evaluation.records.speculation import (
    SpeculationCosts,
    acceptance,
    passes_of,
    speculate,
)
from steer_decode.evaluation.records.tables import markdown
from steer_decode.policies import POLICIES, Speculative
from steer_decode.util.numbers import auroc, weighted_auroc
from support.commands import steer
from support.recorded import answer, evaluation, header, recorded, run, saved, view
from support.tiny import make_model, make_tokenizer, prompt_text

LENGTHS = (1, 2, 3, 5, 16)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """The large model is the small one, a little shaken: drafts are accepted, and refused."""
    small = make_model("llama", 0)
    with torch.no_grad():  # most answers are to end by themselves
        small.get_output_embeddings().weight[1] *= 3
    large = copy.deepcopy(small)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in large.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += 0.08 * weight.std() * noise
    return Pair(small, large, make_tokenizer())


NUMBER = 14


@pytest.fixture(scope="module")
def of_the_small_model(pair: Pair) -> tuple[Records, Signals]:
    """Answers of the small model, and what each number of theirs tells of them."""
    records = recorded(pair, {"small": AlwaysSmall()}, n=NUMBER)
    assert len({a.closed for a in records.answers}) == 2, "some are cut off"
    return records, told_by_signals(records.answers, None, 100)


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


def stays(pair: Pair, policy: Policy, prompt: str) -> bool:
    """Whether a router leaves the whole answer to the small model."""
    trace = Router(pair, policy).generate(prompt, max_new_tokens=24).trace
    return all(step.writer == "small" and not step.discarded for step in trace.steps)


@pytest.mark.parametrize(
    ("kind", "signal"),
    [
        ("first-token", "entropy"),
        ("steer", "max-logit"),
        ("both-sides:sure=1", ""),
        ("both-sides:sure=1:fix=step", ""),
        *(
            pytest.param(kind, signal, marks=pytest.mark.slow)
            for kind, signal in itertools.product(("first-token", "steer"), SIGNALS)
            if (kind, signal) not in (("first-token", "entropy"), ("steer", "max-logit"))
        ),
    ],
)
def test_an_answer_stays_with_the_small_model_where_its_number_says_so(
    pair: Pair, of_the_small_model: tuple[Records, Signals], kind: str, signal: str
) -> None:
    """At a threshold in the midst of the answers, as the router itself decides."""
    records, by_answers = of_the_small_model
    name = kind if kind.startswith("both-sides") else f"{kind}:signal={signal}"
    (found,) = [each for each in scores() if each.name == name]
    values = {a.problem: found.of(a) for a in records.answers}
    (told,) = [one for one in by_answers.answers if one.name == name]
    _, (own, share, right), _ = told.thresholds
    policy: Policy = {
        "first-token": lambda: FirstTokenEntropy(own, signal),
        "steer": lambda: Steer(threshold=own, signal=signal),
        "both-sides:sure=1": lambda: BothSides(sure=1.0, keep=own),
        "both-sides:sure=1:fix=step": lambda: BothSides(sure=1.0, keep=own, fix="step"),
    }[kind]()
    least = SIGNALS[signal].confidence(own) if found.signal else own
    kept = []
    for record in records.answers:
        i = int(record.problem)
        left = stays(pair, policy, prompt_text(i, 5 + i))
        assert left == (values[str(i)] >= least), (i, values[str(i)], least)
        kept += [record.correct] if left else []
    assert 0 < len(kept) < NUMBER
    assert share == len(kept) / NUMBER
    assert right == sum(map(bool, kept)) / len(kept)


def test_weighted_auroc_is_auroc_of_items_that_count_more_than_once() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 6, 30).astype(float)  # with ties
    right = rng.random(30) < 0.5
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    for row, found in zip(weights, weighted_auroc(values, right, weights), strict=True):
        often = np.repeat(np.arange(30), row.astype(int))
        good, bad = ([values[i] for i in often if right[i] == side] for side in (True, False))
        assert found == pytest.approx(auroc(good, bad))
    assert np.isnan(weighted_auroc(values, np.ones(30, dtype=bool), weights)).all()


def small_answers() -> list[AnswerRecord]:
    """Twenty answers of two steps; the surer the first token, the likelier is the answer right."""
    found = []
    for i in range(20):
        entropy = np.array([0.1 * i, 0.3, 0.2, 0.3])
        seen = view([-0.7] * 4, [[1, 2]] * 4, max_logit=-entropy, entropy=entropy)
        more = {"writers": "SSSS", "steps": [2, 2], "problem": str(i), "correct": i < 12}
        more |= {"router": "small", "spec": "small", "right": (i < 12, None)}
        found.append(answer(seen, seen, [1, 1, 1, 1], **more))
    return found


def test_signals_are_ranked_by_what_they_tell() -> None:
    found = told_by_signals(small_answers(), None, 200)
    by_name = {one.name: one for one in found.answers}
    best = by_name["first-token:signal=entropy"]
    assert found.answers[0].auroc.value == 1.0
    assert best.auroc.value == 1.0
    assert 0.5 < best.auroc.low < 1.0, "eight wrong answers do not make a certainty"
    assert best.surest == (1.0, 0.2)
    # In nats of entropy: five, ten and fifteen of the twenty are below, that is surer.
    expected = [(0.45, 0.25, 1.0), (0.95, 0.5, 1.0), (1.45, 0.75, 0.8)]
    for point, values in zip(best.thresholds, expected, strict=True):
        assert tuple(point) == pytest.approx(values)
    assert by_name["steer:signal=max-prob"].auroc.value == 0.5
    assert (best.right, best.wrong) == (12, 8)
    assert found.steps[0].name.startswith(("entropy", "max-logit"))
    assert (found.steps[0].right, found.steps[0].wrong) == (12, 8)


def test_half_sent_is_the_cascade() -> None:
    """The less sure half is answered by the large model, but for what was cut off."""
    small = small_answers()
    large = {(a.domain, a.problem, a.seed): True for a in small}
    one = {o.name: o for o in told_by_signals(small, large, 200).answers}
    name = "corea:signal=entropy:over=first"
    # Ten are sent: eight wrong ones and two right ones, all right behind it.
    assert one[name].half_sent is not None
    assert one[name].half_sent.value == 1.0
    assert one["first-token:signal=entropy"].half_sent is None
    worst = {key: int(key[1]) < 10 for key in large}  # the large model fails where they are sent
    one = {o.name: o for o in told_by_signals(small, worst, 200).answers}
    assert one[name].half_sent is not None
    assert one[name].half_sent.value == 0.5
    assert told_by_signals(small, {}, 200).answers[0].half_sent is None


def test_every_router_is_replayed_or_refused_with_a_reason() -> None:
    told = refused()
    exact = {"small", "large", "speculative", "corea"}
    for name in set(POLICIES) - exact:
        assert len(told[name]) > 40, name
    shown = markdown(replay_records(Records(header(), small_answers()), 100))
    for name in told:
        assert name in shown


def test_a_replay_needs_a_text_of_one_model(pair: Pair) -> None:
    mixed = recorded(pair, {"mixed": BothSides(sure=1.0)}, n=2)
    with pytest.raises(SteerError, match="no text that the small or the large model wrote alone"):
        replay_records(mixed)
    # Also where such a router's answer happens to be of one model: that is a selection.
    lazy = recorded(pair, {"first-token": FirstTokenEntropy(1e9)}, n=2)
    assert all(set(a.writers) == {"S"} for a in lazy.answers)
    with pytest.raises(SteerError, match="wrote alone"):
        replay_records(lazy)


def test_the_command_replays_a_file(pair: Pair, tmp_path: Path) -> None:
    path = saved(tmp_path / "r.jsonl.gz", recorded(pair, n=8))
    out = tmp_path / "replayed"
    shown = steer("eval", "--replay", path, "--out", out)
    assert shown.exit_code == 0, shown.output
    assert "| speculative:k=4 |" in shown.stdout
    assert "Not replayed, as they need a run" in shown.stdout
    data: dict[str, Any] = json.loads((out / "r.replay.json").read_text())
    assert (out / "r.replay.md").read_text().strip() == shown.stdout.strip()
    assert [one["k"] for one in data["speculation"]] == [*range(1, 17), "auto"]
    assert set(data["speculation"][0]["beside_large_alone"]) == {
        "flops_paper",
        "flops_processed",
        "bytes_read",
    }
    assert len(data["answers"]) == 4 * 7 + 2
    assert data["routers"]["large"]["answers"] == 8
    assert to_dict(replay_records(recorded(pair, n=8)))["agreement"] == data["agreement"]
