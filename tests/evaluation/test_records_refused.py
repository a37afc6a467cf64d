"""Records that are not what they have to be: each is told in a sentence."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steer_decode import AlwaysSmall, Pair, SteerError
from steer_decode.evaluation.records.file import RecordFile, read_records
from steer_decode.evaluation.records.lines import packed, sealed
from steer_decode.evaluation.records.made import check_pair
from steer_decode.evaluation.records.record import Records
from steer_decode.evaluation.records.schema import answer_to_dict, header_to_dict
from support.commands import refused, steer
from support.forged import forged
from support.hostile import EVIL, check
from support.recorded import answer, header, recorded, saved, view
from support.tiny import make_model, make_pair, make_tokenizer

LOG = float(np.log(0.5))


def made(**more: Any) -> Records:
    seen = view([LOG, LOG], [[1, 2], [2, 3]], max_logit=np.ones(2), entropy=np.ones(2))
    other = view([LOG, -3.0], [[1, 2], [4, 3]], max_logit=np.ones(2), entropy=np.ones(2))
    one = answer(other, seen, [1, 2], right=(True,))
    two = answer(seen, other, [1, 2], router="small", spec="small", writers="SS", correct=False)
    return Records(header(**more), [one, two])


def lines(records: Records) -> list[dict[str, Any]]:
    return [header_to_dict(records.header), *map(answer_to_dict, records.answers)]


def sealed_anew(path: Path, objects: list[Any]) -> Path:
    """A file of these objects, with digests that fit: what somebody makes who knows how."""
    line, over = sealed(objects[0])
    data = packed(line) + b"".join(packed(sealed(each, over)[0]) for each in objects[1:])
    path.write_bytes(data)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.jsonl.gz"


def test_every_record_reads_back(path: Path) -> None:
    assert len(read_records([saved(path, made())]).answers) == 2


def sentence(path: Path) -> str | None:
    """How a file is refused; None where it is read. Nothing else may come of one."""
    try:
        read_records([path])
    except SteerError as error:
        return str(error)
    return None


def told(path: Path) -> str:
    with pytest.raises(SteerError) as caught:
        read_records([path])
    message = str(caught.value)
    assert repr(str(path)) in message
    assert "steer eval --record" in message
    return message


def test_one_that_is_cut_off_anywhere(path: Path) -> None:
    data = saved(path, made()).read_bytes()
    member = len(packed(sealed(header_to_dict(made().header))[0]))
    for end in [1, 2, 10, member - 1, member + 1, member + 30, len(data) - 1]:
        path.write_bytes(data[:end])
        assert "cut off in the middle of a record" in told(path)
    path.write_bytes(b"")
    assert "is empty" in told(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_in_which_a_byte_has_changed(tmp_path_factory: Any, data: Any) -> None:
    path = tmp_path_factory.mktemp("r") / "r.gz"
    good = saved(path, made()).read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(bad))
    said = sentence(path)
    assert said is None or str(path) in said
    if said is None:  # a byte of gzip's own header, the time say
        assert [a.text for a in read_records([path]).answers] == [a.text for a in made().answers]


def test_one_that_was_edited(path: Path) -> None:
    text = gzip.decompress(saved(path, made()).read_bytes())
    path.write_bytes(text.replace(b'"correct":false', b'"correct":true'))
    assert "line 3" in told(path)
    assert "its digest does not fit: it was changed, or comes from another file" in told(path)
    path.write_bytes(gzip.compress(text))
    assert "it is not one line" in told(path)


def test_a_line_of_another_file(path: Path, tmp_path: Path) -> None:
    ours = gzip.decompress(saved(path, made()).read_bytes()).splitlines(keepends=True)
    other = saved(tmp_path / "other.gz", made(pair="f" * 16))
    theirs = gzip.decompress(other.read_bytes()).splitlines(keepends=True)
    path.write_bytes(b"".join([ours[0], theirs[1]]))
    assert "comes from another file" in told(path)


def test_one_of_another_version_or_kind(path: Path) -> None:
    good = lines(made())
    sealed_anew(path, [{**good[0], "version": 2}, *good[1:]])
    assert "not version 1 of steer-records" in told(path)
    sealed_anew(path, [{**good[0], "kind": "trace"}, *good[1:]])
    assert "not version 1 of steer-records" in told(path)
    path.write_text("not a record\n")
    assert "line 1" in told(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"ids": [1, 10]},
            "10 is beyond the vocabulary of 10: is this a text of another tokenizer",
        ),
        ({"writers": "L"}, "writers: must be of 2 tokens"),
        ({"writers": "LX"}, "must be letters S and L"),
        ({"steps": [1]}, "steps: must sum to 2"),
        ({"closed": False}, "closed: must be true of an answer that has ended by itself"),
        ({"right": [True, False]}, "right: must be of 1 steps"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"stop_reason": "tired"}, "stop_reason"),
        ({"file": "/etc/passwd"}, "has 'file', which does not belong there"),
        ({("large", "logprob"): [LOG]}, "large.logprob: must have 2 entries"),
        ({("large", "logprob"): [LOG, 0.5]}, "large.logprob"),
        ({("large", "logprob"): [LOG, -0.1]}, "large.logprob[1]: contradicts top_logprobs"),
        ({("small", "logprob"): [LOG, -0.1]}, "small.logprob[1]: contradicts top_logprobs"),
        ({("large", "top_ids"): [[1, 2], [2, 2]]}, "names a token twice"),
        ({("large", "top_ids"): [[1, 2], [2, 11]]}, "11 is beyond the vocabulary"),
        ({("large", "top_ids"): [[1], [2]]}, "must have 2 entries a token"),
        ({("large", "top_logprobs"): [[-1.0, -0.5], [LOG, -2.0]]}, "must fall"),
        ({("large", "top_logprobs"): [[-0.1, -0.2], [LOG, -2.0]]}, "sum to more than 1"),
        ({("large", "entropy"): [1.0, None]}, "large.entropy"),
        ({("large", "max_logit"): [1.0, "x"]}, "large.max_logit"),
    ],
)
def test_one_that_contradicts_itself(path: Path, change: dict[Any, Any], message: str) -> None:
    """Also where the digest fits."""
    objects = lines(made())
    for key, value in change.items():
        if isinstance(key, tuple):
            objects[1] = {**objects[1], key[0]: {**objects[1][key[0]], key[1]: value}}
        else:
            objects[1] = {**objects[1], key: value}
    assert message in told(sealed_anew(path, objects))
    assert "line 2" in told(path)


def test_one_that_is_there_twice(path: Path) -> None:
    objects = lines(made())
    assert "is a second record of" in told(sealed_anew(path, [*objects, objects[1]]))


@settings(max_examples=150, deadline=None)
@given(st.one_of(*(forged(each) for each in lines(made())[:2])))
def test_whatever_stands_in_one_is_a_sentence(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("r") / "r.gz"
    good = lines(made())
    line, over = sealed(good[0])
    objects: list[bytes] = [line]
    try:
        forged_ = json.loads(data)
        objects.append(sealed(forged_, over)[0])
    except (ValueError, RecursionError, UnicodeDecodeError):
        objects.append(data)
    for some in (objects, objects[1:]):
        path.write_bytes(b"".join(map(packed, some)))
        said = sentence(path)
        assert said is None or ("\n" not in said and len(said) < 2000)


def test_one_of_another_pair(path: Path) -> None:
    saved(path, made())
    with pytest.raises(SteerError, match=r"of another pair \(0123456789abcdef, this one is f"):
        RecordFile(path, replace(made().header, pair="f" * 16))
    with pytest.raises(SteerError, match=r"other settings \(sampling was .*choose another --rec"):
        RecordFile(path, header(0.5))
    other = saved(path.with_name("other.gz"), made(pair="f" * 16))
    with pytest.raises(SteerError, match=r"other\.gz' does not belong to .*of another pair"):
        read_records([path, other])


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair("llama", 0)


def test_one_of_other_models_or_another_tokenizer(pair: Pair) -> None:
    records = recorded(pair, n=1)
    check_pair(records, pair, "r.gz")
    with pytest.raises(SteerError, match=r"'r\.gz' are of another pair"):
        check_pair(records, make_pair("llama", 5), "r.gz")
    words = list(make_tokenizer().get_vocab())
    swapped = make_tokenizer([*words[:-2], words[-1], words[-2]])
    other = Pair(pair.small, pair.large, swapped)
    with pytest.raises(SteerError, match=r"of another tokenizer \(vocabulary"):
        check_pair(records, other, "r.gz")
    # A text that its ids do not make, whatever the header says.
    first = replace(records.answers[0], text="something else")
    with pytest.raises(SteerError, match="a text of another tokenizer: its ids stand for"):
        check_pair(replace(records, answers=[first]), pair, "r.gz")


def test_a_file_of_something_else_is_left_alone(path: Path) -> None:
    """Recording goes on in files of its own only."""
    for data in (
        b"my notes",
        b"my notes\n",
        gzip.compress(b"my notes"),
        b"\x1f",
        gzip.compress(b""),
    ):
        path.write_bytes(data)
        if data == b"\x1f":  # as a header that was cut off begins
            RecordFile(path, made().header).close()
            assert read_records([path]).answers == []
            continue
        with pytest.raises(SteerError, match=r"choose another --record|no record"):
            RecordFile(path, made().header)
        assert path.read_bytes() == data


def test_two_runs_do_not_write_one_file(path: Path) -> None:
    first = RecordFile(path, made().header)
    with pytest.raises(SteerError, match="another run is writing records to"):
        RecordFile(path, made().header)
    first.close()


def test_nothing_in_one_is_obeyed_by_a_terminal(path: Path) -> None:
    records = made(names={"small": EVIL, "large": EVIL})
    bad = [replace(a, text=EVIL, router=EVIL, problem=EVIL) for a in records.answers]
    saved(path, replace(records, answers=bad[:1]))
    shown = steer("records", "show", path, "--answers", 2)
    assert shown.exit_code == 0, shown.output
    check(shown.output)
    replayed = steer("eval", "--replay", path)
    assert replayed.exit_code == 0, replayed.output
    check(replayed.output)
    check(path.with_name("r.replay.md").read_text())
    objects = lines(made())
    sealed_anew(path, [objects[0], {**objects[1], EVIL: EVIL}])
    check(refused("records", "show", path))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--record", "r.gz", "--cohort", "1,2", "--n", 2],
            "--record keeps the answers of one run",
        ),
        (["--replay", "r.gz", "--n", 3], "--n has no meaning with --replay"),
        (["--replay", "missing.gz"], "missing.gz"),
    ],
)
def test_the_command_refuses(args: list[Any], message: str, path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(path.parent)
    if "--n" in args and "--replay" in args:
        saved(path.with_name("r.gz"), made())
    assert message in refused("eval", *args)


def test_a_model_without_sound_logits_is_told(pair: Pair) -> None:
    broken = make_model("llama", 1, layers=3, rows=48)
    made_pair = Pair(pair.small, broken, make_tokenizer())
    broken.get_output_embeddings().weight.data.fill_(float("nan"))
    small = {"small": AlwaysSmall()}
    with pytest.raises(SteerError, match="the large model's logits before token 0 of the answer"):
        recorded(made_pair, small, n=1)
