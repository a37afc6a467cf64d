"""`step_update_`: the bookkeeping after a token, in place.

The host is not needed.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steer_kernels import reference
from steer_kernels._extension import cuda_extension
from steer_kernels._memory import refuse_shared
from steer_kernels.ops._register import register

_SCHEMA = (
    "(Tensor(a!) transcript, Tensor(b!) length, Tensor(c!) step_start, Tensor(d!) score_sum, "
    "Tensor(e!) score_count, Tensor(f!) flag, Tensor limit, Tensor token, Tensor score, "
    "Tensor token_class, *, Tensor? active=None, int max_step=512) -> ()"
)
_DEVICES = ("cpu", "cuda", "meta")


class TokenClass(enum.IntFlag):
    """What a token is to its step; see `token_classes`."""

    HOLDS_DELIMITER = 1
    STARTS_WITH_HALF = 2
    ENDS_WITH_HALF = 4
    SAYS_SOMETHING = 8
    COUNTS = 16
    END_OF_TEXT = 32


class RowFlag(enum.IntFlag):
    """State of a row after its last token.

    SAID is that of the open step.
    """

    STEP_CLOSED = 1
    ENDED = 2
    FULL = 4
    SAID = 8
    FINISHED = ENDED | FULL


def token_classes(
    texts: Sequence[str],
    end_of_text: Collection[int] = (),
    delimiter: str = "\n\n",
    uncounted: Collection[int] = (),
) -> Tensor:
    """The class of every token of a vocabulary.

    `step_update_` reads this table. A tokenizer may hide the delimiter in a merged token
    (".\\n\\n") or split it over two ("\\n", "\\n"). Whether a token completes it is then a matter
    of two tokens: the newer one holds it, or starts with its second half where the older one ends
    with the first.

    Args:
        texts: text of every id as it reads within a text, after another token: tokenizers that
            drop a leading space of a token decoded alone must not be asked for it alone.
        end_of_text: ids that end an answer.
        delimiter: what closes a step; one or two characters, as a longer one may lie across more
            than two tokens.
        uncounted: ids whose score does not enter the step's sum.

    Returns:
        [len(texts)] uint8, bits of `TokenClass`.

    Raises:
        ValueError: `delimiter` is empty or longer than two characters.
    """
    if not 1 <= len(delimiter) <= 2:
        raise ValueError(f"delimiter must have one or two characters, got {delimiter!r}")
    halves = len(delimiter) == 2
    return torch.tensor(
        [
            TokenClass.HOLDS_DELIMITER * (delimiter in text)
            | TokenClass.STARTS_WITH_HALF * (halves and text.startswith(delimiter[1]))
            | TokenClass.ENDS_WITH_HALF * (halves and text.endswith(delimiter[0]))
            | TokenClass.SAYS_SOMETHING * any(c.isalnum() for c in text)
            | TokenClass.COUNTS * (i not in uncounted)
            | TokenClass.END_OF_TEXT * (i in end_of_text)
            for i, text in enumerate(texts)
        ],
        dtype=torch.uint8,
    )


class StepState(NamedTuple):
    """The state of B answers in the making.

    It is on one device; `step_update_` changes all but `limit`.

    Fields:
        transcript: [B, C] int64; prompt and answer in positions 0 to length - 1.
        length: [B] int64, tokens of the transcript.
        step_start: [B] int64, position of the first token of the last step. To take that step back,
            set `length` to it and `flag` to STEP_CLOSED: the next token then opens a step there.
        score_sum: [B] float64, scores of the last step; at most 512 float32 numbers, whose sum in
            float64 is as good as exact.
        score_count: [B] int64, how many they are.
        flag: [B] uint8, bits of `RowFlag`.
        limit: [B] int64, most tokens of the transcript.
    """

    transcript: Tensor
    length: Tensor
    step_start: Tensor
    score_sum: Tensor
    score_count: Tensor
    flag: Tensor
    limit: Tensor

    @classmethod
    def of_prompts(
        cls,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        device: torch.device | str | None = None,
    ) -> StepState:
        """The state before the first token.

        Each prompt is in a row, with room for the answer.

        Raises:
            ValueError: `max_new_tokens` is negative.
        """
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must not be negative, got {max_new_tokens}")
        lengths = [len(prompt) for prompt in prompts]
        capacity = max(lengths, default=0) + max_new_tokens
        transcript = torch.zeros(len(prompts), capacity, dtype=torch.int64)
        for row, prompt in zip(transcript, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
        length = torch.tensor(lengths, dtype=torch.int64)
        zeros = torch.zeros_like(length)
        fields = (transcript, length, length, zeros.double(), zeros, zeros.byte())
        limit = length + max_new_tokens
        return cls(*(field.clone().to(device or "cpu") for field in (*fields, limit)))


def step_update_(
    state: StepState,
    token: Tensor,
    score: Tensor,
    token_class: Tensor,
    active: Tensor | None = None,
    max_step: int = 512,
) -> None:
    """Take one token of every row, in place.

    Transcript, score and flag change. A row takes its token if it is active, not FINISHED, and
    `length < limit`. If its last step is closed, the token opens the next one: `step_start` moves
    to it, sum and count begin anew. Then the token is appended, its score added where its class
    says COUNTS, and the flag set:

    - STEP_CLOSED and ENDED by a token of class END_OF_TEXT;
    - STEP_CLOSED where the step has said something and its newest token holds the delimiter, or
      completes one that began in the token before it, within the step; or where the step is
      `max_step` tokens long (STEER, arXiv 2511.06190, section 3, as `steer_decode` reads it);
    - FULL where `length` reaches `limit` and the answer has not ENDED. A row without room from the
      start is FULL and takes nothing.

    Rows that are frozen or FINISHED stay bitwise as they are, whatever their token and score. The
    mean score of a step is `score_sum / score_count`, to be read before the next token. On CUDA the
    host waits for nothing, so the call can be part of a captured graph; there a row with a value
    out of its range stays as it is, while on the CPU it is an error and no row changes. A tensor
    that is written may share no memory with another argument; version counters move as those of
    `copy_` do.

    Args:
        state: see `StepState`. Vectors are contiguous, as is the transcript's last dimension.
        token: [B] int64, ids below V.
        score: [B] float32.
        token_class: [V] uint8, see `token_classes`.
        active: [B] bool, rows that take their token; all by default.
        max_step: longest step in tokens, at least 1.

    Raises:
        TypeError: an argument is no tensor or has another dtype; `max_step` is no int.
        ValueError: another rank, size, device or stride; memory that is shared with what is
            written; `max_step` below 1; on the CPU, a token or a value of the state out of its
            range.
    """
    tensors = (*state, token, score, token_class)
    _check(tensors, active, max_step)
    _op(*tensors, active=active, max_step=max_step)


_DTYPES = {
    "transcript": torch.int64,
    "length": torch.int64,
    "step_start": torch.int64,
    "score_sum": torch.float64,
    "score_count": torch.int64,
    "flag": torch.uint8,
    "limit": torch.int64,
    "token": torch.int64,
    "score": torch.float32,
    "token_class": torch.uint8,
    "active": torch.bool,
}


def _check(tensors: Sequence[Tensor], active: Tensor | None, max_step: int) -> None:
    transcript = tensors[0]
    given = tensors if active is None else (*tensors, active)
    for (name, dtype), tensor in zip(_DTYPES.items(), given, strict=False):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {str(dtype)[6:]}, got {tensor.dtype}")
        if tensor.device != transcript.device or tensor.device.type not in _DEVICES:
            raise ValueError(
                f"{name} must be on the device of transcript, a CPU or CUDA device: "
                f"{transcript.device}, got {tensor.device}"
            )
        _check_shape(name, tensor, transcript)
    if not isinstance(max_step, (int, torch.SymInt)) or isinstance(max_step, bool):
        raise TypeError(f"max_step must be an int, got {max_step!r}")
    if max_step < 1:
        raise ValueError(f"max_step must be at least 1, got {max_step}")
    if max_step >= 2**63:
        raise ValueError(f"max_step must be below 2^63, got {max_step}")


def _check_shape(name: str, tensor: Tensor, transcript: Tensor) -> None:
    if tensor.ndim != (2 if name == "transcript" else 1):
        wanted = {"transcript": "[B, C]", "token_class": "[V]"}.get(name, "[B]")
        raise ValueError(f"{name} must have shape {wanted}, got {list(tensor.shape)}")
    if name not in ("transcript", "token_class") and tensor.shape[0] != transcript.shape[0]:
        raise ValueError(
            f"{name} must have shape [{transcript.shape[0]}] (rows of the transcript), got "
            f"{list(tensor.shape)}"
        )
    own_rows = (
        name != "transcript" or tensor.shape[0] <= 1 or tensor.stride(0) >= max(1, tensor.shape[1])
    )
    if (tensor.shape[-1] > 1 and tensor.stride(-1) != 1) or not own_rows:
        raise ValueError(f"{name} must be contiguous, got strides {list(tensor.stride())}")


def _fake(*tensors: Tensor, active: Tensor | None = None, max_step: int = 512) -> None:
    _check(tensors, active, max_step)


def _fallback(*tensors: Tensor, active: Tensor | None = None, max_step: int = 512) -> None:
    """Stands in for a kernel. Checks too: torch.ops can be called past `step_update_`."""
    _check(tensors, active, max_step)
    given = tensors if active is None else (*tensors, active)
    named = list(zip(_DTYPES, given, strict=False))
    refuse_shared(named[:6], named[6:])
    reference.step_update_(*tensors, active=active, max_step=max_step)  # type: ignore[misc, arg-type]


def _cuda_fallback(*tensors: Tensor, active: Tensor | None = None, max_step: int = 512) -> None:
    warnings.warn(
        "step_update_ on CUDA tensors runs on the much slower torch reference, which waits for the "
        "device, as the CUDA part of steer_kernels is not loaded.",
        RuntimeWarning,
        stacklevel=2,
    )
    _fallback(*tensors, active=active, max_step=max_step)


_op = register(
    "step_update_",
    _SCHEMA,
    cpu=_fallback,
    cuda=_cuda_fallback if cuda_extension is None else None,
    fake=_fake,
    written=6,
)
