"""The interpreter of PTX itself: what it computes, and which faults it finds in small kernels."""

from __future__ import annotations

import numpy as np
import pytest
from support.ptx.faults import Fault
from support.ptx.machine import launch
from support.ptx.memory import Buffer, Memory
from support.ptx.parse import parse
from support.ptx.program import Program

HEAD = """
.visible .entry f(.param .u64 p0, .param .u64 p1)
.reqntid 64
{
  .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<19>; .reg .b64 %rd<19>; .reg .f32 %f<9>;
  .shared .align 16 .b8 buf[512];
  ld.param.u64 %rd1, [p0];
  ld.param.u64 %rd2, [p1];
  mov.u32 %r1, %tid.x;
  mov.u32 %r2, %ctaid.x;
  mul.wide.u32 %rd3, %r1, 4;
  add.s64 %rd4, %rd1, %rd3;
  add.s64 %rd5, %rd2, %rd3;
"""


def run(body: str, grid: int = 1, size: int = 64, fresh: bool = False, seed: int = 0) -> np.ndarray:
    """Run a kernel with an input of 0, 1, 2, ... and return its output; int32 [size] both."""
    out = np.zeros(size, "i4")
    known = np.zeros(4 * size, bool) if fresh else None
    memory = Memory([Buffer(np.arange(size, dtype="i4"), "in", readonly=True),
                     Buffer(out, "out", known=known)])  # fmt: skip
    launch(Program(parse(HEAD + body + "\nret;\n}")), grid,
           [b.address for b in memory.buffers], memory, seed=seed)  # fmt: skip
    memory.give_back()
    return out


def kind_of(body: str, **how: object) -> str:
    with pytest.raises(Fault) as fault:
        run(body, **how)  # type: ignore[arg-type]
    return fault.value.kind


