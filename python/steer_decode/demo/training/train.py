"""Train the demo pair: `python -m steer_decode.demo.training.train --help`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from ..problems.solve import solved
from ..problems.tasks import DOMAINS, problems
from . import tokenizer as demo_tokenizer
from .batches import CELLS, IGNORED, Chunk, make_batch
from .export import save_model
from .initial import initial_embeddings
from .recipes import RECIPES, Recipe, model_config

_ERROR_MEMORY = 0.98  # of the running error, by step in which a cell occurs
_ERROR_FLOOR = 0.08  # weight of a cell that the model has mastered
_EASY_FIRST = 0.2  # share of the run over which hard problems reach their weight
_SAMPLE = 40  # calibration problems a domain in a progress check


class Trainer:
    """The state of one run.

    Model, optimiser, step, and the running error by cell. One optimiser step splits its batch into
    chunks and works on `threads` of them at a time, each on one core; for matrices this small that
    beats threads inside each operator. The gradients are added in the order of the chunks, so the
    number of threads changes nothing.
    """

    def __init__(self, recipe: Recipe, seed: int, threads: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.recipe, self.seed = recipe, seed
        self.model = LlamaForCausalLM(model_config(recipe))
        with torch.no_grad():
            embeddings = initial_embeddings(recipe.width, recipe.initial_std)
            self.model.get_input_embeddings().weight.copy_(embeddings)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.step = 0
        self.error = torch.ones(len(CELLS))
        self.encode = demo_tokenizer.Encoder()
        self.pool = ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1))

    def learning_rate(self) -> float:
        """Learning rate: linear warm-up, then a cosine.

        It goes down to `final_rate` of the peak.
        """
        r = self.recipe
        if self.step < r.warm_up:
            return r.learning_rate * (self.step + 1) / r.warm_up
        progress = (self.step - r.warm_up) / max(1, r.steps - r.warm_up)
        return r.learning_rate * (
            r.final_rate + (1 - r.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))
        )

    def weights(self) -> list[float]:
        """The frequency of each cell.

        The recipe's, or what the model still gets wrong.
        """
        fixed = self.recipe.weights
        if fixed is None:
            # Easy problems first: difficulty 5 rises from a fifth of its weight to all of it.
            missing = max(0.0, 1 - self.step / (_EASY_FIRST * self.recipe.steps))
            ease = torch.tensor([1 - missing * 0.2 * (level - 1) for _, level in CELLS])
            return ((self.error + _ERROR_FLOOR) * ease).tolist()
        return [fixed[domain][difficulty - 1] for domain, difficulty in CELLS]

    def _work(self, chunk: Chunk) -> tuple[float, tuple[torch.Tensor, ...], torch.Tensor]:
        """Summed loss, its gradients, and (2, cells) counts: decisions, wrong decisions."""
        logits = self.model(input_ids=chunk.ids, use_cache=False).logits
        loss = functional.cross_entropy(
            logits.flatten(0, 1), chunk.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        gradients = torch.autograd.grad(loss, self.parameters)
        wrong = (logits.detach().argmax(-1) != chunk.labels) & chunk.decisions
        counts = torch.zeros(2, len(CELLS))
        counts[0].index_add_(0, chunk.cells, chunk.decisions.sum(1).float())
        counts[1].index_add_(0, chunk.cells, wrong.sum(1).float())
        return float(loss.detach()), gradients, counts

    def train_step(self) -> float:
        """One optimiser step; the mean loss per solution token."""
        r = self.recipe
        first, last = r.short_share
        short = first + (last - first) * min(1.0, 2 * self.step / r.steps)
        seed = f"{self.seed}/{r.name}/{self.step}"
        chunks = make_batch(self.encode, seed, self.weights(), short, r.batch, r.chunk)
        tokens = sum(int((chunk.labels != IGNORED).sum()) for chunk in chunks)
        results = list(self.pool.map(self._work, chunks))
        for i, parameter in enumerate(self.parameters):
            total = results[0][1][i]
            for _, gradients, _ in results[1:]:
                total = total + gradients[i]
            parameter.grad = total / tokens
        torch.nn.utils.clip_grad_norm_(self.parameters, r.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.step += 1
        counts = torch.stack([counts for _, _, counts in results]).sum(0)
        seen = counts[0] > 0
        rate = counts[1] / counts[0].clamp(min=1)
        self.error[seen] = _ERROR_MEMORY * self.error[seen] + (1 - _ERROR_MEMORY) * rate[seen]
        return sum(loss for loss, _, _ in results) / tokens

    def save(self, path: Path) -> None:
        """Write the whole state.

        It goes through a temporary file, so that `path` is always complete.
        """
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "seed": self.seed,
            "step": self.step,
            "error": self.error,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".tmp")
        torch.save(state, scratch)
        os.replace(scratch, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        ValueError where it is of another seed or another shape.
        """
        state = torch.load(path, weights_only=True)
        shape = ("layers", "width", "heads", "inner")
        mine = dataclasses.asdict(self.recipe)
        if state["seed"] != self.seed or any(state["recipe"][k] != mine[k] for k in shape):
            raise ValueError(
                f"{path} is a checkpoint of another seed or model shape; "
                "give another --out, or --fresh to start again."
            )
        self.step, self.error = state["step"], state["error"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def _decision_accuracy(trainer: Trainer) -> str:
    parts = []
    for domain in DOMAINS:
        rows = [1 - float(e) for e, c in zip(trainer.error, CELLS, strict=True) if c[0] == domain]
        parts.append(f"{domain} " + " ".join(f"{row:.2f}" for row in rows))
    return "; ".join(parts)


def _sample_accuracy(trainer: Trainer) -> str:
    tokenizer = demo_tokenizer.build()
    parts = []
    trainer.model.eval()
    for domain in DOMAINS:
        sample = problems(domain, _SAMPLE, "calibration")
        right = solved(trainer.model, tokenizer, sample)
        parts.append(f"{domain} {sum(right) / len(right):.2f}")
    trainer.model.train()
    return ", ".join(parts)


def train(recipe: Recipe, out: Path, seed: int, threads: int, fresh: bool, save_every: int) -> None:
    """Train one model and write it to `out`/<name>.

    Prints progress as it goes.
    """
    checkpoint = out / f"{recipe.name}.checkpoint.pt"
    trainer = Trainer(recipe, seed, threads)
    if checkpoint.exists() and not fresh:
        trainer.load(checkpoint)
        print(f"{recipe.name}: going on from step {trainer.step} of {checkpoint}", flush=True)
    size = sum(parameter.numel() for parameter in trainer.parameters)
    print(f"{recipe.name}: {size:,} parameters, {recipe.steps} steps, seed {seed}", flush=True)
    began, first, mean = time.monotonic(), trainer.step, None
    while trainer.step < recipe.steps:
        loss = trainer.train_step()
        mean = loss if mean is None else 0.95 * mean + 0.05 * loss
        done = trainer.step == recipe.steps
        if trainer.step % 50 == 0 or done:
            pace = (time.monotonic() - began) / (trainer.step - first)
            print(
                f"{recipe.name} step {trainer.step}/{recipe.steps}  loss {mean:.4f}  "
                f"{pace:.3f} s/step  {pace * (recipe.steps - trainer.step) / 60:.1f} min left  "
                f"first tokens right by difficulty: {_decision_accuracy(trainer)}",
                flush=True,
            )
        if trainer.step % save_every == 0 or done:
            trainer.save(checkpoint)
            save_model(trainer.model, out / recipe.name)
            print(f"{recipe.name} calibration accuracy: {_sample_accuracy(trainer)}", flush=True)
    if trainer.step > first:
        minutes = (time.monotonic() - began) / 60
        print(f"{recipe.name}: {minutes:.1f} min; wrote {out / recipe.name}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m steer_decode.demo.training.train",
        description="Train the two models of the demo on two CPU cores, reproducibly.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m steer_decode.demo.training.train --model small --out runs/demo\n"
        "  python -m steer_decode.demo.training.train --model both --out runs/demo --seed 1\n"
        "A run that was cut off goes on from its last checkpoint when the command is repeated.",
    )
    parser.add_argument("--model", choices=("small", "large", "both"), default="both")
    parser.add_argument("--out", type=Path, default=Path("demo-weights"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="chunks worked on at a time")
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the recipe's")
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--fresh", action="store_true", help="ignore a checkpoint in --out")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    It returns 2 for an argument that cannot be, with one sentence on stderr.
    """
    args = _parser().parse_args(argv)
    for name in ("threads", "steps", "save_every"):
        value = getattr(args, name)
        if value is not None and value < 1:
            flag = "--" + name.replace("_", "-")
            print(f"{flag} {value} must be 1 or more.", file=sys.stderr)
            return 2
    names = ("small", "large") if args.model == "both" else (args.model,)
    for name in names:
        recipe = RECIPES[name]
        if args.steps is not None:
            recipe = dataclasses.replace(recipe, steps=args.steps)
        try:
            train(recipe, args.out, args.seed, args.threads, args.fresh, args.save_every)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"stopped; repeat the command to go on from the checkpoint in {args.out}.")
            return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
