"""Passes of two vLLM engines in this process, and answers that are written over both.

They are stepped by this package's loop, one after the other, and no thread, pipe or server is
between: the clock is CPU time, which a busy machine does not stretch.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

ROWS, LENGTHS, TOKENS, BLOCK = (1, 4, 16), (8, 40, 200), 24, 32

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def engine(folder: Any) -> Any:
    """An ``LLM`` of vllm with raw logits and whole blocks of :data:`BLOCK`."""
    from vllm import LLM

    return LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        logprobs_mode="raw_logits",
        max_num_seqs=16,
        max_model_len=512,
        block_size=BLOCK,
        kv_cache_memory_bytes=256 << 20,
        disable_log_stats=True,
    )


def passes(llm: Any, seed: int) -> list[dict[str, float]]:
    """Timed passes of one engine: rows of random tokens join together, and decode together."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    chance, found = random.Random(seed), []
    params = SamplingParams(
        max_tokens=TOKENS,
        ignore_eos=True,
        temperature=0.0,
        logprobs=1,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    for rows in ROWS:
        for length in LENGTHS:
            times: list[float] = []
            begin = time.process_time()
            for row in range(rows):
                ids = [chance.randrange(10, 200) for _ in range(length)]
                llm.llm_engine.add_request(
                    f"{seed}-{rows}-{length}-{row}", {"prompt_token_ids": ids}, params
                )
            while llm.llm_engine.has_unfinished_requests():
                llm.llm_engine.step()
                times.append(time.process_time() - begin)
                begin = time.process_time()
            found += [
                {"rows": rows, "tokens": rows * length, "ms": 1e3 * times[0]},
                {"rows": rows, "tokens": rows, "ms": 1e3 * statistics.median(times[1:])},
            ]
    return found


def measured(
    names: Sequence[str],
    prompts: Callable[[int], Sequence[str]],
    rounds: int,
    at_once: Sequence[int],
    write: Callable[..., Any],
) -> tuple[list[dict[str, list[dict[str, float]]]], dict[str, Any], dict[tuple[str, int], Any]]:
    """Time the engines, either model alone over other prompts, and the routers, in turns.

    The second tells what a call takes beside its passes. Each answer is asked of engines that have
    read nothing of it, so that what they read is known.
    """
    from steer_decode import Router
    from steer_decode.core.transcript import WRITERS
    from steer_decode.demo import pair_paths
    from steer_decode.models.vllm_pair import VllmPair
    from steer_decode.policies import parse_policy

    def written(router: Router, asked: Sequence[str], rows: int) -> Any:
        for llm in llms.values():
            llm.reset_prefix_cache()
        return write(router, asked, rows, time.process_time)

    llms = dict(zip(WRITERS, map(engine, pair_paths()), strict=True))
    pair = VllmPair.of(*llms.values())
    routers = {name: Router(pair, parse_policy(name)) for name in names}
    alone = {w: Router(pair, parse_policy(w)) for w in WRITERS}
    timed, one_by_one, found = [], dict[str, Any](), dict[tuple[str, int], Any]()
    for turn in range(rounds + 1):  # the first sets up what is set up at first
        each = {w: passes(llm, turn) for w, llm in llms.items()}
        if turn:
            timed.append(each)
        for writer, router in alone.items():
            one = written(router, prompts(0), 1)
            if turn:
                kept = one_by_one.setdefault(writer, one)
                kept.seconds += one.seconds if kept is not one else []
        for name, router in routers.items():
            for rows in at_once:
                one = written(router, prompts(rows), rows)
                if turn:
                    kept = found.setdefault((name, rows), one)
                    kept.seconds += one.seconds if kept is not one else []
    return timed, one_by_one, found
