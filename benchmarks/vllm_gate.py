"""What a call of the gate inside vLLM costs: microseconds at 16 rows, least of many calls.

    PYTHONPATH=tests python benchmarks/vllm_gate.py [--threads 1] [--json FILE]

Sixteen requests write steps of twelve tokens, so that every twelfth call closes all of them. What
the pass over the logits takes of it is measured beside it, in the same calls: by turns. The rest is
Python (V1) or operations of a few numbers a row (V2). vLLM itself is not needed: the interface is
that of the tests, where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from steer_decode.core.gate_rule import GateRule, Region
from steer_decode.demo import pair_paths
from steer_decode.engines.vllm.gate_args import GateArgs
from support.tiny import make_tokenizer
from support.vllm_interfaces import config, gate_v1, gate_v2, parameters, v1, v2
from transformers import AutoTokenizer

from steer_kernels import logit_stats

RULES = {
    "after a step": GateRule(after=(Region.at_least(-1e9),)),
    "before a step": GateRule("entropy", before=Region.at_most(1e9)),
}
HANDOFF, STEP = 1, 12


def least(call: Callable[[], object], between: Callable[[], object], seconds: float) -> float:
    """Microseconds of the fastest call."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        between()
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return 1e6 * best


class Batch:
    """Requests that write, and rows of logits for them."""

    def __init__(self, rows: int, columns: int, closing: int, word: int) -> None:
        self.logits = torch.randn(rows, columns)
        self.work = self.logits.clone()
        self.outs: list[list[int]] = [[] for _ in range(rows)]
        self.closing, self.word = closing, word
        self.written = 0

    def advance(self) -> None:
        """A token in every row, and logits as the engine brings them."""
        self.written += 1
        token = self.word if self.written % STEP else self.closing
        for out in self.outs:
            out.append(token)
        self.work.copy_(self.logits)


def gated_v1(batch: Batch, folder: Path, rule: GateRule) -> Callable[[], object]:
    rows, columns = batch.logits.shape
    gate = gate_v1.GateV1(config(folder, columns, rows), torch.device("cpu"), False)
    added = [
        (i, parameters(GateArgs(f"r{i}", HANDOFF, rule).xargs, [HANDOFF]), [5], out)
        for i, out in enumerate(batch.outs)
    ]
    gate.update_state(v1.BatchUpdate(rows, [], added, []))
    return lambda: gate.apply(batch.work)


def gated_v2(batch: Batch, folder: Path, rule: GateRule) -> Callable[[], object]:
    rows, columns = batch.logits.shape
    lengths = torch.ones(rows, dtype=torch.int32)
    states = SimpleNamespace(
        device=torch.device("cpu"),
        max_num_reqs=rows,
        vocab_size=columns,
        prompt_len=SimpleNamespace(gpu=lengths),
        prefill_len=SimpleNamespace(gpu=lengths),
    )
    gate = gate_v2.GateV2(config(folder, columns, rows), states)
    for i in range(rows):
        gate.add_request(i, parameters(GateArgs(f"r{i}", HANDOFF, rule).xargs, [HANDOFF]))
    gate.apply_staged_writes()
    slots = torch.arange(rows, dtype=torch.int32)

    def apply() -> object:
        context = v2.LogitsContext(
            expanded_idx_mapping=slots,
            idx_mapping=slots,
            idx_mapping_np=np.arange(rows),
            expanded_local_pos=torch.zeros_like(slots),
            input_ids=torch.tensor([out[-1] if out else 5 for out in batch.outs]),
            pos=torch.full((rows,), len(batch.outs[0])),
            seq_lens_upper_bound_np=None,
        )
        return gate.apply(batch.work, context)

    return apply


def measured(rows: int, folder: Path, columns: int, closing: int, word: int) -> list[Any]:
    found = []
    for interface, make in (("V1", gated_v1), ("V2", gated_v2)):
        for name, rule in RULES.items():
            batch = Batch(rows, columns, closing, word)
            gate = make(batch, folder, rule)
            gate()
            whole = least(gate, batch.advance, 1.5)
            read = least(lambda batch=batch: logit_stats(batch.work, 2), batch.advance, 0.5)
            found.append((interface, name, columns, whole, read))
            print(
                f"| {interface} | {name} | {rows} | {columns:,} | {whole:,.0f} | {read:,.0f} |"
                f" {whole - read:,.0f} |",
                flush=True,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| interface | rule | rows | columns | us a call | of it logit_stats | rest |")
    print("|---|---|--:|--:|--:|--:|--:|")
    demo = pair_paths()[0]
    tokenizer = AutoTokenizer.from_pretrained(demo)
    texts = [tokenizer.decode([i]) for i in range(253)]
    closing, word = texts.index("\n\n"), next(i for i, t in enumerate(texts) if t.isalnum())
    found = measured(given.rows, demo, 253, closing, word)
    with tempfile.TemporaryDirectory() as folder:
        words = ["<unk>", "<eos>", "\n\n", *(f"w{i}" for i in range(151_933))]
        make_tokenizer(words).save_pretrained(folder)
        found += measured(given.rows, Path(folder), 151_936, 2, 3)
    if given.json:
        keys = ("interface", "rule", "columns", "us", "us_logit_stats")
        record = {
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": given.threads,
            "rows": given.rows,
            "calls": [dict(zip(keys, row, strict=True)) for row in found],
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
