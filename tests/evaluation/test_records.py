"""Records of answers: what both models make of every token, and how it stands in a file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from steer_decode import AlwaysLarge, BothSides, Pair, RandomShare, Router
from steer_decode.core.sampling import Sampling
from steer_decode.demo import pair_paths
from steer_decode.evaluation.records.file import read_records
from steer_decode.evaluation.records.made import check_pair
from steer_decode.evaluation.records.record import TokenView
from steer_decode.evaluation.records.replayed import replay_records
from steer_decode.evaluation.records.tables import markdown
from steer_decode.evaluation.records.views import view, views
from support.commands import steer
from support.recorded import evaluation as made_evaluation
from support.recorded import recorded, run, saved
from support.tiny import make_pair, prompt_text

FIELDS = ("logprob", "top_logprobs", "max_logit", "entropy")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair("llama", 0)


def from_scratch(pair: Pair, writer: str, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """Logits [T, V] that each token of an answer follows from, by one plain forward pass."""
    with torch.no_grad():
        logits = pair.model(writer)(torch.tensor([prompt + ids])).logits[0]  # type: ignore[arg-type]
    return logits[len(prompt) - 1 : -1, : pair.vocab_size].double()


def check(found: TokenView, logits: torch.Tensor, ids: list[int]) -> None:
    logs = logits.log_softmax(-1)
    top = logs.topk(8, dim=-1)
    expected = {
        "logprob": logs[range(len(ids)), ids],
        "top_logprobs": top.values,
        "max_logit": logits.amax(-1),
        "entropy": -(logs.exp() * logs).sum(-1),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value.numpy(), abs=1e-4), name
    assert found.top_ids.tolist() == top.indices.tolist()
    assert found.lse == pytest.approx(logits.logsumexp(-1).numpy(), abs=1e-4)
    probs = top.values.exp()
    assert found.margin == pytest.approx((probs[:, 0] - probs[:, 1]).numpy(), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral", "gpt_neox"])
@pytest.mark.parametrize("part", [4, 256])
@pytest.mark.few(3)
def test_both_models_are_asked_about_every_token(
    family: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows and positions among it, whoever wrote the text, and however it is read in parts."""
    monkeypatch.setattr("steer_decode.evaluation.records.views.PART", part)
    pair = make_pair(family, 3)
    out = Router(pair, RandomShare(0.5)).generate(prompt_text(1, 9), max_new_tokens=30)
    prompt, ids = out.trace.prompt_ids, out.token_ids
    for writer, found in views(pair, prompt, ids, Sampling()).items():
        check(found, from_scratch(pair, writer, prompt, ids), ids)
        assert found.drawn is None


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.7), Sampling(1.0, top_k=3), Sampling(1.3, top_p=0.6), Sampling(0.9, min_p=0.2)],
)
def test_what_tokens_were_drawn_from_is_kept(pair: Pair, sampling: Sampling) -> None:
    options = {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    router = Router(pair, AlwaysLarge())
    out = router.generate(prompt_text(2, 9), max_new_tokens=30, seed=3, **options)
    prompt, ids = out.trace.prompt_ids, out.token_ids
    for writer in ("small", "large"):
        found = view(pair, writer, prompt, ids, sampling)  # type: ignore[arg-type]
        assert found.drawn is not None
        logits = from_scratch(pair, writer, prompt, ids) / sampling.temperature
        for at, (row, token) in enumerate(zip(logits, ids, strict=True)):
            assert found.drawn[at] == pytest.approx(by_hand(row, token, sampling), abs=1e-4)
    assert np.isfinite(found.drawn).all(), "the large model drew every one of these tokens"


def by_hand(row: torch.Tensor, token: int, sampling: Sampling) -> float:
    """Log-probability of a token behind cuts, in the order of transformers."""
    probs = row.softmax(-1)
    ranked = probs.argsort(descending=True).tolist()
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    if sampling.top_p < 1:
        kept, total = [], 0.0
        for i in ranked:
            if total >= sampling.top_p:
                break
            kept.append(i)
            total += float(probs[i])
        ranked = kept
    ranked = [i for i in ranked if probs[i] >= sampling.min_p * probs.max()]
    if token not in ranked:
        return -np.inf
    return float((probs[token] / probs[ranked].sum()).log())


def test_plain_sampling_needs_nothing_more(pair: Pair) -> None:
    ids = [5, 6, 7]
    assert view(pair, "small", [2, 3], ids, Sampling(1.0)).drawn is None


@pytest.mark.slow
def test_a_record_says_who_wrote_which_token(pair: Pair) -> None:
    made = made_evaluation(pair, {"mended": BothSides(sure=1.0)}, options={"max_new_tokens": 40})
    rows = run(made)
    letters = set()
    for row in rows:
        record = row.record
        assert record is not None
        assert record.text == row.text
        assert len(record) == row.tokens == sum(record.steps)
        assert record.writers.count("L") == row.large_tokens
        assert record.steps == [step.tokens for step in row.kept]
        assert record.closed or row.stop_reason == "max_new_tokens"
        assert (record.alone, record.spec) == (None, str(made.routers["mended"]))
        letters |= set(record.writers)
    assert letters == {"S", "L"}
    assert all("record" not in row.to_dict() for row in rows)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_k": 4}])
def test_a_file_gives_back_what_was_written(
    pair: Pair, tmp_path: Path, options: dict[str, float]
) -> None:
    records = recorded(pair, options=options)
    path = saved(tmp_path / "r.jsonl.gz", records)
    back = read_records([path])
    assert back.header == records.header
    for was, now in zip(records.answers, back.answers, strict=True):
        assert now.key == was.key
        assert (now.text, now.writers, list(now.steps)) == (was.text, was.writers, list(was.steps))
        assert (now.ids == was.ids).all()
        for writer, seen in was.views.items():
            other = now.views[writer]
            assert (other.top_ids == seen.top_ids).all()
            for name in (*FIELDS, *(["drawn"] if options else [])):
                assert getattr(other, name) == pytest.approx(getattr(seen, name), abs=6e-5), name
            assert (other.drawn is None) == (not options)
    # Other tools read it without us.
    unpacked = gzip.decompress(path.read_bytes())
    lines = [json.loads(line) for line in unpacked.splitlines()]
    assert lines[0]["kind"] == "steer-records"
    assert len(lines) == 1 + len(records.answers)
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(unpacked)
    assert [a.key for a in read_records([plain]).answers] == [a.key for a in back.answers]


def test_the_demo_s_records_are_of_the_demo() -> None:
    """The file that is shipped beside the package, and the replay of it that the pages cite."""
    folder = Path(__file__).parents[2] / "benchmarks" / "results" / "demo-records"
    records = read_records([folder])
    check_pair(records, Pair.from_pretrained(*pair_paths()), str(folder))
    assert len(records.by("small")) == len(records.by("large")) == 60
    assert markdown(replay_records(records)) == (folder / "records.replay.md").read_text()
    size = (folder / "records.jsonl.gz").stat().st_size
    assert size < 110 * sum(map(len, records.answers))


ARGS = ("eval", "--domains", "math", "--n", 3, "--routers", "small,large", "--cohort", 1)


@pytest.mark.slow
def test_the_command_records_and_goes_on(tmp_path: Path) -> None:
    """A run that was cut off in the middle of a record ends with the file of a whole one."""
    whole, path = tmp_path / "whole.gz", tmp_path / "r.gz"
    first = steer(*ARGS, "--out", tmp_path / "a", "--record", whole)
    assert first.exit_code == 0, first.output
    assert "6 records are in" in first.stderr
    data = whole.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    results = tmp_path / "b"
    assert steer(*ARGS, "--out", results).exit_code == 0
    again = steer(*ARGS, "--out", results, "--record", path)
    assert "answers in" in again.stderr
    assert "have no record and are written again" in again.stderr
    assert path.read_bytes() == data
    assert len((results / "results.jsonl").read_text().splitlines()) == 6
    third = steer(*ARGS, "--out", results, "--record", path)
    assert "written again" not in third.stderr
    assert path.read_bytes() == data


@pytest.mark.slow
def test_workers_hand_records_over(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    for folder, workers in ((one, 1), (two, 2)):
        made = steer(*ARGS, "--out", folder / "r", "--record", folder, "--workers", workers)
        assert made.exit_code == 0, made.output
    by_key = [
        {a.key: a for a in read_records([folder]).answers} for folder in (one, two)
    ]  # a folder stands for the file in it
    assert by_key[0].keys() == by_key[1].keys()
    for key, answer in by_key[0].items():
        assert answer.text == by_key[1][key].text
