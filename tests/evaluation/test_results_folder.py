"""The folder of an evaluation survives interruptions, and refuses what does not belong to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from steer_decode import SteerError
from steer_decode.evaluation.results import ResultsFolder, digest
from steer_decode.evaluation.rows import Asked, ResultRow
from support.made_results import row

SETTINGS = {"pair": "x", "top_k": 0, "routers": {"small": "small"}}


def test_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path, SETTINGS)
    rows = [row("small", "math", i) for i in range(3)]
    for each in rows:
        folder.add(each)
    folder.close()
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    again = ResultsFolder(tmp_path, SETTINGS)
    assert list(again.rows.values()) == rows[:2]
    again.add(rows[2])
    again.close()
    lines = path.read_text().splitlines()
    assert [ResultRow.from_dict(json.loads(line)) for line in lines] == rows
    assert '"right": false' in lines[0]


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    ResultsFolder(tmp_path, SETTINGS).close()
    with pytest.raises(SteerError, match="top_k was 0, now 1"):
        ResultsFolder(tmp_path, {**SETTINGS, "top_k": 1})
    with pytest.raises(SteerError, match="router 'small'"):
        ResultsFolder(tmp_path, {**SETTINGS, "routers": {"small": "smaller"}})


def test_other_workers_go_on_and_both_numbers_are_kept(tmp_path: Path) -> None:
    def kept(workers: int) -> object:
        ResultsFolder(tmp_path, {**SETTINGS, "workers": workers}).close()
        return json.loads((tmp_path / "settings.json").read_text())["workers"]

    assert [kept(n) for n in (2, 2, 1, 4, 2)] == [2, 2, [1, 2], [1, 2, 4], [1, 2, 4]]
    assert digest({**SETTINGS, "workers": 2}) == digest({**SETTINGS, "workers": 1})


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    first = ResultsFolder(tmp_path, SETTINGS)
    first.add(row("small", "math", 0))
    with pytest.raises(
        SteerError, match=r"another `steer eval` is writing to .*: wait for its end"
    ):
        ResultsFolder(tmp_path, SETTINGS)
    first.close()
    with pytest.raises(SteerError, match="top_k"):
        ResultsFolder(tmp_path, {**SETTINGS, "top_k": 1})
    again = ResultsFolder(tmp_path, SETTINGS)  # a refusal keeps nobody out
    assert len(again.rows) == 1
    again.close()


def test_routers_may_be_added(tmp_path: Path) -> None:
    ResultsFolder(tmp_path, SETTINGS).close()
    ResultsFolder(tmp_path, {**SETTINGS, "routers": {"large": "large"}}).close()
    ResultsFolder(tmp_path, SETTINGS).close()
    kept = json.loads((tmp_path / "settings.json").read_text())
    assert kept["routers"] == {"small": "small", "large": "large"}


def test_results_of_an_older_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(SteerError, match=r"format 1, .* format 2: .* another --out"):
        ResultsFolder(tmp_path, SETTINGS)


def test_problems_may_be_added_but_not_changed(tmp_path: Path) -> None:
    first, second = (Asked("mine", name, "How many?", "3") for name in "ab")
    ResultsFolder(tmp_path, SETTINGS, [first]).close()
    ResultsFolder(tmp_path, SETTINGS, [second]).close()
    kept = [json.loads(line) for line in (tmp_path / "problems.jsonl").open()]
    assert [record["problem"] for record in kept] == ["a", "b"]
    with pytest.raises(
        SteerError, match=r"another problem mine:a \(its prompt was .*many.*now .*much"
    ):
        ResultsFolder(tmp_path, SETTINGS, [Asked("mine", "a", "How much?", "3")])


@pytest.mark.parametrize("name", ["settings.json", "results.jsonl", "problems.jsonl"])
def test_foreign_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"a": 1}\n')
    with pytest.raises(SteerError, match="another --out"):
        ResultsFolder(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    "change",
    [
        {"correct": "yes"},
        {"flops_paper": "x"},
        {"flops_paper": -1},
        {"seed": "a"},
        {"problem": 5},
        {"difficulty": "hard"},
        {"trace": [{"writer": "medium", "text": "a", "tokens": 1}]},
        {"trace": [{"writer": "small", "text": 5, "tokens": 1}]},
        {"trace": [{"writer": "small", "text": "a", "tokens": 1, "score": "x"}]},
    ],
    ids=str,
)
def test_a_row_that_no_report_could_reckon_with_is_refused(tmp_path: Path, change: dict) -> None:
    good = row("small", "math", 0).to_dict()
    path = tmp_path / "results.jsonl"
    ResultsFolder(tmp_path, SETTINGS).close()
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}) + "\n")
    with pytest.raises(SteerError, match=r"line 2 of .* is not a result: remove it, or run"):
        ResultsFolder(tmp_path, SETTINGS)
    path.write_text(json.dumps(good) + "\n")
    assert len(ResultsFolder(tmp_path, SETTINGS).rows) == 1


def test_a_full_disk_is_named_and_what_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ResultsFolder(tmp_path, SETTINGS)
    folder.add(row("small", "math", 0))
    with monkeypatch.context() as patch, Path("/dev/full").open("w") as full:
        patch.setattr(folder, "_file", full)
        with pytest.raises(SteerError, match=r"No space left .*; 1 answers are kept, and"):
            folder.add(row("small", "math", 1))
        folder.close()
    folder.close()
    assert len(ResultsFolder(tmp_path, SETTINGS).rows) == 1


def test_routers_do_not_change_the_name_of_the_settings() -> None:
    assert digest(SETTINGS) == digest({**SETTINGS, "routers": {}})
    assert digest(SETTINGS) != digest({**SETTINGS, "top_k": 1})


@pytest.mark.parametrize("name", ["settings.json", "problems.jsonl"])
def test_answers_without_what_they_were_made_with_are_not_continued(
    tmp_path: Path, name: str
) -> None:
    folder = ResultsFolder(tmp_path, SETTINGS)
    folder.add(row("small", "math", 0))
    folder.close()
    before = (tmp_path / "results.jsonl").read_bytes()
    (tmp_path / name).unlink()
    with pytest.raises(SteerError, match=rf"holds 1 answers, but its {name} is gone.*put it back"):
        ResultsFolder(tmp_path, {**SETTINGS, "top_k": 1})
    assert not (tmp_path / name).exists()
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_an_answer_or_a_problem_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path, SETTINGS, [Asked("math", "0", "How many?", "3")])
    folder.add(row("small", "math", 0))
    folder.close()
    for name in ("results.jsonl", "problems.jsonl"):
        path = tmp_path / name
        once = path.read_text()
        path.write_text(once * 2)
        with pytest.raises(SteerError, match=rf"line 2 of .*{name}' is a second one of .*line 1"):
            ResultsFolder(tmp_path, SETTINGS)
        path.write_text(once)
    ResultsFolder(tmp_path, SETTINGS).close()


def test_answers_of_a_router_that_the_settings_do_not_know_are_refused(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path, SETTINGS)
    folder.add(row("steer", "math", 0))
    folder.close()
    with pytest.raises(SteerError, match=r"answers of router 'steer', of which the settings"):
        ResultsFolder(tmp_path, SETTINGS)
