"""Steps of a row, one after another within a launch.

Each is done by programs of its own.

Mathematics  A row has steps * splits programs. Each draws the row's next number: those with the
             numbers 0 to splits - 1 do the first step, the next ones the second. A program arrives
             when it is done; the last of a step to arrive publishes it, and the next step begins.
Movement     One word of the row, an int64 that is -1 before: three counts, all added to its
             complement. So a token of -1 serves as it is, and nothing has to be zeroed.
Bytes        8 a program that finds the row closed; else 3 atomics, and those of the wait.
Sync         A program waits for the step before its own, that is for lower numbers alone. Whoever
             has drawn one runs, and waits for lower ones only, so the lowest that is not done waits
             for nobody: no program waits for one that has not begun. Neither the order in which
             programs begin nor how many run at once matters. Numbers, arrivals and publications are
             additions to one word, so that what came before them is ordered (acquire, release).
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
