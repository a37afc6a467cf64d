"""step_update_ as an interface: the table, bad arguments, torch.library, torch.compile, graphs."""

from __future__ import annotations

import pytest
import torch
from support.backends import needs_extension
from support.step_problems import BACKENDS, CLASSES, WORDS, assert_same, copy_of, ids
from torch import Tensor

from steer_kernels import RowFlag, StepState, TokenClass, step_update_, token_classes

TOKEN, SCORE = torch.tensor([5, 6]), torch.ones(2)


def state_of(**changes: Tensor) -> StepState:
    return StepState.of_prompts([[3, 4], [5]], 4)._replace(**changes)


# ---- the table ------------------------------------------------------------------------------


def test_classes_by_hand() -> None:
    says, counts = TokenClass.SAYS_SOMETHING, TokenClass.COUNTS
    holds, starts, ends = (
        TokenClass.HOLDS_DELIMITER,
        TokenClass.STARTS_WITH_HALF,
        TokenClass.ENDS_WITH_HALF,
    )
    expected = {
        "": counts,
        "a": counts | says,
        "\n": counts | starts | ends,
        ".\n\n": counts | holds | ends,
        "\n1": counts | starts | says,
        "<eos>": says | TokenClass.END_OF_TEXT,
    }
    table = token_classes(list(expected), end_of_text=[5], uncounted=[5])
    assert table.dtype == torch.uint8
    assert table.tolist() == list(expected.values())


def test_delimiters_of_one_and_of_two_different_characters() -> None:
    assert token_classes([";", ";a"], delimiter=";").tolist() == [1 | 16, 1 | 8 | 16]
    assert token_classes(["a", "b", "ab"], delimiter="ab").tolist() == [4 | 24, 2 | 24, 1 | 24]
    for delimiter in ("", "\n\n\n"):
        with pytest.raises(ValueError, match="delimiter must have one or two characters, got"):
            token_classes(WORDS, delimiter=delimiter)


def test_the_state_of_prompts() -> None:
    state = state_of()
    assert state.transcript.tolist() == [[3, 4, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]]
    assert state.length.tolist() == state.step_start.tolist() == [2, 1]
    assert state.limit.tolist() == [6, 5]
    assert [field.dtype for field in state[3:6]] == [torch.float64, torch.int64, torch.uint8]
    assert StepState.of_prompts([], 3).transcript.shape == (0, 3)
    with pytest.raises(ValueError, match="max_new_tokens must not be negative, got -1"):
        StepState.of_prompts([[3]], -1)


# ---- arguments ------------------------------------------------------------------------------

LONG = torch.zeros(2, dtype=torch.int64)
CASES: list = [
    ({"transcript": [[1]]}, {}, TypeError, "transcript must be a torch.Tensor, got list"),
    ({"transcript": LONG}, {}, ValueError, r"transcript must have shape \[B, C\], got \[2\]"),
    ({"transcript": torch.zeros(2, 6)}, {}, TypeError, "transcript must be int64, got .*float32"),
    ({"transcript": LONG[:1, None].expand(2, 6)}, {}, ValueError, "transcript must be contiguous"),
    ({"transcript": torch.zeros(6, 2).long().t()}, {}, ValueError, r"strides \[1, 2\]"),
    ({"length": LONG.int()}, {}, TypeError, "length must be int64, got torch.int32"),
    ({"step_start": LONG[:1]}, {}, ValueError, r"step_start must have shape \[2\] .*got \[1\]"),
    ({"score_sum": torch.zeros(2)}, {}, TypeError, "score_sum must be float64, got torch.float32"),
    ({"flag": LONG}, {}, TypeError, "flag must be uint8, got torch.int64"),
    ({"score_count": torch.zeros(4).long()[::2]}, {}, ValueError, r"contiguous, got strides \[2\]"),
    ({"limit": LONG.to("meta")}, {}, ValueError, "limit must be on the device of transcript"),
    ({}, {"token": LONG[:, None]}, ValueError, r"token must have shape \[B\], got \[2, 1\]"),
    ({}, {"score": SCORE.half()}, TypeError, "score must be float32, got torch.float16"),
    ({}, {"token_class": CLASSES.long()}, TypeError, "token_class must be uint8"),
    ({}, {"token_class": CLASSES[None]}, ValueError, r"token_class must have shape \[V\], got"),
    ({}, {"active": LONG}, TypeError, "active must be bool, got torch.int64"),
    ({}, {"max_step": 0}, ValueError, "max_step must be at least 1, got 0"),
    ({}, {"max_step": 2**70}, ValueError, "max_step must be below 2.63, got 11"),
    ({}, {"max_step": 2.0}, TypeError, r"max_step must be an int, got 2\.0"),
]


