"""The arguments of the gate, as they travel in ``vllm_xargs``.

The gate is a logits processor inside a vLLM server (``gate_v1``, ``gate_v2``). It reads the model's
logits, sees where steps close, and ends a request where the model is to hand over: it forces the
token HANDOFF, on which the request stops. Without these arguments it leaves a request alone.
HANDOFF in the middle of a step says that the gate could not judge (see :class:`GateArgs`).

Nothing here needs torch or vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ...core.gate_rule import SCORES, GateRule, Region
from ...core.transcript import Writer
from ...errors import SteerError
from ...util.checks import one_of, whole
from ...util.text import short

PREFIX = "steer_"
ID = f"{PREFIX}id"
PROBE: Final[Mapping[str, str]] = {"steer_probe": "is the gate there?"}
_HERE = "the gate of steer is here"
SIGNALS = ("max-logit", "max-prob", "entropy", "margin")  # core.signals, whose import needs torch
MOST_BINS, MOST_INTERVALS = 16, 4  # of a rule, which has a fixed place on the device
LONGEST_ID, LONGEST_TEXT, MOST = 128, 4096, 2**31
MAX_STEP_TOKENS = 512


class Judging(Protocol):
    """A policy, as far as the gate goes by it."""

    def gate_rule(self, writer: Writer) -> GateRule | None: ...


@dataclass(frozen=True)
class GateArgs:
    """What the gate is told with a request.

    A request writes from the beginning of a step to where its model is to hand over. The gate
    forces HANDOFF

    - before a step: in place of its first token, whose signal is outside ``rule.before``;
    - after a step: in place of the next one's first token, where the step's score is outside
      ``rule.after``;
    - within a step: where it could not judge, since logits were NaN or the engine lost what was
      read of them. What stands before it was written without a judgement.

    Everywhere else HANDOFF is masked, as are the columns of logits that are no tokens.

    Attributes:
        id: of this request, one that no other has: a preempted request finds its values by it.
        handoff: id of HANDOFF, one that no text uses; the request must have it in
            ``stop_token_ids``.
        rule: where the model goes on.
        step: index of the step that the request begins with.
        delimiter: what closes a step.
        max_step: most tokens of a step.

    Raises:
        SteerError: a value of another type or out of its range; the message names it.
    """

    id: str
    handoff: int
    rule: GateRule = field(default_factory=GateRule)
    step: int = 0
    delimiter: str = "\n\n"
    max_step: int = MAX_STEP_TOKENS

    def __post_init__(self) -> None:
        _text("id", self.id, LONGEST_ID)
        _text("delimiter", self.delimiter, LONGEST_ID)
        _range("handoff", self.handoff, 0)
        _range("step", self.step, 0)
        _range("max_step", self.max_step, 1)
        one_of(f"{PREFIX}signal", self.rule.signal, SIGNALS)
        one_of(f"{PREFIX}score", self.rule.score, SCORES)
        if len(self.rule.after) > MOST_BINS:
            raise SteerError(
                f"{PREFIX}after has at most {MOST_BINS} regions, got {len(self.rule.after)}"
            )
        for region in (self.rule.before, *self.rule.after):
            if region is not None and len(region.intervals) > MOST_INTERVALS:
                raise SteerError(
                    f"{PREFIX}before and {PREFIX}after have at most {MOST_INTERVALS} intervals a "
                    f"region, got {short(str(region))}"
                )

    @classmethod
    def from_policy(cls, policy: Judging, writer: Writer, **rest: Any) -> GateArgs | None:
        """The arguments with which ``writer``'s server routes as ``policy`` does.

        Args:
            policy: whose rule it is.
            writer: who writes.
            rest: the other fields.

        Returns:
            None where the policy has to be asked after each step.
        """
        rule = policy.gate_rule(writer)
        return None if rule is None else cls(rule=rule, **rest)

    @property
    def xargs(self) -> dict[str, str | int]:
        """The value of ``vllm_xargs``, or ``SamplingParams.extra_args``."""
        rule = self.rule
        found: dict[str, str | int] = {
            "id": self.id,
            "handoff": self.handoff,
            "signal": rule.signal,
            "score": rule.score,
            "step": self.step,
            "delimiter": self.delimiter,
            "max_step": self.max_step,
        }
        if rule.before is not None:
            found["before"] = str(rule.before)
        if rule.after:
            found["after"] = ";".join(map(str, rule.after))
        return {PREFIX + name: value for name, value in found.items()}

    @classmethod
    def read(cls, extra: Mapping[str, Any] | None) -> GateArgs | None:
        """The gate's arguments among a request's.

        None where there are none.

        Raises:
            SteerError: an argument that is missing, unknown or malformed; the message names it.
                To the question of :data:`PROBE` as well, so that a server without a gate, which
                ignores what it does not know, can be told from one that has it.
        """
        given = {
            name.removeprefix(PREFIX): value
            for name, value in (extra or {}).items()
            if isinstance(name, str) and name.startswith(PREFIX)
        }
        if not given:
            return None
        if "probe" in given:
            raise SteerError(f"{_HERE}: {PREFIX}probe asks for nothing else")
        unknown = [name for name in given if name not in _NAMES]
        if unknown:
            raise SteerError(
                f"unknown argument {short(PREFIX + unknown[0])} of the gate: it takes "
                f"{', '.join(PREFIX + name for name in _NAMES)}"
            )
        missing = [name for name in ("id", "handoff") if name not in given]
        if missing:
            raise SteerError(f"the gate needs {PREFIX}{missing[0]}: give it with the others")
        return cls(rule=_rule(given), **{k: v for k, v in given.items() if k not in _OF_RULE})


_OF_RULE = ("signal", "before", "after", "score")
_NAMES = ("id", "handoff", *_OF_RULE, "step", "delimiter", "max_step")


# What a gate has to read as it left the model, and what would be taken for it: by name, and unset.
_UNCHANGED: Final[Mapping[str, tuple[Any, ...]]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "min_tokens": (None, 0),
    "logit_bias": (None, {}),
    "bad_words": (None, []),
    "allowed_token_ids": (None, []),
    "structured_outputs": (None,),
    "n": (None, 1),
}


def check_request(params: Any) -> None:
    """Refuse a request that no gate can follow.

    At the server's door an error is the request's own.

    Args:
        params: ``SamplingParams`` of vLLM.

    Raises:
        SteerError: a ``ValueError``, to which the server answers 400: arguments as for
            :meth:`GateArgs.read`; a request that does not stop on HANDOFF; one with ``n`` answers,
            which would share an id; or one that changes logits before the gate reads them.
    """
    args = GateArgs.read(params.extra_args)
    if args is None:
        return
    if args.handoff not in (params.stop_token_ids or ()):
        raise SteerError(
            f"{PREFIX}handoff is {args.handoff}, on which the request does not stop: give it in "
            "stop_token_ids"
        )
    for name, unset in _UNCHANGED.items():
        value = getattr(params, name, None)
        if value not in unset:
            raise SteerError(
                f"the gate follows one answer and reads raw logits: leave out {name}, "
                f"got {short(value)}"
            )


def is_gated(status: int, body: str) -> bool:
    """Whether a server that was sent :data:`PROBE` has the gate.

    Args:
        status: of its answer; 400 is what the gate gives.
        body: of that answer.
    """
    return status == 400 and _HERE in body


def _rule(given: Mapping[str, Any]) -> GateRule:
    rule: dict[str, Any] = {name: given[name] for name in ("signal", "score") if name in given}
    if "before" in given:
        rule["before"] = _region("before", given["before"])
    if "after" in given:
        text = _text("after", given["after"], LONGEST_TEXT)
        rule["after"] = tuple(_region("after", part) for part in text.split(";"))
    return GateRule(**rule)


def _region(name: str, value: Any) -> Region:
    try:
        return Region.parse(_text(name, value, LONGEST_TEXT))
    except SteerError as error:
        raise SteerError(f"{PREFIX}{name}: {error}") from None


def _text(name: str, value: Any, longest: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise SteerError(
            f"{PREFIX}{name} must be a text of 1 to {longest} characters, got {short(value)}"
        )
    return value


def _range(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not least <= whole(PREFIX + name, value) < MOST:
        raise SteerError(f"{PREFIX}{name} must be from {least} to {MOST - 1}, got {value!r}")
