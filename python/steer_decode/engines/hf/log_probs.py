"""Log-probabilities under raw logits, where an answer asks for them.

What the kernels find in the pass that draws a token has them but for one number, the token's logit.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from steer_kernels import Packed

from ...core.log_probs import LogProbs

_TOP = len(Packed)


def log_probs(numbers: Sequence[float], logits: Tensor, token: int, n: int) -> LogProbs:
    """What the model makes of ``token`` and the ``n`` likeliest.

    Args:
        numbers: of this place, as ``sample_logits_packed`` gives them; n ranks at least.
        logits: raw [V], of this place.
        token: that is written there.
        n: how many.
    """
    k = (len(numbers) - _TOP) // 2
    lse = numbers[Packed.LSE]
    ids = [int(i) for i in numbers[_TOP + k :]]
    # Mostly it is among the likeliest, and nothing need be read off the device.
    logit = numbers[_TOP + ids.index(token)] if token in ids else float(logits[token])
    top = tuple(each - lse for each in numbers[_TOP : _TOP + n])
    return LogProbs(logit - lse, tuple(ids[:n]), top)
