"""Both models at the same time: the answers are those of one after the other."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

import pytest
from steer_decode import AlwaysLarge, AlwaysSmall, Policy, RandomShare, Router, SteerError, Step
from steer_decode.core.cost import Usage
from steer_decode.core.events import Done, Failed
from steer_decode.core.requests import Draw, Hooks, Looked
from steer_decode.core.sampling import Sampling
from steer_decode.core.transcript import Transcript, Writer
from steer_decode.decode.answer import Answer
from steer_decode.decode.overlap import LEAST, Overlapping
from steer_decode.decode.pool import Pool
from steer_decode.decode.routing import Routing
from steer_decode.engines.base import Replies
from steer_decode.policies import POLICIES, REDO, RESTART, Redo, RouterSpec
from support.scripted import ScriptedEngine
from support.tiny import make_pair, prompt_ids, prompt_text

PAIR = make_pair("llama", 0)
PATIENCE = 60.0  # seconds after which an event is not coming


class Reading(ScriptedEngine):
    """A scripted engine that reads early, and whose work can be made to wait."""

    def __init__(self, writer: Writer, vocab: int) -> None:
        super().__init__(writer, vocab)
        self.may_go = threading.Event()
        self.may_go.set()
        self.begun = threading.Event()
        self.early: list[int] = []

    def enter_thread(self) -> None:
        pass

    def read_early(
        self, rows: Sequence[int], marks: Sequence[int], new: Sequence[Sequence[int]]
    ) -> Sequence[int]:
        self._wait()
        found = []
        for row, mark, ids in zip(rows, marks, new, strict=True):
            self.known[row] = [*self.known[row][:mark], *ids]
            self.counts[row].processed += len(ids)
            self.early.append(len(ids))
            found.append(len(self.known[row]))
        return found

    def write(
        self, rows: Sequence[int], looking: Sequence[int] = ()
    ) -> Replies[list[Draw] | Looked]:
        self._wait()
        return super().write(rows, looking)

    def _wait(self) -> None:
        self.begun.set()
        assert self.may_go.wait(PATIENCE)


def scripted() -> tuple[Overlapping, dict[Writer, Reading]]:
    vocab = PAIR.vocab_size
    engines: dict[Writer, Reading] = {
        "small": Reading("small", vocab),
        "large": Reading("large", vocab),
    }
    return Overlapping(engines, engines["large"]), engines


def answer(policy: Policy, length: int = 5, room: int = 40) -> Answer:
    routing = Routing(PAIR, policy, PAIR.boundary, frozenset(), {})
    text = Transcript(prompt_ids(0, length))
    return Answer(routing, policy, text, length + room, Sampling(), 0, Hooks())


def run(scheduler: Overlapping) -> list[Exception]:
    failed = []
    while scheduler.busy:
        failed += [e.error for _, e in scheduler.iterate() if isinstance(e, Failed)]
    return failed


def test_the_small_model_goes_on_while_the_large_one_writes() -> None:
    scheduler, engines = scripted()
    by_large, by_small = answer(AlwaysLarge()), answer(AlwaysSmall())
    scheduler.add(by_large)
    scheduler.add(by_small)
    engines["large"].may_go.clear()
    while not by_small.trace.stop_reason:  # which would never come if one waited for the other
        list(scheduler.iterate())
    assert engines["large"].begun.wait(PATIENCE)
    assert not by_large.trace.kept[0].token_ids
    engines["large"].may_go.set()
    assert run(scheduler) == []
    assert sum(len(step.token_ids) for step in by_large.trace.kept) == 40


class Later(Policy):
    """The large model takes over after some steps."""

    name = "later"

    def after_step(self, step: Step) -> Writer:
        return "large" if step.index >= 2 else "small"


def test_a_prompt_is_read_while_the_small_model_writes() -> None:
    scheduler, engines = scripted()
    row = scheduler.add(later := answer(Later(), length=LEAST + 1))
    assert run(scheduler) == []
    assert engines["large"].early[0] == LEAST  # the last token is read with what follows
    assert scheduler.usage(row, "large").processed == later.transcript.read["large"]


@pytest.mark.parametrize(("policy", "length"), [(AlwaysSmall(), 200), (Later(), LEAST)])
def test_what_nobody_needs_is_not_read_early(policy: Policy, length: int) -> None:
    scheduler, engines = scripted()
    scheduler.add(answer(policy, length=length, room=10))
    list(scheduler.iterate())
    list(scheduler.iterate())
    assert engines["large"].early == []


def test_a_reader_that_goes_away_is_waited_for() -> None:
    scheduler, engines = scripted()
    row = scheduler.add(answer(Later(), length=100))
    large = engines["large"]
    large.may_go.clear()
    list(scheduler.iterate())
    assert large.begun.wait(PATIENCE)
    threading.Timer(0.01, large.may_go.set).start()
    scheduler.retire(row)  # closes the row in the engine, which must not be at it
    assert large.early == [99]
    assert large.known == {}


class Broken(Reading):
    def write(
        self, rows: Sequence[int], looking: Sequence[int] = ()
    ) -> Replies[list[Draw] | Looked]:
        if self.writer == "large":
            raise ZeroDivisionError("in the other thread")
        return super().write(rows, looking)


def test_an_engine_that_breaks_is_heard_of() -> None:
    engines: dict[Writer, Reading] = {
        "small": Broken("small", PAIR.vocab_size),
        "large": Broken("large", PAIR.vocab_size),
    }
    scheduler = Overlapping(engines, engines["large"])
    scheduler.add(answer(AlwaysLarge()))
    scheduler.add(answer(AlwaysSmall()))
    with pytest.raises(ZeroDivisionError, match="other thread"):
        run(scheduler)


class TakesBack(Policy):
    """Steps are taken back, by the one model and the other."""

    name = "takes-back"

    def after_step(self, step: Step) -> Writer | Redo:
        if step.writer == "small" and step.index % 2:
            return REDO
        return "large" if step.index % 3 == 0 else "small"


class StartsAgain(Policy):
    """The answer begins again with the large model after two steps."""

    name, restarts = "starts-again", True

    def after_step(self, step: Step) -> Writer:
        return RESTART if step.writer == "small" and step.index == 1 else step.writer  # type: ignore[return-value]


def made(name: str) -> Policy:
    try:
        return RouterSpec.read(name).make()
    except SteerError as error:
        pytest.skip(f"needs a file: {error}")


OWN: list[Callable[[], Policy]] = [TakesBack, StartsAgain, Later]
NAMED = [
    *(name for name, policy in POLICIES.items() if not policy.in_rounds and name != "replay"),
    "steer:threshold=8",
    "random:share=0.5:draft=4",
    "both-sides:part=8:sure=0.9:least=0.1",
]


@pytest.mark.spread(1, ci=2)
@pytest.mark.parametrize("length", [3, 70])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_p": 0.9}])
@pytest.mark.parametrize("policy", [*OWN, *NAMED])
@pytest.mark.few(6)
def test_every_router_answers_as_without(
    policy: Callable[[], Policy] | str, sampling: dict[str, float], length: int
) -> None:
    def routed(overlap: bool) -> Router:
        return Router(PAIR, made(policy) if isinstance(policy, str) else policy(), overlap=overlap)

    prompts = [prompt_text(i, length + 5 * i) for i in range(2)]
    options = {"max_new_tokens": 16, "seed": 3, **sampling}
    apart, beside = routed(False), routed(True)
    wanted, found = apart.generate(prompts, **options), beside.generate(prompts, **options)
    together = beside.cohort(prompts, **options)
    for one, other, third in zip(wanted, found, together, strict=True):
        assert other.token_ids == one.token_ids == third.token_ids
        writers = [step.writer for step in one.trace.kept]
        assert [step.writer for step in other.trace.kept] == writers
        assert other.cost.flops_paper == one.cost.flops_paper
        assert other.cost.flops_processed >= one.cost.flops_processed * 0.999
        assert _sound(other.cost.large)
        assert _sound(other.cost.small)


def _sound(usage: Usage) -> bool:
    return usage.processed >= usage.written - usage.discarded


@pytest.mark.slow
def test_any_order_of_arrival() -> None:
    prompts = [prompt_text(i, 3 + (37 * i) % 120) for i in range(10)]
    options = {"max_new_tokens": 25, "seed": 1}
    router = Router(PAIR, RandomShare(0.5), overlap=True)
    wanted = [Router(PAIR, RandomShare(0.5)).generate(p, **options).token_ids for p in prompts]
    pool, chance, of, found = Pool(router, max_rows=3, keep_bytes=2**20), random.Random(0), {}, {}
    todo = list(range(len(prompts)))
    while todo or len(pool):
        while todo and len(pool) < 3 and chance.random() < 0.6:
            i = todo.pop()
            key = pool.add(prompts[i], **options)
            of[key] = i
            if chance.random() < 0.2:  # a reader that goes away, and comes again
                pool.cancel(key)
                todo.insert(0, i)
        for key, event in pool.iterate():
            assert not isinstance(event, Failed), event
            if isinstance(event, Done):
                found[of[key]] = event.output.token_ids
    assert [found[i] for i in range(len(prompts))] == wanted
