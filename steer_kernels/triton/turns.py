"""Steps of a row, one after another within a launch.

Programs share each of them.

Mathematics  A step has as many parts as the row has programs, and a part its number: those of the
             first step come first, then those of the second. Again and again a program draws the
             row's next number, does that part, and arrives; the last of a step to arrive publishes
             it, and the next step may begin.
Movement     One word of the row, an int64 that is -1 before: three counts, all added to its
             complement. So a token of -1 serves as it is, and nothing has to be zeroed.
Bytes        8 a program that finds the row closed; else 3 atomics a part, and those of the wait.
Sync         A program waits for the step before its own, that is for lower numbers alone. Who has
             drawn one runs, and waits for lower ones only, so the lowest that is not done waits for
             nobody: none waits for a program that has not begun. Neither the order in which they
             begin nor how many run at once matters; one alone would do all parts. Numbers, arrivals
             and publications are additions to one word, so that what came before them is ordered
             (acquire, release). When all is done each program arrives once more: the last of those
             may write the word, as no other will look at it.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Bits of the word's complement at which the counts begin; that of numbers has the lowest.
ARRIVED = tl.constexpr(20)
PUBLISHED = tl.constexpr(40)
ARRIVAL = tl.constexpr(1 << 20)
COUNT = tl.constexpr((1 << 20) - 1)


@triton.jit
def is_open(word):
    """Whether the row has steps."""
    return tl.load(word, volatile=True) < 0


@triton.jit
def draw_number(word):
    return (~tl.atomic_add(word, -1, sem="relaxed", scope="gpu") & COUNT).to(tl.int32)


@triton.jit
def wait_for(word, steps):
    """Until so many steps are published."""
    published = ~tl.atomic_add(word, 0, sem="acquire", scope="gpu") >> PUBLISHED
    while published < steps:
        published = ~tl.atomic_add(word, 0, sem="acquire", scope="gpu") >> PUBLISHED


@triton.jit
def arrive(word):
    """How many have arrived before, of all steps."""
    tl.debug_barrier()  # the stores of every thread come before the release by one of them
    counts = ~tl.atomic_add(word, -ARRIVAL, sem="acq_rel", scope="gpu")
    return ((counts >> ARRIVED) & COUNT).to(tl.int32)


@triton.jit
def publish(word, steps):
    """Say that so many more steps are done."""
    tl.debug_barrier()
    tl.atomic_add(word, -(steps.to(tl.int64) << PUBLISHED), sem="release", scope="gpu")
