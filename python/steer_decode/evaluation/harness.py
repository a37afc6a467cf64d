"""A routed pair as a model of lm-eval.

It writes answers, so tasks whose ``output_type`` is ``generate_until`` are answered; those that ask
for likelihoods are refused by name. Import it where lm-eval is installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

from lm_eval.api.model import LM

from ..core.transcript import WRITERS
from ..decode.router import Router
from ..errors import SteerError

BlankLine = Literal["refuse", "stop", "ignore"]
BLANK = "\n\n"
_COSTS = ("flops_paper", "flops_processed", "bytes_read", "seconds")
_TAKEN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p", "seed"}


class RoutedLM(LM):
    """Two models as one of the harness.

    Args:
        router: who answers.
        cohort: answers that are written together.
        max_new_tokens: of an answer where its task says nothing.
        blank_line: what becomes of a task that stops at a blank line, which the harness makes of
            every task that names no stop. Steps of a routed answer end at blank lines, so most
            answers would be cut after their first step.

    Raises:
        SteerError: another ``blank_line``.
    """

    def __init__(
        self,
        router: Router,
        cohort: int = 16,
        max_new_tokens: int = 1024,
        blank_line: BlankLine = "refuse",
    ) -> None:
        super().__init__()
        if blank_line not in get_args(BlankLine):
            raise SteerError(
                f"blank_line must be one of {', '.join(get_args(BlankLine))}, got {blank_line!r}"
            )
        self._router, self._cohort = router, cohort
        self._max_new_tokens, self._blank_line = max_new_tokens, blank_line
        self._costs = dict.fromkeys(_COSTS, 0.0)
        self._tokens = dict.fromkeys(WRITERS, 0)
        self._answers = 0

    @property
    def tokenizer_name(self) -> str:
        """Part of the harness' cache keys for templates.

        Of what makes a prompt, not of the weights: those on servers cannot be seen.
        """
        pair = self._router.pair
        told = getattr(pair.template_owner, "chat_template", None)
        words = sorted(pair.tokenizer.get_vocab().items())
        return f"steer-{hashlib.sha256(json.dumps([words, told]).encode()).hexdigest()[:16]}"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a conversation, by the pair's template."""
        return self._router.pair.render(chat_history)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer each request, together with those that are drawn alike."""
        alike: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            options = self._options(request)
            alike.setdefault(json.dumps(options, sort_keys=True), []).append(i)
        texts = [""] * len(requests)
        for key, some in alike.items():
            for at in range(0, len(some), self._cohort):
                rows = some[at : at + self._cohort]
                prompts = [requests[i].args[0] for i in rows]
                outputs = self._router.cohort(prompts, chat=False, **json.loads(key))
                for i, output in zip(rows, outputs, strict=True):
                    self._count(output)
                    texts[i] = self._cut(output.text, self._stops(requests[i]))
        return texts

    def loglikelihood(self, requests: Sequence[Any], *args: Any, **options: Any) -> Any:
        """Refuse the tasks that ask for likelihoods."""
        raise self._no_likelihoods(requests)

    def loglikelihood_rolling(self, requests: Sequence[Any], *args: Any, **options: Any) -> Any:
        """Refuse the tasks that ask for likelihoods."""
        raise self._no_likelihoods(requests)

    @property
    def totals(self) -> dict[str, Any]:
        """The four costs and tokens by writer, of all answers."""
        return {"answers": self._answers, **self._costs, "tokens": dict(self._tokens)}

    def _options(self, request: Any) -> dict[str, Any]:
        given = dict(request.args[1])
        unknown = sorted(set(given) - _TAKEN)
        if unknown:
            raise SteerError(
                f"task {request.task_name!r} sets {unknown[0]!r} in generation_kwargs, which a "
                f"routed pair does not take: it takes {', '.join(sorted(_TAKEN))}"
            )
        self._stops(request)
        drawn = given.get("do_sample", bool(given.get("temperature")))
        options: dict[str, Any] = {
            "max_new_tokens": int(given.get("max_gen_toks") or self._max_new_tokens),
            "temperature": float(given.get("temperature") or 1.0) if drawn else 0.0,
            "seed": int(given.get("seed") or 0),
        }
        return options | {k: given[k] for k in ("top_p", "top_k", "min_p") if k in given}

    def _stops(self, request: Any) -> list[str]:
        until = request.args[1].get("until") or []
        stops = [until] if isinstance(until, str) else [text for text in until if text]
        if BLANK not in stops or self._blank_line == "stop":
            return stops
        if self._blank_line == "ignore":
            return [text for text in stops if text != BLANK]
        raise SteerError(
            f"task {request.task_name!r} stops at a blank line, where a step of a routed answer "
            "ends (the harness' own default where a task names no `until`): name other texts in "
            "the task's generation_kwargs, or say --blank-line ignore, or --blank-line stop"
        )

    @staticmethod
    def _cut(text: str, stops: Sequence[str]) -> str:
        ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
        return text[: min(ends)] if ends else text

    def _count(self, output: Any) -> None:
        self._answers += 1
        for name in self._costs:
            self._costs[name] += getattr(output.cost, name)
        for step in output.trace.kept:
            for writer in WRITERS:
                self._tokens[writer] += step.by(writer)

    @staticmethod
    def _no_likelihoods(requests: Sequence[Any]) -> SteerError:
        name = requests[0].task_name if requests else ""
        return SteerError(
            f"task {name!r} asks for likelihoods, and a routed pair writes answers: choose a task "
            "whose output_type is generate_until"
        )
