"""The table of `make gpu-check`: how far from one read, how much faster than peers, targets."""

from __future__ import annotations

from support import gpu_path  # noqa: F401

from gpu import table  # isort: skip


def test_table_names_distance_ratio_and_target() -> None:
    shared = {"op": "logit_stats", "backend": "triton", "device": "cuda", "dtype": "bfloat16",
              "vocab": 151_936, "k": 20, "sampling": None, "threads": 1}  # fmt: skip
    rows = []
    for batch, clock, us in ((1, "events", 9.0), (1, "wall", 40.0), (1, "graph", 5.0),
                             (64, "events", 8.5), (64, "graph", 8.0)):  # fmt: skip
        moved = batch * 151_936 * 2
        row = {**shared, "batch": batch, "clock": clock, "median_us": us, "gbps": moved / us / 1e3}
        for peer, peer_us in (("torch", 100.0), ("softmax", 50.0)):
            if (peer, clock) != ("softmax", "graph"):
                rows.append({**row, "peer": peer, "peer_us": peer_us, "ratio": peer_us / us})
    found = {"card": "NVIDIA H200", "floors": {"copy_gbps": 4000.0}}
    head, lines = table.table(rows, found)
    assert head == ["B", "one read, us", "events, us", "wall, us", "graph, us", "over it",
                    "target, us", "torch", "softmax"]  # fmt: skip
    # 303 872 bytes at 4000 GB/s.
    assert lines[0][:6] == ["1", "0.08", "9.0", "40.0", "5.0", "65.8x"]
    assert lines[0][6:] == ["6.0: graph met, wall missed", "20.00x", "(1.25x)"]
    assert lines[1][-3:] == ["9.0: graph met", "12.50x", "(5.88x)"]
    # What samples may take twice as long as logit_stats by the same clock.
    drawn = [row | {"op": "sample_logits", "sampling": "greedy"} for row in rows]
    beside = [row | {"peer": "logit_stats", "peer_us": 10.0} for row in drawn]
    head, lines = table.table(drawn + beside, found)
    assert lines[0][head.index("target, us")] == "20.0: graph met, wall missed"
