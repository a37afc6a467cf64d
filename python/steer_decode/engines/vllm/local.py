"""Calls to a vLLM engine in this process.

The engine is stepped by whoever waits, in the thread of the loop: no thread is started and no
server. It needs ``VLLM_ENABLE_V1_MULTIPROCESSING=0`` before vllm is imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ...errors import ServerError, SteerError
from .calls import Arrived, Call


class LocalCarrier:
    """Brings calls to one engine.

    Args:
        engine: an ``LLMEngine`` of vllm.
        name: of the model, for messages.
    """

    def __init__(self, engine: Any, name: str) -> None:
        self._engine, self.name = engine, name
        self._calls: dict[str, Call] = {}
        self._numbers = itertools.count()

    def send(self, call: Call) -> None:
        number = f"steer-{id(self)}-{next(self._numbers)}"
        prompt = {"prompt_token_ids": list(call.order.prompt)}
        try:
            self._engine.add_request(number, prompt, _params(call))
        except Exception as error:  # vLLM's own class for it is no ValueError in all versions
            raise SteerError(f"{self.name} refuses a request: {_line(error)}") from error
        self._calls[number] = call
        call.on_drop = lambda: self._drop(number)

    def _drop(self, number: str) -> None:
        if self._calls.pop(number, None) is not None:
            self._engine.abort_request([number])

    def step(self) -> None:
        """Bring every call one token further."""
        if not self._calls:
            return
        try:
            outputs = self._engine.step()
        except Exception as error:  # whatever ends an engine ends all of its calls
            calls, self._calls = self._calls, {}
            for call in calls.values():
                call.fail(ServerError(f"{self.name} failed at {call.order.place}: {_line(error)}"))
            return
        for output in outputs:
            if (found := self._calls.get(output.request_id)) is not None:
                self._take(found, output)

    def _take(self, call: Call, output: Any) -> None:
        written = output.outputs[0]
        tops = [max(each.logprob for each in place.values()) for place in written.logprobs or ()]
        call.add([Arrived(int(t), top) for t, top in zip(written.token_ids, tops, strict=True)])
        if written.finish_reason is None:
            return
        del self._calls[output.request_id]
        if written.finish_reason in ("stop", "length"):
            call.end(output.num_cached_tokens)
        else:
            call.fail(
                ServerError(
                    f"{self.name} ended {call.order.place} with finish_reason "
                    f"{written.finish_reason!r}: look into its log"
                )
            )


def stepping(carriers: Sequence[LocalCarrier]) -> Any:
    """One step of each engine that has calls.

    It has to be done for anything to come.
    """

    def pump() -> None:
        for carrier in carriers:
            carrier.step()

    return pump


def _params(call: Call) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    order = call.order
    sampling = order.sampling
    drawn = (
        {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": min(sampling.top_k, 2**30),
            "min_p": sampling.min_p,
            "seed": order.seed,
        }
        if sampling.temperature
        else {"temperature": 0.0}
    )
    return SamplingParams(
        max_tokens=order.most,
        stop_token_ids=list(order.stops),
        ignore_eos=True,
        logprobs=1,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args=call.xargs or None,
        **drawn,
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
