"""One token after another, by three contenders.

Our loop, bare forward passes, and ``generate`` of transformers. A context need not be read to be
there: a cache filled with random numbers costs a decoding step what any other does. The contenders
take turns and the least time counts, since whatever else the machine does can only add to it: of
each token for itself, as a busy machine spares hardly a whole turn. With one thread the clock is
the thread's CPU time, which other processes do not stretch but for the caches that they empty; with
more it is the clock on the wall.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

from ...core.events import TextDelta
from ...core.sampling import Sampling
from ...core.transcript import WRITERS, Transcript, Writer
from ...decode.router import Router
from ...decode.routing import hf_engines
from ...decode.stream import RoutedStream
from ...engines.hf.cache_support import cache_argument
from ...engines.hf.cpu import patched
from ...engines.hf.lane import Lane
from ...models.pair import Pair
from ...policies import AlwaysSmall

Clock = Callable[[], float]
Turn = Callable[[], dict[str, float]]  # seconds by name

PATIENCE = 60.0  # seconds
BUSY = 1.5  # a spread beyond this is no measurement; it is taken again


def clock(threads: int) -> Clock:
    """The clock of so many threads, in seconds.

    Of CPU time for one thread, on the wall for more.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def in_turns(
    contenders: Sequence[Turn], turns: int, seconds: float, *, warm: bool = True
) -> tuple[dict[str, float], float]:
    """Let contenders take turns, and keep their least times.

    Each has ``turns`` turns, and as many more as fit into ``seconds``. Where the first one's times
    lie far apart, as they do when a pool of threads finds its processors taken, as many turns again
    are added, once. No turns are added any more once :data:`PATIENCE` has passed. With ``warm`` a
    turn goes first that does not count.

    Returns:
        The least time by name, and the median over the least time of the first.
    """
    times: dict[str, list[float]] = defaultdict(list)
    if warm:
        for contender in contenders:
            contender()  # buffers grow and code paths warm
    begin, extended, done = time.perf_counter(), False, 0
    while True:
        for contender in contenders:
            for name, value in contender().items():
                times[name].append(value)
        done += 1
        passed = time.perf_counter() - begin
        if passed < seconds or (done < turns and passed < PATIENCE):
            continue
        first = next(iter(times.values()))
        spread = statistics.median(first) / min(first)
        if spread <= BUSY or extended or passed >= PATIENCE:
            return {name: min(values) for name, values in times.items()}, spread
        turns, extended = turns + done, True


def timed(name: str, call: Callable[[], object], now: Clock) -> Turn:
    """A turn that is one call."""

    def turn() -> dict[str, float]:
        begin = now()
        call()
        return {name: now() - begin}

    return turn


def pieces(name: str, marks: Sequence[float]) -> dict[str, float]:
    """Times of ``name``, in all and between ``marks``.

    ``name`` lasts from the first to the last of them, ``name i`` lies between each two.
    """
    between = {f"{name} {i}": b - a for i, (a, b) in enumerate(pairwise(marks))}
    return {name: marks[-1] - marks[0], **between}


def total(least: dict[str, float], name: str) -> float:
    """The sum of the least times of ``name``'s pieces."""
    return sum(value for key, value in least.items() if key.startswith(f"{name} "))


class Context:
    """One model over a text that it has read.

    But for the last token.

    Args:
        pair: whose model ``writer`` it is.
        length: tokens of the text.
        room: tokens that may follow.
    """

    def __init__(self, pair: Pair, length: int, room: int, writer: Writer = "small") -> None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, pair.vocab_size, (length,), generator=generator)
        self.pair = pair
        self.ids: list[int] = ids.tolist()
        self.model = pair.model(writer)
        self.transcript = Transcript(self.ids)
        self.writer = writer
        self.engines = hf_engines(pair, dict.fromkeys(WRITERS, 1), length + room)
        for engine in self.engines.values():
            engine.lane.open(0, self.transcript)
        self.lane = self.engines[writer].lane
        self.cache = self.lane.cache
        fill(self.lane, length + room)
        self.start_again()

    def start_again(self) -> None:
        """Back to the text, with its last token unread."""
        self.transcript.restart(self.ids)
        self.lane.roll_back(0, len(self.ids) - 1)
        self.transcript.read[self.writer] = len(self.ids) - 1


