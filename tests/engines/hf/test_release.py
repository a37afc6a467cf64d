"""Caches go with the answer that they were made for, at once: the next one needs their room."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from steer_decode import FirstTokenEntropy, Router
from steer_decode.engines.hf.cache import KVCache
from support.tiny import make_pair, prompt_text


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[weakref.WeakSet[KVCache]]:
    """The caches that exist; the collector of reference cycles is off."""
    caches: weakref.WeakSet[KVCache] = weakref.WeakSet()
    init = KVCache.__init__

    def watched(self: KVCache, *args: object) -> None:
        init(self, *args)  # type: ignore[arg-type]
        caches.add(self)

    monkeypatch.setattr(KVCache, "__init__", watched)
    gc.collect()
    gc.disable()
    yield caches
    gc.enable()


@pytest.mark.spread
@pytest.mark.parametrize("turns", [1, 4])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_nothing_of_an_answer_outlives_it(
    alive: weakref.WeakSet[KVCache], family: str, turns: int
) -> None:
    router = Router(make_pair(family), FirstTokenEntropy(0.5), ahead=turns)
    for _ in range(3):
        output = router.generate(prompt_text(1), max_new_tokens=12)
        assert not alive
    assert output.token_ids
    router.cohort([prompt_text(i) for i in range(3)], max_new_tokens=12)
    assert not alive


def test_nothing_of_an_answer_that_is_given_up_outlives_it(
    alive: weakref.WeakSet[KVCache],
) -> None:
    stream = Router(make_pair("llama"), FirstTokenEntropy(0.5)).stream(
        prompt_text(1), max_new_tokens=12
    )
    next(iter(stream))
    assert len(alive) == 2
    stream.close()
    del stream
    assert not alive
