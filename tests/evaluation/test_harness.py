"""A routed pair under lm-eval: a local task, in cohorts, with the harness' own grading."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval")

from steer_decode import SteerError
from steer_decode.cli import app
from steer_decode.demo import grade, problems
from typer.testing import CliRunner

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
metric_list:
  - metric: {metric}
"""
UNTIL = """generation_kwargs:
  until: ["<never>"]
  do_sample: false
  max_gen_toks: 128
filter_list:
  - name: answer
    filter:
      - function: regex
        regex_pattern: "answer (.*)"
      - function: take_first"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    rows = [
        {"question": p.prompt, "answer": p.solution.strip().split("answer ")[-1]}
        for p in problems("math", 6)
    ]
    file = tmp_path / "math.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, kind, more, metric in [
        ("mine", "generate_until", UNTIL, "exact_match"),
        ("blank", "generate_until", "", "exact_match"),
        ("likely", "loglikelihood", "", "acc"),
    ]:
        text = TASK.format(name=name, file=file, kind=kind, more=more, metric=metric)
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def run(folder: Path, *options: str) -> Any:
    given = ["lm-eval", "--include-path", str(folder), *options]
    return CliRunner().invoke(app, given)


def test_a_task_of_ones_own(folder: Path) -> None:
    out = folder / "found.json"
    options = ("--router", "first-token", "--cohort", "4", "--out", str(out))
    found = run(folder, "--tasks", "mine", *options)
    assert found.exit_code == 0, found.output
    document = json.loads(out.read_text())
    samples = document["samples"]["mine"]
    assert len(samples) == 6
    right = [
        grade(problem, sample["resps"][0][0])
        for problem, sample in zip(problems("math", 6), samples, strict=True)
    ]
    assert sum(s["exact_match"] for s in samples) == sum(right) > 0
    assert document["costs"]["answers"] == 6
    assert document["costs"]["tokens"]["large"] > 0
    assert "6 answers by first-token" in found.output


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("blank", "stops at a blank line"),
        ("likely", "asks for likelihoods"),
        ("none", "no task of the harness"),
    ],
)
def test_what_is_refused_by_name(folder: Path, task: str, words: str) -> None:
    found = run(folder, "--tasks", task)
    assert found.exit_code == 2
    assert words in found.output
    assert repr(task) in found.output


@pytest.mark.parametrize("blank", ["stop", "ignore"])
def test_blank_lines_as_they_are_said(folder: Path, blank: str) -> None:
    out = folder / "found.json"
    found = run(folder, "--tasks", "blank", "--blank-line", blank, "--out", str(out))
    assert found.exit_code == 0, found.output
    texts = [s["resps"][0][0] for s in json.loads(out.read_text())["samples"]["blank"]]
    assert all(("answer" in text) == (blank == "ignore") for text in texts)


def test_options_of_a_task() -> None:
    from steer_decode.evaluation.harness import RoutedLM

    with pytest.raises(SteerError, match="blank_line must be one of refuse, stop, ignore"):
        RoutedLM(None, blank_line="x")  # type: ignore[arg-type]
    made = RoutedLM(None)  # type: ignore[arg-type]
    request = SimpleNamespace(task_name="t", args=("q", {"until": [], "beam": 3}))
    with pytest.raises(SteerError, match="task 't' sets 'beam'"):
        made.generate_until([request])


def test_prompts_are_kept_by_what_makes_them() -> None:
    """A pair whose weights are on servers has a name of its own too."""
    from steer_decode.evaluation.harness import RoutedLM

    def name(words: dict[str, int], template: str | None) -> str:
        tokenizer = SimpleNamespace(get_vocab=lambda: words, chat_template=template)
        pair = SimpleNamespace(tokenizer=tokenizer, template_owner=tokenizer, fingerprint=None)
        return RoutedLM(SimpleNamespace(pair=pair)).tokenizer_name  # type: ignore[arg-type]

    names = [name({"a": 0}, None), name({"a": 0}, "x"), name({"b": 0}, "x")]
    assert len(set(names)) == 3
    assert names[0] == name({"a": 0}, None)
