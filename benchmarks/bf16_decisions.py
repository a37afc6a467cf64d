"""How often a routing decision in bfloat16 depends on how the text was read.

A cache that is filled token by token and hand-over by hand-over holds keys and values that differ
in the last bits from those of one pass over the whole text. In float32 no decision of the tests
depends on it; in bfloat16 some do. This runs the demo pair in bfloat16, then reads each step again
in one pass from scratch and asks the policy anew.

    python benchmarks/bf16_decisions.py --n 40
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch
from rich.progress import track
from steer_decode import FirstTokenEntropy, Pair, Policy, Router, Steer, Step, StepStart
from steer_decode.demo import pair_paths
from steer_decode.demo.problems.tasks import DOMAINS, problems
from steer_decode.policies import Verdict, Word
from transformers.utils import logging

from steer_kernels import LogitStats, logit_stats


def stats_from_scratch(pair: Pair, writer: str, ids: list[int], last: int) -> LogitStats:
    """Statistics of the logits behind the last ``last`` positions of ``ids``, from one pass."""
    model = pair.model(writer)  # type: ignore[arg-type]
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False, logits_to_keep=last).logits[0]
    return logit_stats(logits, vocab_size=pair.vocab_size)


def word(policy: Policy, step: Step) -> Word:
    """What the policy says after a step, without its reason."""
    return Verdict.of(policy.after_step(step)).what


def compare(pair: Pair, policy: Policy, prompt: str) -> tuple[int, int, int, int]:
    """(decisions, those that differ, tokens, those that differ) of one answer."""
    output = Router(pair, policy).generate(prompt, max_new_tokens=200)
    text = list(output.trace.prompt_ids)
    decisions = flips = tokens = changed = 0
    for step in output.trace.steps:
        if step.before is not None:
            stats = stats_from_scratch(pair, "small", text, 1)
            decisions += 1
            flips += policy.before_step(StepStart(step.index, "small", 0, stats)) != step.writer
        n = len(step.token_ids)
        stats = stats_from_scratch(pair, step.writer, text + step.token_ids[:-1], n)
        tokens += n
        changed += sum(
            a != b for a, b in zip(stats.topk_ids[:, 0].tolist(), step.token_ids, strict=True)
        )
        if step.before is None and step.closed:
            again: Any = dataclasses.replace(step, values=policy.signal.read(stats).tolist())
            decisions += 1
            flips += word(policy, again) != word(policy, step)
        if not step.discarded:
            text += step.token_ids
    return decisions, flips, tokens, changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=40, help="problems of each domain")
    n = parser.parse_args().n
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    pair = Pair.from_pretrained(*pair_paths(), dtype=torch.bfloat16)
    # Thresholds in the midst of the scores, where decisions are closest.
    policies = [Steer(threshold=15.5, large_threshold=20.0), FirstTokenEntropy()]
    asked = [problem for domain in DOMAINS for problem in problems(domain, n)]
    for policy in policies:
        counts = [
            compare(pair, policy, problem.prompt)
            for problem in track(asked, str(policy), transient=True)
        ]
        decisions, flips, tokens, changed = map(sum, zip(*counts, strict=True))
        print(
            f"{policy}: {flips} of {decisions} decisions ({flips / decisions:.2%}) and "
            f"{changed} of {tokens} greedy tokens ({changed / tokens:.2%}) differ"
        )


if __name__ == "__main__":
    main()
