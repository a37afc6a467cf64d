"""Answers over two servers: those of the models here, whatever happens to the servers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from steer_decode import Pair, Router
from steer_decode.core.events import StepClosed, TextDelta
from steer_decode.core.transcript import Writer
from steer_decode.errors import ServerError
from steer_decode.models.vllm_pair import VllmPair
from steer_decode.policies import parse_policy
from support.stub_vllm import StubVllm
from support.tiny import prompt_ids

Stubs = dict[Writer, StubVllm]
ROUTERS = ["steer:threshold=20:large_threshold=14", "random:share=0.5", "foreal:n=2", "large"]
PROMPTS = [prompt_ids(seed, 9) for seed in range(3)]
LENGTH = {"max_new_tokens": 40}


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.few(1)
def test_answers_are_those_of_the_models_here(here: Pair, there: VllmPair, router: str) -> None:
    policy = parse_policy(router)
    alone = [
        Router(here, policy).generate(prompt, seed=i, **LENGTH) for i, prompt in enumerate(PROMPTS)
    ]
    together = Router(there, policy).cohort(PROMPTS, **LENGTH)
    for expected, found in zip(alone, together, strict=True):
        assert found.token_ids == expected.token_ids
        assert found.trace.stop_reason == expected.trace.stop_reason
        for a, b in zip(expected.trace.steps, found.trace.steps, strict=True):
            assert (a.writer, a.token_ids, a.discarded) == (b.writer, b.token_ids, b.discarded)
            assert a.prefilled == b.prefilled
            assert a.values == pytest.approx(b.values, abs=2e-4)
        for writer in ("small", "large"):
            there_, here_ = getattr(found.cost, writer), getattr(expected.cost, writer)
            assert (there_.written, there_.discarded) == (here_.written, here_.discarded)


def test_a_session_reads_what_is_new(there: VllmPair, stubs: Stubs, here: Pair) -> None:
    from steer_decode import Session

    policy = parse_policy("random:share=0.5")
    found = []
    for pair in (here, there):
        session, ids = Session(Router(pair, policy)), list(PROMPTS[0])
        for turn in range(3):
            ids += session.stream(ids, max_new_tokens=12, seed=turn).finish().token_ids
            ids += [4 + turn, 5]
        found.append(ids)
    assert found[0] == found[1]
    names = {headers["x-session-id"] for stub in stubs.values() for _, headers in _asked(stub)}
    assert len(names) == 1


def test_a_conversation_has_one_name_at_both_servers(there: VllmPair, stubs: Stubs) -> None:
    Router(there, parse_policy("random:share=0.5")).cohort(PROMPTS[:2], **LENGTH)
    names = [{headers["x-session-id"] for _, headers in _asked(stub)} for stub in stubs.values()]
    assert names[0] == names[1]
    assert len(names[0]) == 2


def test_each_call_has_a_seed_of_its_own_and_an_answer_its_own_seed(
    there: VllmPair, stubs: Stubs
) -> None:
    router = Router(there, parse_policy("random:share=0.5"))
    options: dict[str, Any] = {**LENGTH, "temperature": 1.0}
    first = router.generate(PROMPTS[0], seed=3, **options)
    seeds = [body["seed"] for stub in stubs.values() for body, _ in _asked(stub)]
    assert len(set(seeds)) == len(seeds) > 3
    assert router.generate(PROMPTS[0], seed=3, **options).token_ids == first.token_ids
    assert router.generate(PROMPTS[0], seed=4, **options).token_ids != first.token_ids


def test_a_hand_over_costs_what_the_server_had_not_cached(there: VllmPair, stubs: Stubs) -> None:
    router = Router(there, parse_policy("random:share=0.5"))
    first = router.generate(PROMPTS[0], **LENGTH)
    written = sum(first.cost.to_dict()[w]["written"] for w in ("small", "large"))  # type: ignore[index]
    again = router.generate(PROMPTS[0], **LENGTH)
    assert again.token_ids == first.token_ids
    # The first time each model reads the prompt and what the other wrote; then all is cached, and
    # what is read is the last token before each token that is written.
    assert again.cost.small.processed + again.cost.large.processed == written
    read = first.cost.small.processed + first.cost.large.processed
    assert read >= 2 * len(PROMPTS[0]) + written


@pytest.mark.parametrize(
    ("fault", "after", "temperature"),
    [("500", 0, 0.0), ("busy", 0, 0.0), ("drop", 3, 0.0), ("error", 3, 0.0), ("drop", 2, 1.0)],
)
@pytest.mark.few(1)
def test_a_fault_that_passes_changes_nothing(
    there: VllmPair, stubs: Stubs, fault: str, after: int, temperature: float
) -> None:
    router = Router(there, parse_policy("random:share=0.5"))
    expected = router.generate(PROMPTS[1], temperature=temperature, **LENGTH)
    for stub in stubs.values():
        stub.faults.extend([(fault, after), (fault, after), (fault, after)])
    found = router.generate(PROMPTS[1], temperature=temperature, **LENGTH)
    assert found.token_ids == expected.token_ids
    assert not any(stub.faults for stub in stubs.values())


def test_silence_is_a_fault(here: Pair, stubs: Stubs) -> None:
    from steer_decode.engines.vllm.servers import Patience

    urls = [stub.url for stub in stubs.values()]
    pair = VllmPair.connect(*urls, patience=Patience(5.0, 0.3, (0.0,)))
    router = Router(pair, parse_policy("large"))
    stubs["large"].faults.extend([None, ("silence", 0)])
    stream = router.stream(PROMPTS[1], **LENGTH)
    for event in stream:
        if isinstance(event, TextDelta):
            break
    with pytest.raises(ServerError, match=r"failed 2 times at token 1 of step 0 \(it did not ans"):
        stream.finish()
    assert stream.trace.stop_reason == "server"
    stubs["large"].held.set()
    pair.close()


@pytest.mark.parametrize("fault", ["500", "drop", "error"])
def test_a_fault_that_stays_ends_the_answer_with_a_marked_trace(
    there: VllmPair, stubs: Stubs, fault: str
) -> None:
    router = Router(there, parse_policy("large"))
    expected = router.generate(PROMPTS[1], **LENGTH)
    stubs["large"].faults.extend([None, *[(fault, 2)] * 4])
    stream = router.stream(PROMPTS[1], **LENGTH)
    with pytest.raises(ServerError, match=r"the large model 'large' at http.* failed 4 times at"):
        stream.finish()
    assert stream.trace.stop_reason == "server"
    ids = stream.output.token_ids
    assert 0 < len(ids) < len(expected.token_ids)
    assert ids == expected.token_ids[: len(ids)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.few(1)
def test_what_was_broken_off_after_a_step_goes_on_to_what_it_would_have_been(
    there: VllmPair, temperature: float
) -> None:
    """A seed belongs to a place in the text, however many calls have led to it."""
    router = Router(there, parse_policy("random:share=0.5"))
    options = {**LENGTH, "temperature": temperature, "seed": 3}
    expected = router.generate(PROMPTS[1], **options)
    for steps in range(1, len(expected.trace.steps) - 1, 2):
        stream = router.stream(PROMPTS[1], **options)
        closed = (event for event in stream if isinstance(event, StepClosed))
        for _ in range(steps):
            next(closed)
        stream.close()
        stream.trace.stop_reason = "interrupted"
        assert router.resume(stream.output, **options).finish().token_ids == expected.token_ids


def test_a_pair_that_is_closed_answers_nothing_more(stubs: Stubs) -> None:
    pair = VllmPair.connect(*(stub.url for stub in stubs.values()))
    stubs["large"].pace = 0.01
    stream = Router(pair, parse_policy("large")).stream(PROMPTS[1], **LENGTH)
    next(stream)
    pair.close()
    with pytest.raises(ServerError, match="been closed: connect again"):
        stream.finish()
    with pytest.raises(ServerError, match="of this pair have been closed: connect again"):
        Router(pair, parse_policy("large")).generate(PROMPTS[1], **LENGTH)
    pair.close()


def test_one_answer_that_fails_does_not_end_others(there: VllmPair, stubs: Stubs) -> None:
    from steer_decode import Pool
    from steer_decode.core.events import Done, Failed

    router = Router(there, parse_policy("large"))
    expected = [router.generate(prompt, **LENGTH).token_ids for prompt in PROMPTS]
    stubs["large"].faults.extend([("500", 0)] * 4)
    pool = Pool(router)
    first = pool.add(PROMPTS[0], **LENGTH)
    ends: dict[int, Any] = {}
    while first not in ends:  # all four tries are spent on it
        ends |= {key: event for key, event in pool.iterate() if isinstance(event, Done | Failed)}
    others = [pool.add(prompt, **LENGTH) for prompt in PROMPTS[1:]]
    ends |= {key: event for key, event in pool.run() if isinstance(event, Done | Failed)}
    assert isinstance(ends[first], Failed)
    assert [ends[key].output.token_ids for key in others] == expected[1:]


def test_a_reader_that_goes_leaves_no_call_behind(there: VllmPair, stubs: Stubs) -> None:
    from steer_decode import Pool

    stubs["large"].pace = 0.01
    pool = Pool(Router(there, parse_policy("large")))
    key = pool.add(PROMPTS[0], **LENGTH)
    while not stubs["large"].going:
        list(pool.iterate())
    pool.cancel(key)
    while stubs["large"].going:  # it notices as it writes the next token
        time.sleep(0.005)
    assert len(_asked(stubs["large"])) == 1


def test_a_step_that_ends_within_two_tokens_is_cut_where_it_ends(
    here: Pair, there: VllmPair, stubs: Stubs
) -> None:
    """A delimiter that no token holds alone: the server does not stop there, and is stopped."""
    from steer_decode.core.boundary import StepBoundary

    boundary = StepBoundary(here.tokenizer, here.vocab_size, "w1w")
    routers = [Router(pair, parse_policy("random:share=0.5"), boundary) for pair in (here, there)]
    for seed, prompt in enumerate(PROMPTS):
        expected, found = (router.generate(prompt, seed=seed, **LENGTH) for router in routers)
        assert [s.token_ids for s in found.trace.steps] == [
            s.token_ids for s in expected.trace.steps
        ]


def _asked(stub: StubVllm) -> list[tuple[dict[str, Any], dict[str, str]]]:
    return [(body, {k.lower(): v for k, v in headers.items()}) for body, headers in stub.asked]
