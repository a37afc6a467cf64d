"""A request as tickets: checked, with prompts as ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import SteerError
from ..models.two_models import TwoModels
from .choices import Choices
from .refusals import Refusal
from .requests import MOST_CHOICES, AnyRequest, ChatRequest, TextRequest
from .tickets import EngineRequest, Ticket


class Intake:
    """Makes tickets of requests.

    Args:
        pair: whose prompts they are.
        choices: the routers.
        max_new_tokens, temperature: of an answer where the request says nothing.
        timeout: seconds that a request may take.
    """

    def __init__(
        self,
        pair: TwoModels,
        choices: Choices,
        max_new_tokens: int,
        temperature: float,
        timeout: float,
    ) -> None:
        self._pair, self._choices = pair, choices
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self._timeout = timeout
        # One at a time: tokenizers are not made for several threads.
        self._encoders = ThreadPoolExecutor(1, thread_name_prefix="steer-encoder")

    async def tickets(self, asked: ChatRequest | TextRequest) -> list[Ticket]:
        """The tickets of a request.

        There is one for each choice of each prompt.

        Raises:
            Refusal: something in it cannot be answered.
        """
        asked.refuse()
        policy = self._choices.policy(asked.model, asked.steer)
        log_probs = asked.log_probs
        if log_probs is not None and self._pair.elsewhere:
            raise Refusal(
                400,
                "logprobs cannot be had of models that give raw logits: leave it out",
                "logprobs",
            )
        if isinstance(asked, ChatRequest):
            conversation, told = asked.conversation(), asked.chat_template_kwargs
            prompts = [await self._encoded(conversation, None, told, "messages")]
        else:
            given = asked.prompts()
            prompts = [await self._encoded(prompt, False, None, "prompt") for prompt in given]
        n = asked.n or 1
        if n * len(prompts) > MOST_CHOICES:
            raise Refusal(
                400, f"n times prompts must be at most {MOST_CHOICES}, got {n * len(prompts)}", "n"
            )
        now = time.monotonic()
        trace = asked.steer is not None and asked.steer.trace
        options = {"log_probs": log_probs, **self._options(asked)}
        seed, wake = _seed(asked), asyncio.Event()
        return [
            Ticket(
                EngineRequest(
                    ids,
                    policy,
                    {**options, "seed": seed + i},
                    asked.stops,
                    trace,
                    now,
                    now + self._timeout,
                ),
                wake,
            )
            for ids in prompts
            for i in range(n)
        ]

    def _options(self, asked: AnyRequest) -> dict[str, Any]:
        given = asked.temperature
        return {
            "max_new_tokens": asked.most_tokens or self._max_new_tokens,
            "temperature": self._temperature if given is None else given,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "top_k": max(0, asked.top_k or 0),
            "min_p": asked.min_p or 0.0,
            "chat": False,
        }

    async def _encoded(
        self, prompt: Any, chat: bool | None, told: Mapping[str, Any] | None, name: str
    ) -> list[int]:
        encode = self._pair.encode
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._encoders, encode, prompt, chat, told)
        except SteerError as error:
            raise Refusal.of(error, name) from error


def _seed(asked: AnyRequest) -> int:
    if asked.seed is not None:
        return asked.seed
    return time.time_ns() % 2**31