@torch.inference_mode()
def fill(lane: Lane, tokens: int) -> None:
    """Fill a lane's cache with random keys and values.

    As if it had read ``tokens`` tokens.
    """
    config = lane.model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    lane.cache.begin([0], [tokens], lane.model.device)
    for layer in lane.cache.layers:
        new = torch.empty(1, kv_heads, tokens, size, dtype=lane.model.dtype).uniform_(-1, 1)
        layer.update(new, new)
    lane.cache.commit()


def ours(context: Context, tokens: int, now: Clock) -> Turn:
    """Our loop's pieces, "loop" and "token".

    "loop" is the whole turn, "token" begins with the first one.
    """
    router = Router(context.pair, AlwaysSmall())

    def turn() -> dict[str, float]:
        context.start_again()
        begin = now()
        stream = RoutedStream(
            router.routing, context.transcript, tokens, Sampling(), 0, engines=context.engines
        )
        marks = [now() for event in stream if isinstance(event, TextDelta)]
        assert len(marks) == tokens
        return pieces("loop", [begin, *marks, now()]) | pieces("token", marks)

    return turn


def bare(context: Context, tokens: int, now: Clock) -> Turn:
    """Pieces of "bare", a loop around the model.

    Inputs, forward pass, argmax.
    """
    model, cache = patched(context.model), context.cache
    argument = cache_argument(context.model)

    @torch.inference_mode()
    def turn() -> dict[str, float]:
        context.start_again()
        marks = [now()]
        token = context.ids[-1]
        for _ in range(tokens):
            token = int(forward(model, cache, argument, [token])[0].argmax())
            marks.append(now())
        return pieces("bare", marks)

    return turn


def forward(model: Any, cache: Any, argument: str, ids: list[int]) -> torch.Tensor:
    """Logits [1, V] after a bare forward pass.

    It is over ``ids``, which the cache then holds. With the layers of our own passes, but the
    attention that the model was loaded with.
    """
    span = cache.begin([0], [len(ids)], model.device)
    positions = span.starts[:, None]
    if len(ids) > 1:
        positions = positions + torch.arange(len(ids), device=model.device)
    logits: torch.Tensor = model(
        input_ids=torch.tensor([ids], device=model.device),
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
        **{argument: cache},
    ).logits[:, -1]
    cache.commit()
    return logits


class _Marks(BaseStreamer):
    """Notes when each token comes; ``generate`` streams the prompt first."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self.marks: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.marks.append(self._now())

    def end(self) -> None:
        pass


def generate(context: Context, tokens: int, now: Clock) -> Turn:
    """Pieces of "generate", that of transformers.

    It has its own cache; pieces are from the first token on.
    """
    model = context.model
    argument = cache_argument(model)
    ids = torch.tensor([context.ids])
    held = len(context.ids) - 1

    @torch.inference_mode()
    def turn() -> dict[str, float]:
        context.start_again()
        cache = DynamicCache()
        for i, layer in enumerate(context.cache.layers):
            keys, values = (buffer[:, :, :held].clone() for buffer in (layer.keys, layer.values))
            cache.update(keys, values, i)
        streamer = _Marks(now)
        run_generate(model, ids, tokens, streamer=streamer, **{argument: cache})
        marks = streamer.marks[1:]
        assert len(marks) == tokens
        return pieces("generate", marks)

    return turn


def run_generate(model: Any, ids: torch.Tensor, tokens: int, **options: Any) -> torch.Tensor:
    """Greedy ``generate``, as a user calls it."""
    out: torch.Tensor = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        **options,
    )
    return out
