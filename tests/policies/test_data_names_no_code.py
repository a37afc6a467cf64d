"""What comes with a model names numbers of built-in routers: no code, no file, no other router."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from steer_decode import (
    AlwaysSmall,
    FirstTokenEntropy,
    Pair,
    Router,
    SteerError,
    parse_policy,
)
from steer_decode.core.boundary import StepBoundary
from steer_decode.policies import POLICIES
from steer_decode.policies.from_data import WORDS, parse_data_policy
from support.side_door import LIMIT, ONE, door, even_pair
from support.tiny import make_pair, save_pair
from transformers import AutoModelForCausalLM, GenerationConfig

CODE = "steer_never_imported:reward"
# Every way of a specification to a function, a file, or a list that the user did not write.
ESCAPES = [
    f"rsd:reward={CODE}",
    f"rsd:threshold=0.5:reward={CODE}",
    f"rsd:reward=likelihood:reward={CODE}",
    "rsd:reward=os:getcwd",
    CODE,  # a router of one's own is named so in a call
    f"{CODE}:threshold=0.5",
    "steer_decode.policies:AlwaysLarge",
    "rsd:reward=likelihood:x",
    "steer:calibration=/etc/passwd",
    "steer:calibration=0",
    "steer:threshold=1:calibration=x",
    "steer-cohort:tokens=/etc/passwd",
    "ecotab:path=/etc/passwd",
    "ecotab:path=/etc/passwd:strings=/etc/passwd",
    "ecotab:strings=/etc/passwd",
    "corea:path=/etc/passwd",
    "corea:over=os:getcwd",
    "both-sides:share=0.3:path=/etc/passwd",
    "both-sides:fix=/etc/passwd",
    "learned:path=/etc/passwd",
    "learned:path=roro",
    "learned:cut=0.5",
    "replay:path=/etc/passwd",
    "replay:writers=SL",
    "spec-reason:grade=/etc/passwd",
    "first-token:signal=os:getcwd",
    "first-token:threshold=nan",
    "first-token:threshold=1e999",
    "first-token:threshold=0x10",
    "first-token:threshold",
    "first-token:name=1",
    "first-token:__init__=1",
    "os:system=1",
    "",
]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is opened or imported by name meanwhile."""
    seen: list[str] = []
    monkeypatch.setattr("importlib.import_module", lambda name, *_: seen.append(name))
    real = Path.read_text

    def read_text(self: Path, *args: Any, **options: Any) -> str:
        seen.append(str(self))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(Path, "read_bytes", lambda self: seen.append(str(self)))
    return seen


@pytest.mark.parametrize("spec", ESCAPES)
def test_data_names_no_code_and_no_file(spec: str, watched: list[str]) -> None:
    with pytest.raises(SteerError):
        parse_data_policy(spec)
    assert watched == []
    assert "steer_never_imported" not in sys.modules


def test_a_setting_of_text_is_listed_or_never_from_data() -> None:
    """A router that grows a setting of text has to say here what data may set."""
    import inspect

    from steer_decode.policies.from_data import _NEVER

    for name, policy in POLICIES.items():
        for key, parameter in inspect.signature(policy).parameters.items():
            if "str" in str(parameter.annotation):
                assert key in WORDS or key in _NEVER, (name, key)


@pytest.mark.parametrize(
    "spec",
    [
        "small",
        "large",
        "steer:threshold=24",
        "steer:threshold=0.4:signal=margin:large_threshold=0.3",
        "first-token:threshold=0.7:signal=entropy",
        "steer-cohort:gamma=0.5:tokens=math:monotone=true",
        "both-sides:sure=0.9:fix=step:over=mean",
        "rsd:threshold=0.7:reward=likelihood",
        "spec-reason:grade=digit",
        "corea:over=last:signal=max-prob",
        "random:share=0.25",
    ],
)
def test_numbers_and_listed_words_are_read_as_on_the_command_line(spec: str) -> None:
    assert str(parse_data_policy(spec)) == str(parse_policy(spec))


def of_folder(tmp_path: Path, settings: Any) -> Pair:
    """A pair whose small model was loaded from a folder that sets ``settings``."""
    small, _ = save_pair(tmp_path)
    pair = make_pair("llama", 0)
    GenerationConfig(steer=settings, eos_token_id=1, pad_token_id=1).save_pretrained(small)
    return Pair(AutoModelForCausalLM.from_pretrained(small), pair.large, pair.tokenizer)


def routers_of(out: Any) -> set[str]:
    return {row.trace.policy for row in out.steer}


DETAILS = {**ONE, "return_dict_in_generate": True}


