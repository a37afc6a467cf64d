"""Templates and token ids on the command line, and in what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from steer_decode.cli import app
from support.tiny import VOCABULARY, make_model, make_tokenizer
from typer.testing import CliRunner

THINKS = (
    "{% for m in messages %}w1{{ m.content }}{% endfor %}w2"
    "{% if enable_thinking is defined and not enable_thinking %}w3{% endif %}"
)
ID = {word: i for i, word in enumerate(VOCABULARY)}
FEW = ["--max-new-tokens", 2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = THINKS
    for seed, name in enumerate(("small", "large")):
        make_model("llama", seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return ["--small", str(folder / "small"), "--large", str(folder / "large")]


def steer(*args: object, **options: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args], **options)


def prompt_of(*args: object) -> tuple[str, dict[str, Any]]:
    """The prompt that the models were given, and the options that the document keeps."""
    result = steer("generate", *args, "--router", "small", *FEW, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    ids = document["trace"]["prompt_ids"]
    return "".join(VOCABULARY[i] for i in ids), document["options"]


def test_arguments_reach_the_template_and_are_kept(pair: list[str]) -> None:
    prompt, options = prompt_of("w5", *pair)
    assert prompt == "w1w5w2"
    assert "chat_template_kwargs" not in options
    prompt, options = prompt_of("w5", *pair, "--template-arg", "enable_thinking=false")
    assert prompt == "w1w5w2w3"
    assert options["chat_template_kwargs"] == {"enable_thinking": False}
    assert prompt_of("w5", *pair, "--template-arg", "enable_thinking=yes")[0] == "w1w5w2"
    prompt, options = prompt_of("w5", *pair, "--raw")
    assert prompt == "w5"
    assert options["chat"] is False


def test_ids_are_a_prompt(pair: list[str], tmp_path: Path) -> None:
    wanted = "w5w6\n\n"
    ids = [ID["w5"], ID["w6"], ID["\n\n"]]
    for name, text in (("a.json", json.dumps(ids)), ("b.txt", "\n".join(map(str, ids)))):
        (tmp_path / name).write_text(text + "\n")
    comma = ",".join(map(str, ids))
    for given in (comma, f"[{comma}]", tmp_path / "a.json", tmp_path / "b.txt"):
        assert prompt_of("--ids", given, *pair)[0] == wanted
    result = steer("generate", "--ids", comma, *pair, "--router", "small", *FEW, "--json")
    assert json.loads(result.stdout)["prompt"] == wanted


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "w5", "--template-arg", "thinking"], "must be NAME=VALUE"),
        (["generate", "w5", "--template-arg", "a=1", "--template-arg", "a=2"], "given twice"),
        (["generate", "w5", "--template-arg", "enable_thinking=False"], "write false, as JSON"),
        (["generate", "w5", "--raw", "--template-arg", "a=1"], "--raw uses no chat template"),
        (["generate", "w5", "--template-arg", "thinkin=1"], "reads no argument 'thinkin'"),
        (["generate", "w5", "--ids", "1"], "given twice, as PROMPT and --ids"),
        (["generate", "--ids", "1", "--raw"], "no template sees"),
        (["generate", "--ids", "1;2"], "--ids must hold token ids, as in 1,2,3, got '1;2'"),
        (["generate", "--ids", "nowhere.json"], "cannot read 'nowhere.json'"),
        (["generate", "--ids", "7,99"], "prompt holds token id 99, but the models know ids below"),
        (["chat", "--template-arg", "thinkin=1"], "reads no argument 'thinkin'"),
        (["chat", "--raw", "--system", "w5"], "--raw uses none"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    args: list[str], message: str, pair: list[str]
) -> None:
    result = steer(*args, *pair, "--router", "small", input="")
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_a_chat_with_arguments_and_a_chat_without_a_template(
    pair: list[str], tmp_path: Path
) -> None:
    def prompts(*args: object) -> list[str]:
        log = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        options = [*pair, "--router", "small", *FEW, "--log", log]
        assert steer("chat", *args, *options, input="w5\nw6\n").exit_code == 0
        turns = [json.loads(line) for line in log.read_text().splitlines()]
        return ["".join(VOCABULARY[i] for i in t["trace"]["prompt_ids"]) for t in turns]

    assert [p[-2:] for p in prompts("--template-arg", "enable_thinking=false")] == ["w3", "w3"]
    assert prompts("--raw") == ["w5", "w6"]
    assert prompts()[0] == "w1w5w2"


def test_an_evaluation_keeps_its_template_and_goes_on_with_the_same(
    pair: list[str], tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "w5", "answer": "1"}\n')
    told = ["--template-arg", "enable_thinking=false"]
    common = ["--tasks", tasks, "--checker", "exact", "--routers", "small", *FEW]
    common += ["--out", tmp_path / "out"]
    assert steer("eval", *pair, *common, *told).exit_code == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat" not in settings
    again = steer("eval", *pair, *common)
    assert again.exit_code == 2
    assert "made with other settings (chat_template_kwargs was" in again.stderr
    assert steer("eval", *pair, *common, *told).exit_code == 0


def test_a_calibration_keeps_its_template(pair: list[str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"w{i}\n" for i in range(20)))
    out = tmp_path / "out.json"
    args = ["--prompts", prompts, "--max-new-tokens", 60, "--cohort", 20, "--out", out]
    result = steer("calibrate", *pair, *args, "--template-arg", "enable_thinking=false")
    assert result.exit_code == 0, result.output
    kept = json.loads(out.read_text())["settings"]
    assert kept["chat_template_kwargs"] == {"enable_thinking": False}
