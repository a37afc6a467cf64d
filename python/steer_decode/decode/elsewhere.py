"""Which routers models elsewhere can serve.

A server of vLLM gives the tokens that it writes, and the largest raw logit at each. So whatever is
decided after a step by that is exact. The rest is refused by name, before anything is written.
"""

from __future__ import annotations

from ..core.signals import SIGNALS
from ..errors import SteerError
from ..policies import Policy

EXACT = SIGNALS["max-logit"]
OTHERS = "steer:threshold=X, foreal, random, small and large are served exactly"


def check_served(policy: Policy) -> None:
    """Refuse a router that a server cannot serve.

    Raises:
        SteerError: it judges rounds, has drafts graded, asked about or verified, or reads another
            signal than the largest logit.
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
    if policy.signal is not EXACT:
        raise SteerError(
            f"{name} reads the signal {policy.signal.name!r}, which needs the gate inside the "
            "servers: start them with what `steer vllm-args` prints, set signal=max-logit where "
            f"the router has that setting, or load the models here; {OTHERS}"
        )