@pytest.mark.parametrize(("changes", "given", "error", "message"), CASES)
def test_bad_arguments_name_themselves(
    changes: dict, given: dict, error: type, message: str
) -> None:
    arguments = {"token": TOKEN, "score": SCORE, "token_class": CLASSES, **given}
    with pytest.raises(error, match=message):
        step_update_(state_of(**changes), **arguments)


@needs_extension
@pytest.mark.parametrize(("changes", "given", "error", "message"), CASES)
def test_the_raw_operator_checks_too(changes: dict, given: dict, error: type, message: str) -> None:
    arguments = {"token": TOKEN, "score": SCORE, "token_class": CLASSES, **given}
    with pytest.raises((RuntimeError, ValueError)):
        torch.ops.steer_kernels.step_update_(**state_of(**changes)._asdict(), **arguments)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("token", len(WORDS), rf"token\[1\] must be in .*got {len(WORDS)}"),
        ("token", -1, r"token\[1\] must be in .*got -1"),
        ("length", 7, r"length\[1\] must be in .*got 7"),
        ("length", -1, r"length\[1\] must be in .*got -1"),
        ("step_start", 2, r"step_start\[1\] must be in .*got 2"),
        ("limit", 7, r"limit\[1\] must be in .*got 7"),
    ],
)
def test_bad_values_name_themselves_and_no_row_changes(
    backend: str, field: str, value: int, message: str
) -> None:
    state, token = state_of(), TOKEN.clone()
    (token if field == "token" else getattr(state, field))[1] = value
    before = copy_of(state)
    with pytest.raises(ValueError, match=message):
        BACKENDS[backend](state, token, SCORE, CLASSES)
    assert_same(state, before)


@pytest.mark.gpu
def test_on_the_device_a_row_with_a_bad_value_stays_as_it_is() -> None:
    state = state_of()
    before = copy_of(state)
    BACKENDS["cuda"](state, torch.tensor([5, -1]), SCORE, CLASSES)
    assert_same(state, before, [1])
    assert state.length.tolist() == [3, 1]


# ---- torch.library and torch.compile --------------------------------------------------------


def test_opcheck() -> None:
    op = torch.ops.steer_kernels.step_update_.default
    tensors = (*state_of(), TOKEN, SCORE, CLASSES)
    torch.library.opcheck(op, tensors)
    torch.library.opcheck(op, tensors, {"active": torch.tensor([True, False]), "max_step": 3})


def decode(state: StepState, logits: Tensor, active: Tensor) -> Tensor:
    """A step of greedy decoding: the token and its score never leave the graph."""
    top = logits.max(-1)
    step_update_(state, top.indices, top.values, CLASSES, active)
    return state.flag & RowFlag.FINISHED == 0


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_into_one_graph_and_still_mutates(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(decode, fullgraph=True, backend=backend, dynamic=True)
    for rows in (2, 3, 5):
        ours = StepState.of_prompts([[0]] * rows, 5)
        theirs, active = copy_of(ours), torch.ones(rows, dtype=torch.bool)
        for _ in range(6):
            logits = torch.randn(rows, len(WORDS))
            active_after = compiled(ours, logits, active)
            assert torch.equal(active_after, decode(theirs, logits, active))
            assert_same(ours, theirs)
            active = active_after


def test_no_rows_and_meta_tensors() -> None:
    empty = torch.empty(0)
    nobody = StepState.of_prompts([], 3)
    step_update_(nobody, empty.long(), empty, CLASSES)
    assert all(field.shape[0] == 0 for field in nobody)
    state = StepState(*(field.to("meta") for field in state_of()))
    step_update_(state, TOKEN.to("meta"), SCORE.to("meta"), CLASSES.to("meta"))
    assert all(field.is_meta for field in state)
    assert [field.shape for field in state] == [field.shape for field in state_of()]


# ---- with a GPU -----------------------------------------------------------------------------


@pytest.mark.gpu
def test_graph_replay_and_a_side_stream() -> None:
    table, score = CLASSES.cuda(), SCORE.cuda()
    token = torch.tensor(ids("w1", "\n")).cuda()
    state = StepState(*(field.cuda() for field in state_of()))
    expected = copy_of(StepState(*(field.cpu() for field in state)))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step_update_(state, token, score, table)
    torch.cuda.synchronize()
    step_update_(expected, token.cpu(), SCORE, CLASSES)
    assert_same(StepState(*(field.cpu() for field in state)), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step_update_(state, token, score, table)
    for words in (("w2", "\n\n"), ("\n\n", "w1")):
        token.copy_(torch.tensor(ids(*words)))
        graph.replay()
        step_update_(expected, token.cpu(), SCORE, CLASSES)
        assert_same(StepState(*(field.cpu() for field in state)), expected)
