"""SpecReason (arXiv 2504.07891): the large model grades every draft.

Faithful: the small model drafts each step; the large model reads it and gives it a grade from 0 to
9, as one token behind a prompt; below 7 the draft is taken back and the large model writes the
step; the next step is drafted by the small model again. Ours: the words of the prompt; the grade is
read off the logits of the ten digits, so that no token is sampled; a draft that the large model
could not be asked about, as its context is full, is taken back.

Not the paper's, and the default, since a model without a chat template cannot be asked anything:
``grade="log-prob"``, the mean log-probability of the draft's tokens under the large model.

Grading is no writing: FLOPs as papers count them leave it out. It is in the other three costs.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from ..core.trace import Step
from ..core.transcript import Writer
from ..errors import SteerError
from ..models.two_models import TwoModels
from ..util import checks
from .base import REDO, Policy, Question, Redo

DEFAULTS = {"log-prob": -0.5, "digit": 7.0, "expected-digit": 7.0}

_REQUEST = (
    "Judge the last step of the solution so far. Is it correct, and does it bring the answer "
    "nearer? Reply with one digit only, from 0 (wrong or useless) to 9 (correct and useful)."
)
_PLACE = "(the solution so far)"
# A digit may be a token of its own, or one with the space before it.
_LEADS = (("Score:", " "), ("Score: ", ""), ("Score:", ""), ("", ""))


class SpecReason(Policy):
    """Large model where its grade of a draft is low.

    The small model drafts every step; below ``threshold`` the large one writes it itself.

    Args:
        threshold: least grade of a draft that stays: nats a token for "log-prob", by default -0.5;
            0 to 9 for digits, by default 7.
        grade: "log-prob"; "digit", the likeliest of the ten; or "expected-digit", their mean. The
            last two need chat models.

    Raises:
        SteerError: an unknown grade, or a threshold that is no number.
    """

    name: ClassVar[str] = "spec-reason"

    def __init__(self, threshold: float | None = None, grade: str = "log-prob") -> None:
        self.grade = checks.one_of("grade", grade, DEFAULTS)
        self.threshold = checks.threshold(
            "threshold", DEFAULTS[grade] if threshold is None else threshold
        )
        self.grades = grade == "log-prob"
        # Of each pair, while there is one: an answer begins without tokenising the request anew.
        self._questions: WeakKeyDictionary[TwoModels, Question] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        # What is remembered of pairs goes by their identity, which a copy in a pickle has not.
        return {key: value for key, value in vars(self).items() if key != "_questions"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _questions=WeakKeyDictionary())

    def check(self, pair: TwoModels) -> None:
        self.question(pair)

    def question(self, pair: TwoModels) -> Question | None:
        if self.grades:
            return None
        if pair not in self._questions:
            self._questions[pair] = grading_question(pair)
        return self._questions[pair]

    def stays(self, step: Step) -> bool:
        return step.writer == "large"

    def after_step(self, step: Step) -> Writer | Redo:
        if step.writer == "large":
            return "small"
        return "small" if self.grade_of(step) >= self.threshold else REDO

    def grade_of(self, step: Step) -> float:
        """The grade of a draft.

        NaN, which is never enough, where there is none.
        """
        if self.grades:
            return sum(step.graded) / len(step.graded) if step.graded else math.nan
        if not step.answers:
            return math.nan
        if self.grade == "digit":
            return float(max(range(10), key=lambda digit: step.answers[digit]))
        top = max(step.answers)
        weights = [math.exp(value - top) for value in step.answers]
        return sum(digit * w for digit, w in enumerate(weights)) / sum(weights)

    def __str__(self) -> str:
        return f"{self.name}:threshold={self.threshold:g}:grade={self.grade}"


def grading_question(pair: TwoModels) -> Question:
    """The request for a grade, behind an unfinished answer.

    In the large model's template.

    Raises:
        SteerError: there is no chat template, it cannot be continued, or digits are not tokens.
    """
    tokenizer = pair.large_tokenizer or pair.tokenizer
    if getattr(tokenizer, "chat_template", None) is None:
        owner = pair.template_owner
        tokenizer = tokenizer if owner is None else owner
    if getattr(tokenizer, "chat_template", None) is None:
        raise SteerError(
            "router 'spec-reason' cannot ask for a digit: neither model has a chat template; "
            "use grade=log-prob"
        )
    messages = [
        {"role": "user", "content": "(the question)"},
        {"role": "assistant", "content": _PLACE},
        {"role": "user", "content": _REQUEST},
    ]
    try:
        text = str(
            tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        )
    except Exception as error:  # whatever a template of somebody's raises
        raise SteerError(
            f"router 'spec-reason' cannot ask for a digit: the chat template fails ({error}); "
            "use grade=log-prob"
        ) from error
    _, found, behind = text.rpartition(_PLACE)
    for lead, space in _LEADS if found else ():
        ids = pair.tokenize(behind + lead)
        digits = [pair.tokenize(f"{behind}{lead}{space}{digit}") for digit in range(10)]
        if all(d[:-1] == ids for d in digits) and len({d[-1] for d in digits}) == 10:
            return Question(tuple(pair.checked(ids)), tuple(d[-1] for d in digits))
    raise SteerError(
        "router 'spec-reason' cannot ask for a digit: "
        + ("no digit is one token" if found else "the chat template does not repeat the answer")
        + " in this pair; use grade=log-prob"
    )
