"""``steer records``: look into records, or make them from logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SteerError
from ..util.files import check_writable
from . import options as opt
from . import say
from .models import Models, quiet

if TYPE_CHECKING:
    from ..core.transcript import Writer

records = typer.Typer(rich_markup_mode="markdown")


@records.callback(invoke_without_command=True)
def _records(ctx: typer.Context) -> None:
    """Look into a file of records, or make one from what a vLLM server has logged."""
    if ctx.invoked_subcommand is None:
        say.out(ctx.get_help())


@records.command()
def show(
    path: Annotated[Path, typer.Argument(help="Made by `steer eval --record FILE`.")],
    answers: Annotated[
        int, typer.Option("--answers", min=0, help="Answers that are shown as well.")
    ] = 0,
) -> None:
    """Say what a file of records holds.

    That is the pair, how it was asked, its answers and bytes a token.

    Examples:

    - `steer records show records.jsonl.gz --answers 3`
    """
    from ..evaluation.records.file import read_records
    from ..evaluation.records.tables import contents, one_answer

    found = read_records([path])
    say.out(contents(found, path.stat().st_size if path.is_file() else 0))
    for answer in found.answers[:answers]:
        say.out(one_answer(answer))


@records.command("from-vllm")
def from_vllm(
    wrote: Annotated[
        Path, typer.Option("--wrote", help="Responses of the model that wrote, a line each.")
    ],
    read: Annotated[
        Path,
        typer.Option("--read", help="Responses of the other one to prompt and answer, likewise."),
    ],
    writer: Annotated[str, typer.Option("--writer", help="small or large: who wrote.")],
    temperature: Annotated[
        float, typer.Option("--temperature", help="That the answers were drawn with; 0 is greedy.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the records go.")],
    pair: opt.PairOption = None,
    small: opt.SmallOption = None,
    large: opt.LargeOption = None,
    top_p: opt.TopPOption = 1.0,
    top_k: opt.TopKOption = 0,
    min_p: opt.MinPOption = 0.0,
) -> None:
    """Make records of two logs of vLLM's OpenAI-compatible server.

    One model writes answers with `logprobs`, the other one is given prompt and answer as token ids
    with `prompt_logprobs`. Only the tokenizers of --small and --large are loaded. What vLLM does
    not give, entropy and logits, is absent from the records. How to ask the server is in
    docs/records.md.

    Examples:

    - `steer records from-vllm --small ID --large ID --wrote large.jsonl --read small.jsonl
      --writer large --temperature 0 --out records.jsonl.gz`
    """
    if writer not in ("small", "large"):
        raise SteerError(f"--writer must be small or large, got {writer!r}")
    if out.exists() and not out.is_dir():
        raise SteerError(f"--out {str(out)!r} is there already: choose another, or remove it")
    models = Models(pair, small, large, None, None)
    check_writable(out)
    from ..core.sampling import Sampling
    from ..evaluation.records.file import write_records
    from ..evaluation.records.vllm import Logged, import_vllm
    from ..models.loading import load_tokenizer
    from ..models.vocabulary import check_same_vocabulary

    sampling = Sampling(temperature, top_p, top_k, min_p)
    quiet()
    of_small, of_large, more = models.sources()
    tokenizers = [load_tokenizer("small", of_small, more), load_tokenizer("large", of_large, more)]
    check_same_vocabulary(*tokenizers)
    who: Writer = "small" if writer == "small" else "large"
    made = import_vllm(Logged(wrote, read, who, sampling, models.names()), tokenizers[0])
    write_records(out, made)
    say.note(f"{len(made.answers)} records are in {out}: steer eval --replay {out}")