@pytest.mark.parametrize("spec", [f"rsd:reward={CODE}", "learned:path=/etc/passwd", "large"])
@pytest.mark.few(1)
def test_the_users_own_router_wins_over_the_folders(tmp_path: Path, spec: str) -> None:
    pair = of_folder(tmp_path, {"router": spec})
    assert routers_of(door(AlwaysSmall(), DETAILS, pair)) == {"small"}
    # A config of the call's that does not speak of routers changes nothing.
    config = GenerationConfig(max_new_tokens=LIMIT)
    assert routers_of(door(AlwaysSmall(), DETAILS, pair, generation_config=config)) == {"small"}
    told = door(AlwaysSmall(), DETAILS, pair, steer={"router": "first-token:threshold=0.3"})
    assert routers_of(told) == {"first-token:threshold=0.3:signal=entropy"}


def test_the_users_own_boundary_wins_over_the_folders(tmp_path: Path) -> None:
    pair = of_folder(tmp_path, {"max_step_tokens": 3})

    def longest(router: Router) -> int:
        out = pair.small.generate(**DETAILS, custom_generate=router, max_new_tokens=LIMIT)
        return max(len(step.token_ids) for step in out.steer[0].trace.steps)

    assert longest(Router(pair, AlwaysSmall())) == 3
    own = StepBoundary(pair.tokenizer, pair.vocab_size, max_tokens=7)
    assert longest(Router(pair, AlwaysSmall(), own)) == 7


def test_a_router_without_a_policy_takes_the_folders(tmp_path: Path) -> None:
    pair = of_folder(tmp_path, {"router": "first-token:threshold=0.7"})
    assert str(Router(pair).policy) == str(FirstTokenEntropy(0.7))
    out = pair.small.generate(**DETAILS, custom_generate=Router(pair), max_new_tokens=LIMIT)
    assert routers_of(out) == {str(FirstTokenEntropy(0.7))}


def test_without_a_policy_anywhere_one_is_asked_for() -> None:
    with pytest.raises(SteerError, match=r"policy must be a router such as .*, got none, and"):
        Router(even_pair())


@pytest.mark.parametrize("spec", ESCAPES[:-1])
@pytest.mark.few(12)
def test_a_folder_cannot_talk_a_router_into_code(
    tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = even_pair()
    pair.small.generation_config.steer = {"router": spec}
    try:
        with pytest.raises(SteerError, match=r"in the generation_config.json of the small model"):
            Router(pair)
        # An object in the call may have been read from a file too.
        given = GenerationConfig(steer={"router": spec + ":"}, eos_token_id=1, pad_token_id=1)
        with pytest.raises(SteerError, match=r"^steer: router"):
            door(AlwaysSmall(), ONE, pair, generation_config=given)
    finally:
        del pair.small.generation_config.steer
    assert "steer_never_imported" not in sys.modules


def test_the_call_itself_may_name_code_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_reward.py").write_text("def half(step, before):\n    return 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    out = door(AlwaysSmall(), DETAILS, even_pair(), steer={"router": "rsd:reward=own_reward:half"})
    assert routers_of(out) == {"rsd:threshold=0.7:reward=own_reward:half"}


def test_a_folder_with_code_of_its_own_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    small, large = save_pair(tmp_path)
    (small / "custom_generate").mkdir()
    (small / "custom_generate" / "generate.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(SteerError, match=r"small model .* brings code of its own, custom_generate"):
        Pair.from_pretrained(small, large)


def test_a_kernel_that_a_config_names_is_not_fetched(tmp_path: Path) -> None:
    small, large = save_pair(tmp_path)
    config = json.loads((large / "config.json").read_text())
    for named in ({"attn_implementation": "some/kernel"}, {"attn_implementation": "a/b@main:c"}):
        (large / "config.json").write_text(json.dumps({**config, **named}))
        if transformers.__version__.startswith("4."):  # does not read it
            pair = Pair.from_pretrained(small, large)
            assert pair.large.config._attn_implementation == "sdpa"
            continue
        with pytest.raises(
            SteerError, match=r"config.json of the large model .* an attention kern"
        ):
            Pair.from_pretrained(small, large)
    chosen = Pair.from_pretrained(small, large, attn_implementation="sdpa")
    assert chosen.large.config._attn_implementation == "sdpa"


def test_code_in_a_model_is_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = save_pair(tmp_path)
    config = json.loads((small / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (small / "config.json").write_text(json.dumps(config))
    (small / "own.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.setattr("builtins.input", lambda *_: 1 / 0)
    with pytest.raises(SteerError, match="cannot load the small model"):
        Pair.from_pretrained(small, large)
