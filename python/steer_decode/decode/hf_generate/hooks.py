"""Processors, stopping criteria and streamers of ``generate``, row by row.

``generate`` of transformers keeps a batch in step: all rows are equally long, pads on the left.
Here rows grow apart, since a step of one may be taken back, and carry no pads. So a processor is
shown one row at a time, as ``generate`` would show it: pads put back, scores as wide as the small
model's head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    LogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    TemperatureLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.streamers import BaseStreamer

from ...core.events import Event
from ...core.token_text import START, TokenTexts
from ...core.trace import Trace
from ...errors import SteerError
from ...policies import Policy
from ..staying import Staying

# They remember what they were shown, and a step that was taken back cannot be unseen.
_REMEMBER = {
    UnbatchedClassifierFreeGuidanceLogitsProcessor: "guidance_scale",
    SynthIDTextWatermarkLogitsProcessor: "watermarking_config of SynthID",
}
_END = (MinLengthLogitsProcessor, MinNewTokensLengthLogitsProcessor)
_REST = 3  # bytes of a character behind its first
_DIVISIBLE = 1e-30, 1e30  # temperatures by which scores in float32 can be divided


def processors_of_row(
    processors: LogitsProcessorList, row: int, rows: int, eos_ids: Iterable[int]
) -> LogitsProcessorList:
    """The same processors for one row alone.

    Args:
        processors: as ``generate`` prepared them, for a batch of ``rows``.
        row: which of the batch.
        rows: how many there are.
        eos_ids: what ends an answer, for those that keep it from ending early.

    Raises:
        SteerError: a processor that cannot forget a step.
    """
    return LogitsProcessorList(_of_row(p, row, rows, eos_ids) for p in processors)


def _of_row(processor: Any, row: int, rows: int, eos_ids: Iterable[int]) -> Any:
    for kind, option in _REMEMBER.items():
        if isinstance(processor, kind):
            raise SteerError(
                f"{option} is not supported in routed decoding: {kind.__name__} remembers tokens, "
                "and a step may be taken back; leave it out"
            )
    if isinstance(processor, TemperatureLogitsWarper):
        low, high = _DIVISIBLE
        within = low <= processor.temperature <= high
        return processor if within else ExtremeTemperature(processor.temperature)
    own = copy.copy(processor)
    if isinstance(own, RepetitionPenaltyLogitsProcessor):
        if isinstance(own.prompt_ignore_length, Tensor):
            own.prompt_ignore_length = own.prompt_ignore_length[row : row + 1]
    elif isinstance(own, EncoderRepetitionPenaltyLogitsProcessor):
        prompt = row * len(own.encoder_input_ids) // rows
        own.encoder_input_ids = own.encoder_input_ids[prompt : prompt + 1]
    elif isinstance(own, EncoderNoRepeatNGramLogitsProcessor):
        own.generated_ngrams = [own.generated_ngrams[row * own.batch_size // rows]]
        own.batch_size = 1
    elif isinstance(own, PrefixConstrainedLogitsProcessor):
        own._prefix_allowed_tokens_fn = _numbered(
            own._prefix_allowed_tokens_fn, row // own._num_beams
        )
        own._num_beams = 1
    elif isinstance(own, _END):
        own.eos_token_id = torch.tensor(
            sorted(eos_ids), dtype=torch.long, device=own.eos_token_id.device
        )
    else:
        return processor  # as it is: a user's own may be found again by who gave it
    return own


def _numbered(allowed: Callable[[int, Tensor], list[int]], batch_id: int) -> Any:
    return lambda _, ids: allowed(batch_id, ids)


class ExtremeTemperature(LogitsProcessor):
    """Division of scores by a temperature that would overflow float32.

    Such a temperature is very small or very large. All scores are lowered by the largest first,
    which changes no probability: what is left in the limit is that one alone, or every score that
    is not masked alike.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        lowered = scores.double() - scores.max(dim=-1, keepdim=True).values
        return (lowered / self._temperature).to(scores.dtype)