# ---- what it computes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("add.s32 %r4, %r3, -5;", lambda x: x - 5),
        ("div.s32 %r4, -7, 2;", lambda x: -3 + 0 * x),
        ("rem.s32 %r4, -7, 2;", lambda x: -1 + 0 * x),
        ("shl.b32 %r4, %r3, %r3;", lambda x: np.where(x < 32, (x << (x & 31)) & 0xFFFFFFFF, 0)),
        ("sub.s32 %r5, 0, %r3; shr.s32 %r4, %r5, %r3;", lambda x: -x >> np.minimum(x, 31)),
        ("mul.hi.u32 %r4, 0xffffffff, %r3;", lambda x: np.maximum(x - 1, 0)),
        ("mov.b32 {%rs1, %rs2}, %r3; mov.b32 %r4, {%rs2, %rs1};", lambda x: x << 16),
        ("cvt.rn.f32.s32 %f1, %r3; mul.rn.f32 %f2, %f1, 0fBFC00000; cvt.rzi.s32.f32 %r4, %f2;",
         lambda x: np.trunc(x * -1.5)),
        ("cvt.rn.f32.s32 %f1, %r3; ex2.approx.f32 %f2, %f1; cvt.rzi.s32.f32 %r4, %f2;",
         lambda x: np.minimum(2.0**x, 2**31 - 1)),
        ("cvt.s16.s8 %rs1, 255; cvt.s32.s16 %r4, %rs1;", lambda x: -1 + 0 * x),
        ("bfe.u32 %r4, %r3, 1, 3;", lambda x: (x >> 1) & 7),
        ("brev.b32 %r4, %r3;", lambda x: [int(f"{n:032b}"[::-1], 2) for n in x]),
        ("clz.b32 %r4, %r3;", lambda x: [32 - int(n).bit_length() for n in x]),
        ("bfind.shiftamt.u32 %r4, %r3;",
         lambda x: [32 - int(n).bit_length() if n else 0xFFFFFFFF for n in x]),
        ("shf.r.wrap.b32 %r4, %r3, 5, %r3;",
         lambda x: [((5 << 32 | int(n)) >> (n & 31)) & 0xFFFFFFFF for n in x]),
        ("bfi.b32 %r4, %r3, -1, 8, 4;", lambda x: 0xFFFFF0FF | (x & 15) << 8),
        ("max.NaN.f32 %f1, 0fFFC00001, 0f3F800000; mov.b32 %r4, %f1;",
         lambda x: 0x7FFFFFFF + 0 * x),
        # 1 and -2 beside NaN and +inf, as bfloat16
        ("max.NaN.bf16x2 %r4, 0x3F80C000, 0x7FC17F80;", lambda x: 0x7FFF7F80 + 0 * x),
        ("min.NaN.f16x2 %r4, 0x3C00C000, 0x7E017C00;", lambda x: 0x7FFFC000 + 0 * x),
        ("shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;", lambda x: x ^ 1),
        ("shfl.sync.up.b32 %r4|%p1, %r3, 2, 0, -1;", lambda x: np.where(x % 32 < 2, x, x - 2)),
        ("redux.sync.max.s32 %r4, %r3, -1;", lambda x: x | 31),
        ("setp.lt.s32 %p1, %r3, 7; selp.b32 %r4, 1, 2, %p1;", lambda x: np.where(x < 7, 1, 2)),
        ("setp.lt.s32 %p1, %r3, 7; mov.b32 %r4, 9; @%p1 bra L; mov.b32 %r4, 8;\nL:",
         lambda x: np.where(x < 7, 9, 8)),
        ("mov.b32 %r4, 0; L: add.s32 %r4, %r4, 2; setp.lt.s32 %p1, %r4, %r3; @%p1 bra L;",
         lambda x: np.maximum(2, x + x % 2)),
        # rows of 16 bytes of what its warp has stored, the last one first
        ("shl.b32 %r5, %r1, 2; mov.b32 %r6, buf; add.s32 %r7, %r6, %r5; st.shared.b32 [%r7], %r3; "
         "bar.sync 0; and.b32 %r8, %r1, 7; sub.s32 %r8, 7, %r8; shl.b32 %r8, %r8, 4; "
         "and.b32 %r9, %r1, 32; shl.b32 %r9, %r9, 2; add.s32 %r8, %r8, %r9; add.s32 %r8, %r8, %r6; "
         "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [%r8];",
         lambda x: (x & 32) + (7 - x % 32 // 4) * 4 + x % 4),
        ("setp.gt.s32 %p1, %r3, 3; vote.sync.ballot.b32 %r4, %p1, -1;",
         lambda x: np.where(x < 32, 0xFFFFFFF0, 0xFFFFFFFF)),
    ],
)  # fmt: skip
def test_arithmetic_and_flow(code: str, expected: object) -> None:
    out = run(f"ld.global.b32 %r3, [%rd4]; {code} st.global.b32 [%rd5], %r4;")
    numbers = np.asarray(expected(np.arange(64)), dtype="i8")  # type: ignore[operator]
    assert np.array_equal(out.view("u4"), (numbers & 0xFFFFFFFF).astype("u4"))


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("frobnicate.b32 %r3, %r1;", "frobnicate.b32 %r3, %r1"),
        ("add.sat.s32 %r3, %r1, %r1;", "add.sat.s32 %r3, %r1, %r1"),
        ("ld.global.L2::64B.b32 %r3, [%rd4];", "ld.global.L2::64B.b32 %r3, [%rd4]"),
        ("bar.sync 1, 32;", "bar.sync 1, 32"),
        ("mov.u32 %r3, %clock;", "%clock"),
        ("cvt.rz.f32.s32 %f1, %r1;", "cvt.rz.f32.s32 %f1, %r1"),
        ("setp.lt.s32 %p1|%p2, %r1, 3;", "setp.lt.s32 %p1|%p2, %r1, 3"),
        ("add.s32 %r3, %r77, 1;", "%r77"),
        ("bra NOWHERE;", "bra NOWHERE"),
    ],
)
def test_what_is_not_known_is_refused_by_its_text(code: str, named: str) -> None:
    """Also where no thread would come by."""
    with pytest.raises(Fault, match="unknown: ") as fault:
        run(f"bra END; {code}\nEND:")
    assert named in str(fault.value)


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ld.global.b32 %r3, [%rd4+4];", "bounds"),  # the last thread, one element too far
        ("ld.global.b32 %r3, [%rd4+-4];", "bounds"),
        ("mov.b64 %rd6, 0; ld.global.b32 %r3, [%rd6];", "bounds"),
        ("ld.global.v2.b32 {%r3, %r4}, [%rd1+4];", "alignment"),
        ("st.global.b32 [%rd4], %r1;", "readonly"),
        ("st.shared.b32 [buf+512], %r1;", "bounds"),
        ("st.shared.b32 [buf+2], 1;", "alignment"),
        ("ld.shared.b32 %r3, [buf];", "uninitialised"),
        ("ld.global.nc.b32 %r3, [%rd5]; st.global.b32 [%rd5], %r3; ld.global.nc.b32 %r3, [%rd5];",
         "stale"),
        ("L: bra L;", "endless"),
    ],
)  # fmt: skip
def test_memory_faults(code: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.ptx.machine.MAX_STEPS", 1000)
    assert kind_of(code) == kind


def test_memory_that_nobody_wrote() -> None:
    assert kind_of("ld.global.b32 %r3, [%rd5];", fresh=True) == "uninitialised"
    run("st.global.b32 [%rd5], %r1; ld.global.b32 %r3, [%rd5];", fresh=True)


# ---- threads of a block --------------------------------------------------------------------------

WRITE = "shl.b32 %r3, %r1, 2; mov.b32 %r4, buf; add.s32 %r5, %r4, %r3; st.shared.b32 [%r5], %r1;"
SWAP = "xor.b32 %r6, %r3, {distance}; add.s32 %r6, %r6, %r4; ld.shared.b32 %r7, [%r6];"
OUT = "st.global.b32 [%rd5], %r7;"


@pytest.mark.parametrize(
    ("between", "distance", "kind"),
    [
        ("bar.sync 0;", 4, None),
        ("bar.sync 0;", 128, None),
        ("", 4, "race"),
        ("", 128, "race"),
        ("bar.warp.sync -1;", 4, None),  # the neighbour
        ("bar.warp.sync -1;", 128, "race"),  # another warp
    ],
)
def test_shared_memory_between_barriers(between: str, distance: int, kind: str | None) -> None:
    body = WRITE + between + SWAP.format(distance=distance) + OUT
    if kind is None:
        assert np.array_equal(run(body), np.arange(64) ^ distance // 4)
    else:
        assert kind_of(body) == kind


def test_a_write_waits_for_readers() -> None:
    again = "bar.sync 0;" + SWAP.format(distance=4) + "{} st.shared.b32 [%r5], %r7;"
    run(WRITE + again.format("bar.sync 0;"))
    assert kind_of(WRITE + again.format("")) == "race"


def test_threads_may_store_one_value_at_one_place_and_no_two() -> None:
    run("st.shared.b32 [buf], %r2;")
    assert kind_of("st.shared.b32 [buf], %r1;") == "race"


def test_global_memory_of_one_block_needs_a_barrier_too() -> None:
    body = "st.global.b32 [%rd5], %r1; {} xor.b32 %r3, %r1, 33; mul.wide.u32 %rd6, %r3, 4;"
    body += "add.s64 %rd6, %rd6, %rd2; ld.global.b32 %r4, [%rd6];"
    run(body.format("bar.sync 0;"))
    assert kind_of(body.format("")) == "race"


@pytest.mark.parametrize(
    "code",
    ["setp.lt.u32 %p1, %r1, 5; @%p1 bra L; bar.sync 0;\nL:",
     "setp.lt.u32 %p1, %r1, 5; @%p1 bra L; shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;\nL:",
     "setp.lt.u32 %p1, %r1, 5; @%p1 bra L; bar.sync 0; bra M;\nL: bar.sync 0;\nM:"],
)  # fmt: skip
def test_threads_that_are_missing(code: str) -> None:
    assert kind_of(code) == "divergence"


# ---- blocks --------------------------------------------------------------------------------------

# All blocks but the last to arrive leave a number in out[1 + block]; the last adds them up. The
# counter is out[0].
PUBLISH = """
  mul.wide.u32 %rd6, %r2, 4; add.s64 %rd6, %rd6, %rd2;
  setp.eq.u32 %p1, %r1, 5; setp.eq.u32 %p2, %r1, 0;
  @%p1 st.global.b32 [%rd6+4], 7;
  {barrier}
  {before}
  @%p2 {atomic} %r3, [%rd2], 1;
  {after}
  shfl.sync.idx.b32 %r4, %r3, 0, 31, -1;
  setp.ne.u32 %p3, %r4, 3;
  @%p3 bra END;
  setp.gt.u32 %p4, %r1, 31;
  @%p4 bra END;
  {second}
  ld.global{cache}.b32 %r5, [%rd2+4]; ld.global{cache}.b32 %r6, [%rd2+8];
  ld.global{cache}.b32 %r7, [%rd2+12]; ld.global{cache}.b32 %r8, [%rd2+16];
  add.s32 %r9, %r5, %r6; add.s32 %r10, %r7, %r8; add.s32 %r11, %r9, %r10;
  @%p2 st.global.b32 [%rd2+20], %r11;
END:
"""
RIGHT = {"barrier": "bar.sync 0;", "before": "", "atomic": "atom.global.gpu.acq_rel.add.u32",
         "after": "", "second": "bar.warp.sync -1;", "cache": ".cg"}  # fmt: skip
FENCES = RIGHT | {"atomic": "atom.global.add.u32", "before": "fence.acq_rel.gpu;",
                  "after": "membar.gl;"}  # fmt: skip


@pytest.mark.parametrize("how", [RIGHT, FENCES], ids=["acq_rel", "fences"])
@pytest.mark.parametrize("seed", range(3))
def test_the_last_block_reads_what_the_others_released(how: dict[str, str], seed: int) -> None:
    assert run(PUBLISH.format(**how), grid=4, seed=seed)[5] == 28


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"atomic": "atom.global.gpu.relaxed.add.u32"}, "order"),
        ({"atomic": "atom.global.gpu.acquire.add.u32"}, "order"),
        ({"atomic": "atom.global.gpu.release.add.u32"}, "order"),
        ({"atomic": "atom.global.cta.acq_rel.add.u32"}, "order"),
        ({"barrier": ""}, "order"),  # thread 0 releases before thread 5 is known to have stored
        ({"second": ""}, "order"),  # thread 0 alone has acquired
        ({"cache": ""}, "stale"),
        (FENCES | {"before": ""}, "order"),
        (FENCES | {"after": ""}, "order"),
        (FENCES | {"before": "membar.cta;"}, "order"),
    ],
)
def test_a_missing_release_or_acquire(change: dict[str, str], kind: str) -> None:
    for seed in range(3):  # whatever the turns
        assert kind_of(PUBLISH.format(**RIGHT | change), grid=4, seed=seed) == kind
