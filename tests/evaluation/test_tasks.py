"""Tasks: where questions come from, how answers are checked, and what is refused."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from steer_decode import SteerError
from steer_decode.cli.calibrate import _prompts
from steer_decode.cli.models import Models
from steer_decode.cli.tasks import folder_name, read_seeds, read_tasks, sources
from steer_decode.evaluation.tasks import (
    demo_tasks,
    final_answer,
    jsonl_tasks,
    load_checker,
)
from steer_decode.evaluation.tasks.checkers import exact
from steer_decode.evaluation.tasks.formulas import formulas

DEMO = Models(None, None, None, None, None)
OWN = Models(None, "a/b", "a/c", None, None)


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so <answer> 3 </answer> or <answer>4</answer>", "4"),
        (r"it is \boxed{\frac{1}{2}} as said", r"\frac{1}{2}"),
        ("first\n\nThe final answer is: 7", "7"),
        ("1 = 2 -1\n\nanswer 1\n", "1"),
        (r"unclosed \boxed{1", r"unclosed \boxed{1"),
        ("", ""),
    ],
)
def test_final_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


class TestCheckers:
    def test_exact(self) -> None:
        assert exact("Answer: New  York.", "new york")
        assert not exact("York", "new york")

    @pytest.mark.parametrize(
        ("text", "answer", "right"),
        [
            (r"so \boxed{\frac12}", "0.5", True),
            (r"\boxed{0.5}", r"$\frac{1}{2}$", True),
            (r"\boxed{x + 1}", "1+x", True),
            (r"\boxed{3}", "4", False),
            ("no idea", "4", False),
        ],
    )
    def test_math_verify(self, text: str, answer: str, right: bool) -> None:
        pytest.importorskip("math_verify")
        assert load_checker("math-verify")(text, answer) is right

    def test_math_verify_outside_the_main_thread(self) -> None:
        pytest.importorskip("math_verify")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(load_checker("math-verify"), "so $2$", "2").result()

    @pytest.mark.slow
    def test_a_reference_that_takes_for_ever_is_refused(
        self, tmp_path: Path, monkeypatch: Any
    ) -> None:
        pytest.importorskip("math_verify")
        monkeypatch.setattr(formulas, "seconds", 1)
        path = lines(tmp_path / "mine.jsonl", {"prompt": "?", "answer": "x + 9^{9^{9}}"})
        with pytest.raises(SteerError, match=r"line 1 of .* too much for math-verify"):
            jsonl_tasks(path, "math-verify")

    def test_a_users_own_function(self, tmp_path: Path, monkeypatch: Any) -> None:
        (tmp_path / "own_checker.py").write_text("def ok(text, answer): return answer in text\n")
        monkeypatch.chdir(tmp_path)
        before = list(sys.path)
        assert load_checker("own_checker:ok")("it is 5", "5")
        assert sys.path == before
        with pytest.raises(SteerError, match="no function 'none'"):
            load_checker("own_checker:none")
        with pytest.raises(SteerError, match="cannot be imported"):
            load_checker("no_such_module:f")
        with pytest.raises(SteerError, match="choose from math-verify, exact"):
            load_checker("nearly")


class TestJsonl:
    def test_fields_and_defaults(self, tmp_path: Path) -> None:
        first = {"prompt": "One?", "answer": 1}
        second = {"prompt": "Two?", "answer": "2", "id": "b", "domain": "d", "difficulty": 3}
        path = lines(tmp_path / "mine.jsonl", first, second)
        one, two = jsonl_tasks(path, "exact")
        assert (one.name, one.number, one.difficulty) == ("mine:1", 1, None)
        assert (two.name, two.difficulty) == ("d:b", 3)
        assert one.check("answer 1")
        assert not two.check("answer 1")
        assert len(jsonl_tasks(path, "exact", 1)) == 1

    def test_a_limit_for_each_domain(self, tmp_path: Path) -> None:
        records = [
            {"prompt": f"{i}?", "answer": "1", "domain": domain}
            for i, domain in enumerate(["a", "a", "a", "b", "b", "c"])
        ]
        path = lines(tmp_path / "mine.jsonl", *records)
        tasks = jsonl_tasks(path, "exact", per_domain=2)
        assert [task.name for task in tasks] == ["a:1", "a:2", "b:4", "b:5", "c:6"]
        assert read_tasks(str(path), OWN, "math", 2, "test", "exact")[-1].name == "c:6"

    @pytest.mark.parametrize(
        ("record", "words"),
        [
            ({"prompt": "One?", "answer": float("nan")}, "'answer' must be a text, got nan"),
            ({"prompt": "One?"}, "'answer' must be a text, got nothing"),
            ({"prompt": " ", "answer": "1"}, "'prompt' must be a text"),
            ({"prompt": "One?", "answer": "1", "difficulty": "hard"}, "difficulty must be"),
            ({"prompt": "One\ud800?", "answer": "1"}, "half a character"),
            (["One?"], "not an object"),
        ],
    )
    def test_bad_lines_are_named(self, tmp_path: Path, record: Any, words: str) -> None:
        path = lines(tmp_path / "mine.jsonl", {"prompt": "Zero?", "answer": "0"}, record)
        with pytest.raises(SteerError, match=rf"line 2 of .*{words}"):
            jsonl_tasks(path, "exact")

    def test_ids_are_unique(self, tmp_path: Path) -> None:
        record = {"prompt": "One?", "answer": "1", "id": "x"}
        path = lines(tmp_path / "mine.jsonl", record, record)
        with pytest.raises(SteerError, match=r"id 'x' .* twice, in lines 1 and 2"):
            jsonl_tasks(path, "exact")

    def test_what_math_verify_cannot_read_is_refused(self, tmp_path: Path) -> None:
        pytest.importorskip("math_verify")
        path = lines(tmp_path / "mine.jsonl", {"prompt": "One?", "answer": "?!"})
        with pytest.raises(SteerError, match="--checker exact"):
            jsonl_tasks(path, "math-verify")

    def test_empty_or_missing_files(self, tmp_path: Path) -> None:
        (tmp_path / "mine.jsonl").write_text("\n")
        with pytest.raises(SteerError, match="holds no problems"):
            jsonl_tasks(tmp_path / "mine.jsonl", "exact")
        with pytest.raises(SteerError, match="cannot read tasks"):
            jsonl_tasks(tmp_path / "none.jsonl", "exact")


class TestPrompts:
    """What `steer calibrate --prompts` reads, by the reader of --tasks."""

    @pytest.mark.parametrize(
        ("prompts", "text"),
        [
            (["What is 1+1?"], '\ufeff{"prompt": "What is 1+1?", "answer": "2"}\n'),
            (["What is 1+1?"], "\ufeffWhat is 1+1?\n"),
            (["a\u2028b"], '{"prompt":"a\u2028b"}\n'),
            (["a\u0085b"], '{"prompt":"a\u0085b"}\n'),
            (["a\u2028b\x0cc"], "a\u2028b\x0cc\n"),
            (["One?", "Two?"], "One?\r\n\r\n \t\r\nTwo?"),
            (["# One?", "// Two?"], "# One?\n// Two?\n"),
            (["{1, 2} has how many elements?"], "{1, 2} has how many elements?\n"),
            (["[1, 2]", '"Hi"'], '[1, 2]\n"Hi"\n'),
            (["7"], '{"prompt": 7}\n'),
        ],
    )
    def test_lines(self, tmp_path: Path, prompts: list[str], text: str) -> None:
        path = tmp_path / "p.txt"
        path.write_bytes(text.encode())
        assert _prompts(path, 1, OWN) == prompts

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            ("line 2 of .*: 'prompt' must be a text, got nothing", b'One?\n{"prompt": null}\n'),
            ("'prompt' must be a text, got \\[", b'{"prompt": [{"role": "user"}]}\n'),
            ("half a character", b'{"prompt": "a\\ud800"}\n'),
            ("line 1 of .* is not JSON", b'{"prompt": "One?"\n'),
            ("'prompt' must be a text, got nothing", b"{}\n"),
            ("is not UTF-8", "Wie gro\u00df?".encode("latin-1")),
            ("is not UTF-8", "One?".encode("utf-16")),
            ("holds no prompts", b"\xef\xbb\xbf\n \n"),
        ],
    )
    def test_what_is_refused(self, tmp_path: Path, words: str, text: bytes) -> None:
        path = tmp_path / "p.txt"
        path.write_bytes(text)
        with pytest.raises(SteerError, match=words):
            _prompts(path, 1, OWN)


def test_demo_steps_are_labelled_where_there_is_one_right_step() -> None:
    math, planning = (demo_tasks([domain], 1)[0] for domain in ("math", "planning"))
    assert planning.label is None
    assert math.label is not None
    first = math.answer.split("\n\n")[0]
    assert math.label(0, first + "\n\n")
    assert not math.label(1, first)
    assert not math.label(99, first)


class TestCommandLine:
    def test_sources_may_be_mixed(self, tmp_path: Path) -> None:
        path = lines(tmp_path / "mine.jsonl", {"prompt": "Compute 1 +1 ?", "answer": "2"})
        tasks = read_tasks(f"demo,{path}", DEMO, "math,qa", 2, "test", "exact")
        assert [task.name for task in tasks] == ["math:0", "math:1", "qa:0", "qa:1", "mine:1"]

    @pytest.mark.parametrize(
        ("spec", "models", "words"),
        [
            (None, OWN, "--tasks is missing"),
            ("demo", OWN, "need the demo pair"),
            ("nothing", DEMO, "unknown tasks 'nothing'"),
            ("reasoning-gym", DEMO, "name no data set"),
            ("none.jsonl", DEMO, "cannot read tasks"),
            (",", DEMO, "no tasks"),
            ("demo", DEMO, "--checker judges a file"),
        ],
    )
    def test_bad_sources(self, spec: str | None, models: Models, words: str) -> None:
        with pytest.raises(SteerError, match=words):
            read_tasks(spec, models, "math", 1, "test", "exact")

    def test_one_name_twice(self, tmp_path: Path) -> None:
        record = {"prompt": "Compute 1 +1 ?", "answer": "2", "domain": "math", "id": 0}
        path = lines(tmp_path / "mine.jsonl", record)
        with pytest.raises(SteerError, match="problem '0' of 'math' is there twice"):
            read_tasks(f"demo,{path}", DEMO, "math", 1, "test", "exact")

    def test_one_name_in_two_files_is_named_with_both_lines(self, tmp_path: Path) -> None:
        paths = []
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            paths.append(lines(tmp_path / folder / "t.jsonl", {"prompt": "One?", "answer": "1"}))
        with pytest.raises(
            SteerError, match=r"twice \(line 1 of '.*a/t.jsonl' and line 1 of '.*b/t"
        ):
            read_tasks(",".join(map(str, paths)), OWN, "math", None, "test", "exact")

    def test_commas_in_names_and_settings(self, tmp_path: Path) -> None:
        folder = tmp_path / "a,b [1"
        folder.mkdir()
        path = str(lines(folder / "t, u.jsonl", {"prompt": "One?", "answer": "1"}))
        assert sources(f"demo, {path},demo") == ["demo", path]
        gym = 'reasoning-gym:composite:datasets=[{"name":"a,b]","weight":1},{"name":"c"}]'
        assert sources(f"{gym},x.jsonl") == [gym, "x.jsonl"]
        assert sources(["demo,x.jsonl", "y.jsonl", "demo"]) == ["demo", "x.jsonl", "y.jsonl"]
        assert sources("a[1.jsonl,b.jsonl") == ["a[1.jsonl", "b.jsonl"]
        assert folder_name([path], "test") == "t-u"
        with pytest.raises(SteerError, match=r"unknown tasks '.*/a': .*commas separate"):
            read_tasks(f"{folder}/none", OWN, "math", None, "test", "exact")

    def test_seeds(self) -> None:
        assert read_seeds("0, 2,2") == [0, 2]
        for text in ("", "-1", "a", "1.5"):
            with pytest.raises(SteerError, match="--seeds"):
                read_seeds(text)

    def test_folder_names(self) -> None:
        assert folder_name(None, "test") == "demo-test"
        assert folder_name("a b/mine.jsonl", "test") == "mine"
        assert folder_name("reasoning-gym:chain_sum:a=1", "test") == "reasoning-gym-chain_sum-a-1"
