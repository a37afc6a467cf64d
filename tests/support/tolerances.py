"""How far a kernel may be from the float64 definition: the one table, and the comparison.

The rule: at most twice the error that torch's own float32 chain makes on the same input, plus a
small absolute term and the rounding of the float32 result. Top-k, ids, maximum and `valid` are
exact. The input's dtype does not appear: logits are read as they are, and the low precision of the
input is part of the input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tolerance(NamedTuple):
    times_torch: float  # multiple of the error of torch's chain
    absolute: float
    relative: float  # to the expected value


LOGIT_STATS = {
    "max_logit": Tolerance(0.0, 0.0, 0.0),
    "topk_logits": Tolerance(0.0, 0.0, 0.0),
    "lse": Tolerance(2.0, 5e-7, 1.2e-7),  # nats
    "entropy": Tolerance(2.0, 1e-6, 2.4e-7),  # nats
}

# Against torch's attention in the dtype of the operands. The result is rounded to that dtype, and
# weights are good to 5e-7 of themselves. Where torch is exact by chance, as for a single key, the
# absolute term is all there is.
DECODE_ATTENTION = {
    torch.float32: Tolerance(2.0, 2e-6, 2e-6),
    torch.bfloat16: Tolerance(2.0, 1e-6, 2.0**-8),
    torch.float16: Tolerance(2.0, 1e-6, 2.0**-11),
}


def torch_chain(logits: Tensor) -> dict[str, Tensor]:
    """lse and entropy as one writes them in torch, in float32, for the error that torch makes."""
    x = logits.float()
    logprobs = torch.log_softmax(x, -1)
    terms = torch.where(logprobs > -torch.inf, logprobs.exp() * logprobs, 0.0)
    return {"lse": torch.logsumexp(x, -1), "entropy": -terms.sum(-1)}


def assert_close(
    name: str, actual: Tensor, expected: Tensor, by_torch: Tensor | None, tolerance: Tolerance
) -> None:
    """Compare one output with its float64 definition and name the worst element if it is off.

    NaN and infinities must stand in the same places. `by_torch` is what torch's chain gives.
    """
    actual, expected = actual.double(), expected.double()
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape} for {expected.shape}"
    finite = expected.isfinite()
    same = torch.equal(actual[~finite].nan_to_num(nan=0.5), expected[~finite].nan_to_num(nan=0.5))
    assert same, f"{name}: {actual[~finite]} where {expected[~finite]} is expected"

    error = (actual - expected).abs()
    allowed = tolerance.absolute + tolerance.relative * expected.abs()
    if by_torch is not None:  # which may be NaN where the definition is not: that allows nothing
        by_torch = (by_torch.double() - expected).abs()
        allowed = allowed + tolerance.times_torch * by_torch.where(by_torch.isfinite(), 0.0)
    excess = torch.where(finite, error - allowed, -torch.inf)
    excess = torch.where(finite & ~actual.isfinite(), torch.inf, excess)
    if excess.numel() and excess.max() > 0:
        at = int(excess.argmax())
        raise AssertionError(
            f"{name}: {int((excess > 0).sum())} of {excess.numel()} off, the worst at {at}: "
            f"{actual.flatten()[at]:.9g} for {expected.flatten()[at]:.9g}, error "
            f"{error.flatten()[at]:.3g}, allowed {allowed.flatten()[at]:.3g}"
        )
