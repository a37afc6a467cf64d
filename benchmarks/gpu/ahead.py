"""Tokens a second of the decode loop on a model of random weights, and what the device did.

The shape of Qwen2.5-0.5B in bfloat16, greedy, a prompt of 512 random tokens; 1 and 8 answers at a
time; the host looks at every token, or at every eighth (`turns`), where turns are captured as
CUDA graphs; the same with the layers of transformers in place of ours (STEER_DECODE_GPU=off), and
`generate` of transformers beside it. Every answer captures its graphs anew, so the time of a token
is given twice: over a short answer with all that comes first, and between the ends of a short and a
long one. A profile of a few turns follows.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from steer_decode.bench.decode.models import SHAPES, Shape, random_pair
from steer_decode.core.sampling import Sampling
from steer_decode.core.transcript import Transcript
from steer_decode.decode.router import Router
from steer_decode.decode.stream import Cohort
from steer_decode.models.pair import Pair
from steer_decode.policies import AlwaysSmall

from .files import header, options, write_json, write_whole

TURNS = (8, 1)


@dataclass(frozen=True)
class Size:
    shape: Shape
    dtype: torch.dtype
    prompt: int
    rows: tuple[int, ...]
    tokens: dict[int | None, tuple[int, int]]  # of a short and a long answer by turns; of generate


SIZES = {
    "cuda": Size(
        SHAPES["qwen2.5-0.5b"],
        torch.bfloat16,
        512,
        (1, 8),
        {8: (64, 448), 1: (32, 96), None: (32, 96)},
    ),
    "cpu": Size(
        Shape("qwen2", 1000, 64, 128, 2, 4, 2),
        torch.float32,
        20,
        (1, 3),
        {8: (4, 20), 1: (4, 12), None: (4, 12)},
    ),
}


def main() -> int:
    chosen = options(__doc__.splitlines()[0]).parse_args()
    size, device = SIZES[chosen.device], chosen.device
    found: dict[str, Any] = {**header(device), "rows": [], "errors": {}}
    torch.set_num_threads(1)
    pair = random_pair(size.shape, device=device, dtype=size.dtype)
    weights = {p.data_ptr(): p.numel() * p.element_size() for p in pair.small.parameters()}
    found |= {"shape": vars(size.shape), "dtype": str(size.dtype), "prompt": size.prompt}
    found["weight_bytes"] = sum(weights.values())
    save(chosen.out, found, "")
    for rows in size.rows:
        prompts = make_prompts(rows, size)
        contenders: dict[str, tuple[int | None, Answer]] = {
            f"turns = {n}": (n, ours(pair, prompts, n)) for n in TURNS
        }
        name = f"turns = {TURNS[0]}, layers of transformers"
        contenders[name] = TURNS[0], ours(pair, prompts, TURNS[0], "off")
        contenders["generate"] = None, generate(pair, prompts)
        for name, (turns, answer) in contenders.items():
            key = f"{rows} rows, {name}"
            try:
                row = timed(answer, *size.tokens[turns], device)
            except Exception as error:
                traceback.print_exc(file=sys.stdout)
                found["errors"][key] = f"{type(error).__name__}: {str(error).strip()[:300]}"
            else:
                found["rows"].append({"rows": rows, "contender": name, "turns": turns, **row})
                print(f"{key}: {row}", flush=True)
            save(chosen.out, found, "")
    table = ""
    try:
        one = ours(pair, make_prompts(1, size), TURNS[0])
        table = profile(one, size.tokens[TURNS[0]][0], device)
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        found["errors"]["profile"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
    save(chosen.out, found, table)
    best = max((row["tokens_per_second"] or 0.0 for row in found["rows"]), default=0.0)
    print(f"at most {best:.0f} tokens a second; {len(found['errors'])} failed", *found["errors"])
    return 1 if found["errors"] else 0


Answer = Callable[[int], list[list[int]]]


def make_prompts(rows: int, size: Size) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, size.shape.vocab, (rows, size.prompt), generator=generator).tolist()


def ours(pair: Pair, prompts: list[list[int]], turns: int, layers: str = "on") -> Answer:
    """Answers of n tokens, all rows together; with our layers on a GPU, or without."""
    router = Router(pair, AlwaysSmall(), ahead=turns)

    @mock.patch.dict(os.environ, STEER_DECODE_GPU=layers)  # read when an engine is opened
    def answer(tokens: int) -> list[list[int]]:
        cohort = Cohort(
            router.routing,
            [Transcript(ids) for ids in prompts],
            tokens,
            Sampling(),
            range(len(prompts)),
        )
        for _ in cohort:
            pass
        return [list(output.token_ids) for output in cohort.outputs]

    return answer


def generate(pair: Pair, prompts: list[list[int]]) -> Answer:
    """The same by transformers."""
    ids = torch.tensor(prompts, device=pair.small.device)

    def answer(tokens: int) -> list[list[int]]:
        out = pair.small.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
        )
        return out[:, ids.shape[1] :].tolist()

    return answer


def timed(answer: Answer, short: int, long: int, device: str) -> dict[str, Any]:
    """Milliseconds a token over a short answer, and between its end and that of a long one."""
    answer(short)  # compiles
    times, written = {}, {}
    for tokens in (short, long):
        seconds = []
        for _ in range(2):
            synchronise(device)
            begin = time.perf_counter()
            written[tokens] = answer(tokens)
            synchronise(device)
            seconds.append(time.perf_counter() - begin)
        times[tokens] = min(seconds)
    if any(len(ids) != long for ids in written[long]):
        raise RuntimeError(f"answers of {long} tokens were asked for: {written[long]}")
    rows = len(written[long])
    between = (times[long] - times[short]) / (long - short)
    known = between > 0  # else other work on the machine has taken longer than the tokens
    return {
        "ms_per_token_with_start": 1e3 * times[short] / short,
        "ms_per_token": 1e3 * between if known else None,
        "tokens_per_second": rows / between if known else None,
        "short": short,
        "long": long,
        "first_tokens": written[short][0][:16],
    }


def profile(answer: Answer, tokens: int, device: str) -> str:
    """torch.profiler's table of one short answer, what took longest on the device first."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        answer(tokens)
        synchronise(device)
    by = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=by, row_limit=30, max_name_column_width=70)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def save(out: Path, found: dict[str, Any], table: str) -> None:
    write_json(out, found)
    lines = [
        f"# {found.get('card', 'Rehearsal on a CPU: no figure here is of a GPU')}\n",
        f"{found['date']}. Random weights, {found['dtype']}, {found['weight_bytes'] / 1e9:.2f} GB; "
        f"a prompt of {found['prompt']} tokens, greedy.\n",
        "| rows | | ms a token, start included | ms a token after | tokens a second |",
        "|---:|---|---:|---:|---:|",
        *(
            f"| {r['rows']} | {r['contender']} | {r['ms_per_token_with_start']:.2f} "
            f"| {_number(r['ms_per_token'], 2)} | {_number(r['tokens_per_second'], 0)} |"
            for r in found["rows"]
        ),
        "",
        *(f"**{name} failed: {error}**\n" for name, error in found["errors"].items()),
    ]
    if table:
        lines += [f"One answer with turns = {TURNS[0]}, by torch.profiler:\n", "```", table, "```"]
    write_whole(out.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
