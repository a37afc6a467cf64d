"""Machine code of a kernel, as nvdisasm lists it: what a warp runs through in its hot loop."""

from __future__ import annotations

import heapq
import re
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
_JUMP = re.compile(r"\b(?:BRA|EXIT|RET)\b")
Block = list[str]


def nvdisasm() -> Path:
    """The disassembler that Triton carries."""
    triton = pytest.importorskip("triton")
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"


def listings(source: str, folder: Path, capability: int = 90) -> dict[str, str]:
    """What nvcc makes of a file of csrc/cuda: the code of each kernel, by its mangled name."""
    cubin = folder / "out.cubin"
    command = ["nvcc", "-std=c++17", "-O3", "-cubin", f"-arch=sm_{capability}", f"-I{CSRC}"]
    subprocess.run([*command, "-o", cubin, CSRC / "cuda" / source], check=True)
    said = subprocess.run([nvdisasm(), "-c", cubin], check=True, capture_output=True, text=True)
    parts = re.split(r"\.section\s+\.text\.(\w+)", said.stdout)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def blocks(listing: str) -> tuple[list[Block], list[list[int]]]:
    """Basic blocks, and where each can go on."""
    made: list[Block] = [[]]
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_x?_?\w+):", line):
            if made[-1]:
                made.append([])
            labels[label[1]] = len(made) - 1
        elif code := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            made[-1].append(code[1])
            if _JUMP.search(code[1]):
                made.append([])
    ways: list[list[int]] = []
    for i, block in enumerate(made):
        last = block[-1] if block else ""
        to = re.search(r"\bBRA\b.*?\(?(\.L_x?_?\w+)", last)
        found = [labels[to[1]]] if to and to[1] in labels else []
        conditional = last.startswith("@") or re.search(
            r"BRA(?:\.\w+)*\s+!?U?P\d|BRA\.DIV\b",
            last,  # where threads of a warp are apart
        )
        if conditional or not _JUMP.search(last):
            found.append(i + 1)
        ways.append([n for n in found if n < len(made)])
    return made, ways


def _fewest(made: list[Block], ways: list[list[int]], source: int, to: int) -> float:
    """Instructions after block `source` up to the end of block `to`, on the shortest way."""
    if source == to:
        return 0
    queue = [(len(made[n]), n) for n in ways[source]]
    heapq.heapify(queue)
    seen: set[int] = set()
    while queue:
        count, at = heapq.heappop(queue)
        if at == to:
            return count
        if at not in seen:
            seen.add(at)
            for n in ways[at]:
                heapq.heappush(queue, (count + len(made[n]), n))
    return float("inf")


def hot_loop(listing: str, exponentials: int = 16) -> int:
    """Instructions of a warp on the shortest way round its loop.

    The loop goes through a block with 128-bit loads and one with as many `exponentials` or more.
    """
    made, ways = blocks(listing)

    def those(holds: str, times: int) -> list[int]:
        counts = [sum(re.search(holds, code) is not None for code in block) for block in made]
        return [i for i, count in enumerate(counts) if count >= times]

    loops = [
        (_fewest(made, ways, load, power) + _fewest(made, ways, power, load)) or len(made[load])
        for load in those(r"\bLDG\.E\.(?:\w+\.)*128", 2)
        for power in those(r"\bMUFU\.EX2", exponentials)
    ]
    assert loops, "no loop has wide loads and exponentials"
    return int(min(loops))
