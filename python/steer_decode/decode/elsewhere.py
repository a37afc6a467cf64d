"""Which routers models elsewhere can serve.

A server of vLLM gives the tokens that it writes, and the largest raw logit at each. So whatever is
decided after a step by that is exact. The gate inside the small model's server looks before a step
by any signal and tells its verdict. The rest is refused by name, before anything is written.
"""

from __future__ import annotations

from ..core.signals import SIGNALS
from ..errors import SteerError
from ..policies import Policy

TOLD = SIGNALS["max-logit"]
OTHERS = "steer:threshold=X, foreal, random, small and large are served exactly"


def looks_by_gate(policy: Policy, gated: bool) -> bool:
    """Whether the gate looks before steps in the policy's place."""
    rule = policy.gate_rule("small") if gated and policy.looks_ahead else None
    return rule is not None and rule.before is not None


def check_served(policy: Policy, gated: bool = True) -> None:
    """Refuse a router that a server cannot serve.

    Args:
        policy: the router.
        gated: the gate is in the small model's server, or may be.

    Raises:
        SteerError: it judges rounds, has drafts graded, asked about or verified, or reads another
            signal than the largest logit, which the gate does not read for it.
    """
    name = f"router {policy.name!r}"
    reads = "for which vLLM reads the whole text anew, without its prefix cache"
    if policy.in_rounds:
        raise SteerError(
            f"{name} judges the answers of a cohort in rounds, for which the rows of two servers "
            f"would wait for each other: load the models here, or choose another router; {OTHERS}"
        )
    if policy.drafting is not None:
        raise SteerError(
            f"{name} has drafts verified by the large model, {reads}: leave drafts out, or load "
            f"the models here; {OTHERS}"
        )
    asks = type(policy).question is not Policy.question
    if policy.grades or asks:
        raise SteerError(
            f"{name} has the large model grade every draft, {reads}: load the models here, or "
            f"choose another router; {OTHERS}"
        )
    if policy.signal is TOLD or looks_by_gate(policy, gated):
        return
    if looks_by_gate(policy, True):
        raise SteerError(
            f"{name} reads the signal {policy.signal.name!r}, which needs the gate inside the "
            "small model's server: start it with what `steer vllm-args` prints, set "
            f"signal=max-logit, or load the models here; {OTHERS}"
        )
    raise SteerError(
        f"{name} reads the signal {policy.signal.name!r} of whole steps, or has a rule that no "
        "server can be told, and a server tells the largest logit alone: set signal=max-logit "
        "where the router has that setting, or load the models here; first-token (with the gate), "
        f"{OTHERS}"
    )
