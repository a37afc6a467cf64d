"""Whatever stands in a file of ours: it is read right, or one sentence names the file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from rich.console import Console
from steer_decode import Calibration, FirstTokenEntropy, Router, SteerError
from steer_decode.cli.view.answer import page, svg
from steer_decode.core.saved import document, load
from steer_decode.core.transcript import WRITERS
from steer_decode.evaluation.replay.cascades import load as load_replay
from steer_decode.evaluation.report import load as load_results
from steer_decode.evaluation.report.bootstrap import Bootstrap
from steer_decode.evaluation.report.drafts import measure_drafts
from steer_decode.evaluation.report.series import by_place, lengths
from steer_decode.evaluation.results import ResultsFolder
from steer_decode.evaluation.summary import markdown, summarise
from steer_decode.fitting.kept import kept_answers
from steer_decode.policies import BothSides, EcoTab, Learned, QueryCascade, Replay
from steer_decode.policies.features import FEATURES
from steer_decode.policies.fitted.both_sides import COST_NAMES, BothSidesCalibration
from steer_decode.policies.fitted.file import SHIPPED
from steer_decode.policies.fitted.network import RouterNetwork, TrainedNetwork
from steer_decode.util.partial import Partial
from support import made_results
from support.forged import HUGE, forged
from support.saved_answers import a_trace, made_answer
from support.side_door import PAIR
from support.tiny import prompt_ids

DEMO = SHIPPED.parent


def calibration(path: Path) -> None:
    made = Calibration.load(path)
    for writer in WRITERS:
        for score in (-1e6, 0.0, 17.5, 1e6):
            found = made.posterior(writer, 2, score)
            assert found is None or 0 <= found <= 1


def sides(path: Path) -> None:
    made = BothSidesCalibration.load(path)
    for cost in COST_NAMES:
        assert math.isfinite(made.plans[cost].thresholds(0.3).sure)


def promise(path: Path) -> None:
    assert 0 <= BothSides(loss=0.01, path=path).drafting.least <= 1  # type: ignore[union-attr]


def ecotab(path: Path) -> None:
    maps = EcoTab(path=path).parameters.maps
    assert all(0 <= maps[name](x) <= 1 for name in ("table", "text") for x in (0.0, 9.0))


def corea(path: Path) -> None:
    made = QueryCascade(path=path)
    assert made.parameters is not None
    assert 0 <= made.parameters.maps["answer"](0.5) <= 1


def trace(path: Path) -> None:
    answer, alone = load(path)
    svg(answer, alone)
    for part in page(answer, alone):
        Console(file=open("/dev/null", "w")).print(part)  # noqa: SIM115
    json.loads(document(answer, alone))


def replay(path: Path) -> None:
    made = Replay(path=path)
    assert "path=" in str(made)


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Path], None]]] = {
    "calibration": (lambda: json.loads((DEMO / "calibration.json").read_text()), calibration),
    "sides": (lambda: json.loads((SHIPPED / "both-sides.json").read_text()), sides),
    "promise": (lambda: json.loads((SHIPPED / "both-sides-promise.json").read_text()), promise),
    "ecotab": (lambda: json.loads((SHIPPED / "ecotab.json").read_text()), ecotab),
    "corea": (lambda: json.loads((SHIPPED / "corea.json").read_text()), corea),
    "trace": (a_trace, trace),
    "replay": (a_trace, replay),
}
FUZZ = settings(
    max_examples=int(os.environ.get("STEER_FUZZ", 60)),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read_or_named(read: Callable[[Path], None], path: Path) -> None:
    try:
        read(path)
    except SteerError as error:
        assert str(path) in str(error) or path.parent.name in str(error), error  # noqa: PT017


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.few(3)
def test_a_forged_document_is_read_right_or_named(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    good = make()
    path = tmp_path / "forged.json"
    path.write_text(json.dumps(good))
    read(path)  # what it is made from is right

    @FUZZ
    @given(forged(good))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        read_or_named(read, path)

    check()


def a_folder(folder: Path) -> Path:
    rows = [
        made_results.row(router, "math", i, scores_seed)
        for router in ("small", "large", "steer")
        for i in range(2)
        for scores_seed in (0, 1)
    ]
    drafted = replace(rows[0].trace[0], drafts=((4, 3), (2, 2)))
    rows[0] = replace(rows[0], trace=[drafted], large_passes=3)
    names = ("small", "large", "steer")
    return made_results.write(folder, rows, made_results.settings(names, cohort=1))


def results(folder: Path) -> None:
    found = load_results([folder])
    assert found.tables["flops_paper"].shape == (len(found.names), len(found.routers))
    rows = [row for rows in found.rows.values() for row in rows]
    markdown(summarise(rows))
    boot = Bootstrap([domain for domain, _ in found.names], 10)
    for router in measure_drafts(found, boot, None):
        by_place(found, boot, router)
        lengths(found, boot, router)
    try:
        load_replay(folder)
    except SteerError as error:
        assert folder.name in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", ["settings.json", "results.jsonl", "problems.jsonl"])
@pytest.mark.few(1)
def test_a_forged_folder_of_results_is_read_right_or_named(name: str, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "results-here")
    results(folder)
    path = folder / name
    before = path.read_bytes()
    first, _, rest = before.partition(b"\n") if name != "settings.json" else (before, b"", b"")
    good = json.loads(first)
    given_settings = made_results.settings(("small", "large", "steer"), cohort=1)

    def resume(_: Path) -> None:
        ResultsFolder(folder, given_settings).close()

    @FUZZ
    @given(forged(good))
    def check(data: bytes) -> None:
        path.write_bytes(data + b"\n" + rest)
        read_or_named(lambda _: results(folder), path)
        read_or_named(resume, path)

    check()


def kept_in(folder: Path) -> tuple[Partial, Path]:
    kept = Partial(folder / "forged.json", {"n": 2})
    assert kept.path is not None
    return kept, kept.path


@pytest.mark.parametrize("line", [0, 1])
def test_a_forged_file_of_what_is_kept_is_read_right_or_named(line: int, tmp_path: Path) -> None:
    first, path = kept_in(tmp_path)
    output = Router(PAIR, FirstTokenEntropy(0.5)).generate("w1 w2 w3", max_new_tokens=9, chat=False)
    assert list(kept_answers(first, lambda: [output])) == [output]
    first.close()
    before = path.read_bytes().splitlines()

    def read(_: Path) -> None:
        kept, _ = kept_in(tmp_path)
        try:
            list(kept_answers(kept, lambda: [output]))
        finally:
            kept.close()

    read(path)  # what it is made from is right

    @FUZZ
    @given(forged(json.loads(before[line])))
    def check(data: bytes) -> None:
        path.write_bytes(
            b"".join(part + b"\n" for part in [*before[:line], data, *before[line + 1 :]])
        )
        read_or_named(read, path)

    check()


@pytest.mark.parametrize("value", [HUGE, "x", True, -1, None, [1], 0], ids=lambda v: str(v)[:9])
def test_a_cohort_that_is_no_size_is_named(tmp_path: Path, value: object) -> None:
    folder = a_folder(tmp_path)
    path = folder / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cohort": value}))
    with pytest.raises(SteerError, match=r"settings.json' is not the settings .*cohort: must be a"):
        load_replay(folder)


def test_a_cost_of_four_hundred_digits_is_named(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    path = folder / "results.jsonl"
    first, *rest = path.read_text().splitlines()
    forged_row = {**json.loads(first), "flops_paper": HUGE}
    path.write_text("\n".join([*rest, json.dumps(forged_row)]) + "\n")
    with pytest.raises(SteerError, match=r"line 12 of .*results.jsonl' .*flops_paper: must be"):
        load_results([folder])


LEARNED = {
    "nan": lambda t: t["body.weight"].fill_(math.nan),
    "shape": lambda t: t.update({"head.weight": torch.zeros(3, 3)}),
    "missing": lambda t: t.pop("mean"),
    "more": lambda t: t.update({"extra": torch.zeros(1)}),
    "whole numbers": lambda t: t.update({"mean": torch.zeros(len(FEATURES), dtype=torch.int64)}),
    "table of thresholds": lambda t: t.update({"thresholds": torch.zeros(2, 2)}),
    "scale of zero": lambda t: t["scale"].zero_(),
    "cut": lambda t: t["cut"].fill_(7.0),
}


@pytest.mark.parametrize("what", LEARNED)
def test_a_forged_network_is_named(tmp_path: Path, what: str) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "r.safetensors"
    TrainedNetwork("roro", PAIR.fingerprint, RouterNetwork(list(FEATURES))).save(path)
    Learned(path)
    tensors = load_file(path)
    LEARNED[what](tensors)
    metadata = {
        "version": "1",
        "kind": "roro",
        "pair": PAIR.fingerprint,
        "features": json.dumps(list(FEATURES)),
    }
    save_file(tensors, path, {**metadata, "settings": "{}"})
    with pytest.raises(SteerError, match=r"r.safetensors' is not a learned router"):
        Learned(path)


NO_FILES = ["/dev/zero", "/dev/full", "/", "x" * 300, "a\0b", "\ud800", "d/" * 3000]


@pytest.mark.parametrize("name", NO_FILES, ids=lambda name: repr(name)[:12])
@pytest.mark.parametrize(
    "read",
    [
        Calibration.load,
        BothSidesCalibration.load,
        TrainedNetwork.load,
        ecotab,
        corea,
        trace,
        replay,
    ],
)
def test_what_is_no_file_is_named_at_once(read: Callable[[Any], Any], name: str) -> None:
    with pytest.raises(SteerError, match="cannot read"):
        read(Path(name))


def test_files_of_ours_come_back_as_they_were(tmp_path: Path) -> None:
    """Text with whatever characters: written as escapes that print, and the same when read."""
    answer = made_answer(FirstTokenEntropy(0.5))
    odd = "\x1b]0;t\x07 \x9b31m \u202e \u2028 漢字 é \x00"
    answer.output.trace.steps[0].text += odd
    path = tmp_path / "t.json"
    path.write_text(document(answer), encoding="utf-8")
    assert all(c.isprintable() or c == "\n" for c in path.read_text(encoding="utf-8"))
    assert "漢字 é" in path.read_text(encoding="utf-8")
    assert load(path)[0].output.trace.steps[0].text.endswith(odd)
    assert prompt_ids(0, 3)  # the pair's words are those of the tiny tokenizer