class RowProcessors(LogitsProcessor):
    """What ``generate`` would do to the scores of one row.

    Args:
        processors: of this row.
        pads: ids that stand before the row in the batch [p].
        width: scores that a processor expects; ids beyond the pair's vocabulary are given -inf.
        keep: remember the scores before and after, for :meth:`recall`.
    """

    def __init__(
        self, processors: LogitsProcessorList, pads: Tensor, width: int, keep: bool
    ) -> None:
        self._processors = processors
        self._pads = pads[None]
        self._width = width
        self._keep = keep
        # By length of the text, so that what is written in the place of a step taken back wins.
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        device = self._pads.device
        ids = torch.cat([self._pads, input_ids.to(device)], dim=1)
        raw = torch.full((1, self._width), -torch.inf, device=device)
        raw[:, : scores.shape[1]] = scores
        processed = self._processors(ids, raw.clone() if self._keep else raw)
        if self._keep:
            self._kept[input_ids.shape[1]] = raw[0], processed[0]
        return processed[:, : scores.shape[1]].to(scores.device)

    def recall(self, length: int) -> tuple[Tensor, Tensor]:
        """Scores [width] that one token was drawn from.

        The raw and the processed ones of the token after a text of ``length`` tokens.
        """
        return self._kept[length]


class RowCriteria:
    """Stopping criteria as a function of one row's ids.

    Args:
        criteria: of ``generate``.
        pads: ids that stand before the row in the batch [p].
    """

    def __init__(self, criteria: StoppingCriteriaList, pads: Tensor) -> None:
        self._criteria = criteria
        self._pads = pads.tolist()
        self._device = pads.device

    def __call__(self, ids: list[int]) -> bool:
        """Whether the row ends with ``ids``."""
        whole = torch.tensor([[*self._pads, *ids]], device=self._device)
        return bool(torch.as_tensor(self._criteria(whole, None)).all())


class StopText(StoppingCriteria):
    """A criterion that ends a row behind one of ``texts``.

    It ends the row at the token that completes the text. It looks at a tail of the row, since
    ``StopStringCriteria`` of transformers wants every letter in the vocabulary, which not all
    tokenizers have.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer  # held, as what reads its tokens does not hold it
        self._texts = texts
        self._of_tokens = TokenTexts.of(tokenizer)
        # A token is a byte at least; one more gives the first of them its neighbour, and of a
        # character that the tail begins within there are three more at most.
        self._tail = max(len(text.encode()) for text in texts) + 1 + _REST

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        done = [self._completes(ids) for ids in input_ids[:, -self._tail :].tolist()]
        return torch.tensor(done, device=input_ids.device)

    def _completes(self, ids: list[int]) -> bool:
        # The rest of a character, without its beginning, would break the bytes behind it.
        while ids and self._of_tokens.continues(ids[0]):
            ids = ids[1:]
        text, old, state = "", 0, START
        for token in ids:
            piece, state = self._of_tokens.push(state, token)
            old, text = len(text), text + piece
        return any(stop in text[max(0, old + 1 - len(stop)) :] for stop in self._texts)


class TokenStream:
    """Tokens for a streamer: those that stay, see :class:`~..staying.Staying`.

    Args:
        streamer: of transformers; it is given the prompt, then one token at a time.
        prompt_ids: [1, L].
        policy: who may take steps back.
        trace: of the answer.
    """

    def __init__(
        self, streamer: BaseStreamer, prompt_ids: Tensor, policy: Policy, trace: Trace
    ) -> None:
        self._streamer = streamer
        self._staying = Staying(policy, trace)
        streamer.put(prompt_ids.cpu())

    def show(self, event: Event) -> None:
        for delta in self._staying.show(event):
            self._streamer.put(torch.tensor([delta.token_id]))

    def end(self) -> None:
        self._streamer.end()
