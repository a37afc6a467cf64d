"""step_update_ against the same rule written in torch over the whole batch.

    python -m pytest benchmarks/bench_step_update.py
    steer bench kernels --ops step_update_                 in turns, medians, JSON

A row takes about 120 bytes, so what is measured is the call itself.
"""

from __future__ import annotations

from grouped import grouped

test_step_update = grouped("step_update_")
