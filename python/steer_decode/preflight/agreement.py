"""How often two models agree.

It is measured on a few answers of the large one.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..core.transcript import Transcript
from ..decode.router import Router
from ..engines.hf.grading import grade
from ..engines.hf.scaled_lane import lane_of
from ..models.pair import Pair
from ..policies import AlwaysLarge
from .speculation import Agreement

TOKENS = 96  # of an answer
PROMPTS = (
    "A train leaves at 9:40 and arrives at 13:05. How long does the journey take? Show your steps.",
    "Solve for x: 3x + 7 = 2x + 19. Show your steps.",
    "Write a Python function that returns the second largest number of a list.",
    "Explain in three sentences why the sky is blue.",
    "Translate into French: The library closes at six, but the garden stays open until dark.",
    "List four things to check before a long journey by bicycle.",
)


def agreement(pair: Pair, prompts: Sequence[str] = PROMPTS, tokens: int = TOKENS) -> Agreement:
    """Let the large model answer, and the small one read.

    The large one answers greedily.

    Args:
        pair: the two models.
        prompts: texts.
        tokens: most of an answer.
    """
    outputs = Router(pair, AlwaysLarge()).generate(list(prompts), max_new_tokens=tokens)
    found = []
    for output in outputs:
        text = Transcript([*output.trace.prompt_ids, *output.token_ids])
        lane = lane_of(
            pair.small, pair.shapes["small"], 1, len(text), serving=pair.serving["small"]
        )
        lane.open(0, text)
        graded = grade(lane, [0], [len(output.token_ids)], pair.vocab_size)[0]
        if graded is not None:
            found.append(tuple(graded.likeliest))
    return Agreement(tuple(found))
