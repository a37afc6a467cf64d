"""The side door: ``small.generate(**inputs, custom_generate=router)``.

``generate`` of transformers prepares masks, processors and stopping criteria, and then calls the
router in place of its own loop. Whatever it hands over is honoured or refused with a sentence. It
drops some of its arguments without a word before it calls anything: ``streamer``, ``tokenizer``,
``assistant_model`` and ``synced_gpus``. The large model and the tokenizer are therefore the
router's, and a streamer goes by the name ``steer_streamer``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    MaxLengthCriteria,
)
from transformers.generation.streamers import BaseStreamer

from ...core.events import RoutedOutput
from ...core.requests import Hooks
from ...core.sampling import Sampling
from ...core.transcript import Transcript
from ...errors import SteerError
from ...models.pair import Pair, loaded
from ..routing import Routing
from ..stream import Cohort
from .hooks import RowCriteria, RowProcessors, StopText, TokenStream, processors_of_row
from .request import call_eos_ids, check_config, check_model, pad_id, prompt_rows
from .settings import SteerConfig


@dataclass
class RoutedGenerateOutput(GenerateDecoderOnlyOutput):
    """What ``generate`` returns with ``return_dict_in_generate``, and how it came about.

    Attributes:
        steer: for each row its text, ids, trace and cost.
    """

    steer: list[RoutedOutput] | None = None


def custom_generate(
    routing: Routing,
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    steer: Mapping[str, Any] | None = None,
    steer_streamer: BaseStreamer | None = None,
    stop_strings: str | Sequence[str] | None = None,
    token_type_ids: Tensor | None = None,
    **model_kwargs: Any,
) -> Tensor | RoutedGenerateOutput:
    """Answer a batch of prompts, as ``generate`` of transformers asks.

    The arguments with a default are for the caller of ``generate``.

    Args:
        routing: of the router that is called.
        model: its small model, whose ``generate`` was called.
        input_ids: [B, L], pads on the left.
        logits_processor, stopping_criteria: as prepared by ``generate``. Confidence is read before
            the processors. They are called row by row, on [1, l] ids with the pads of the batch,
            and must be functions of these ids, since a step may be taken back.
        generation_config: as prepared by ``generate``; its entry "steer" is read as data. What
            came with the model sets only what ``router`` leaves open.
        steer: settings of the caller's in place of that entry, see :class:`SteerConfig`.
        steer_streamer: a streamer, for one row. It is given what stays.
        stop_strings: texts that end an answer.
        token_type_ids: zeros, which some tokenizers add and most models do not know.
        model_kwargs: what else ``generate`` prepares for a model.

    Returns:
        Ids [B, L + n], pads on the right; or a :class:`RoutedGenerateOutput`.

    Raises:
        SteerError: another model than the small one, or an argument that cannot be honoured; before
            any model runs.
    """
    pair = loaded(routing.pair)
    check_model(pair, model)
    check_config(model, generation_config)
    if steer_streamer is not None and len(input_ids) > 1:
        raise SteerError(
            f"steer_streamer takes one row, got {len(input_ids)}: call generate row by row"
        )
    if token_type_ids is not None and bool(token_type_ids.any()):
        model_kwargs["token_type_ids"] = token_type_ids
    rows = prompt_rows(pair, input_ids, model_kwargs)
    config = SteerConfig.of_call(steer, generation_config, model.generation_config, routing)
    ends = call_eos_ids(pair, stopping_criteria)
    routing = replace(config.apply(routing), ends=frozenset(ends))
    pad = pad_id(routing, generation_config, len(rows))
    criteria = _own_criteria(pair, stopping_criteria, stop_strings)
    hooks = _hooks(routing, input_ids, rows, logits_processor, criteria, generation_config)
    limit = (stopping_criteria.max_length or pair.max_length) - input_ids.shape[1]
    cohort = _cohort(routing, rows, max(1, limit), hooks, config, generation_config)
    _run(routing, cohort, input_ids, steer_streamer)
    outputs = cohort.outputs
    sequences = _pad(input_ids, [output.token_ids for output in outputs], pad)
    if not generation_config.return_dict_in_generate:
        return sequences
    return RoutedGenerateOutput(
        sequences=sequences,
        scores=_kept(hooks, rows, outputs, 1) if generation_config.output_scores else None,
        logits=_kept(hooks, rows, outputs, 0) if generation_config.output_logits else None,
        steer=outputs,
    )


def _own_criteria(
    pair: Pair, criteria: StoppingCriteriaList, stop_strings: str | Sequence[str] | None
) -> StoppingCriteriaList:
    """Those that the loop does not see to by itself."""
    own = [c for c in criteria if not isinstance(c, MaxLengthCriteria | EosTokenCriteria)]
    if stop_strings is not None:
        texts = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings)
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise SteerError(
                f"stop_strings must be a text or a list of texts, none empty, got {stop_strings!r}"
            )
        own.append(StopText(pair.tokenizer, texts))
    return StoppingCriteriaList(own)


def _hooks(
    routing: Routing,
    input_ids: Tensor,
    rows: Sequence[Sequence[int]],
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    config: GenerationConfig,
) -> list[Hooks]:
    """For each row what it is to be shown."""
    pair = loaded(routing.pair)
    width = max(pair.small.config.get_text_config(decoder=True).vocab_size, pair.vocab_size)
    keep = bool(config.return_dict_in_generate and (config.output_scores or config.output_logits))
    hooks = []
    for row, ids in enumerate(rows):
        pads = input_ids[row, : input_ids.shape[1] - len(ids)]
        own = processors_of_row(processors, row, len(rows), routing.ends)
        hooks.append(
            Hooks(
                LogitsProcessorList([RowProcessors(own, pads, width, keep)])
                if own or keep
                else None,
                RowCriteria(criteria, pads) if criteria else None,
            )
        )
    return hooks


def _cohort(
    routing: Routing,
    rows: Sequence[Sequence[int]],
    limit: int,
    hooks: Sequence[Hooks],
    config: SteerConfig,
    generation_config: GenerationConfig,
) -> Cohort:
    # The warpers are among the processors, so what is left to do is to draw.
    sampling = Sampling(temperature=1.0 if generation_config.do_sample else 0.0)
    seed = config.seed
    if seed is None:
        # As users of ``generate`` expect, sampling follows torch's global seed.
        seed = int(torch.randint(2**62, ())) if generation_config.do_sample else 0
    seeds = range(seed, seed + len(rows))
    return Cohort(routing, [Transcript(ids) for ids in rows], limit, sampling, seeds, hooks)


def _run(
    routing: Routing, cohort: Cohort, input_ids: Tensor, streamer: BaseStreamer | None
) -> None:
    if streamer is None:
        for _ in cohort:
            pass
        return
    tokens = TokenStream(streamer, input_ids, routing.policy, cohort.trace(0))
    try:
        for _, event in cohort:
            tokens.show(event)
    finally:
        tokens.end()  # a reader in another thread would wait for ever


def _pad(input_ids: Tensor, answers: Sequence[Sequence[int]], pad: int) -> Tensor:
    longest = max(len(answer) for answer in answers)
    new = [[*answer, *[pad] * (longest - len(answer))] for answer in answers]
    return torch.cat([input_ids, torch.tensor(new, device=input_ids.device)], dim=1)


def _kept(
    hooks: Sequence[Hooks],
    rows: Sequence[Sequence[int]],
    outputs: Sequence[RoutedOutput],
    which: int,
) -> tuple[Tensor, ...]:
    """Raw (0) or processed (1) scores [B, V] for every new token; zero where a row has ended."""
    columns = []
    for hook, ids, output in zip(hooks, rows, outputs, strict=True):
        view = hook.processors[0]  # type: ignore[index]
        kept = [view.recall(len(ids) + i)[which] for i in range(len(output.token_ids))]
        columns.append(torch.stack(kept))
    return tuple(torch.nn.utils.rnn.pad_sequence(columns))
