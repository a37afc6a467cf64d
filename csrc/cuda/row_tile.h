// A tile of a row in the registers of a warp: how it gets there, and its moments.
//
// Layout: 2048 bytes. Lane l has the words of the 16 bytes at 512 j + 16 l, j = 0..3, wherever the row
// starts, so the sums of a tile depend on its values alone.
#pragma once

#include <cstdint>

#include "cuda/rows_params.h"

namespace steer {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLog2 = 0.6931471805599453f;
constexpr float kWeightless = -150.0f;  // two to this and all below is 0 in float

// ---- numbers ----------------------------------------------------------------------------------

__device__ __forceinline__ float power_of_two(float x) {  // 0 where it would be denormal
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float larger(float a, float b) {  // NaN if one of them is
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// An integer that sorts like the number, NaN above all; its own inverse.
__device__ __forceinline__ int ordered(int bits) { return bits ^ ((bits >> 31) & 0x7FFFFFFF); }
__device__ __forceinline__ int key_of(float x) { return ordered(__float_as_int(x)); }
__device__ __forceinline__ float value_of(int key) { return __int_as_float(ordered(key)); }

constexpr int kInfinityKey = 0x7F800000;
constexpr int kMinusInfinityKey = static_cast<int>(0x807FFFFF);

// Dtypes. All values of one, as keys, differ in the bits from `kUnitBits` on.
struct Float32 {
  static constexpr int kBytes = 4, kUnitBits = 0;
  static constexpr uint32_t kNothing = 0xFF800000u;  // a word of -inf
  using Bits = uint32_t;
};

struct BFloat16 {
  static constexpr int kBytes = 2, kUnitBits = 16;
  static constexpr uint32_t kNothing = 0xFF80FF80u;
  using Bits = uint16_t;
  static __device__ __forceinline__ uint32_t larger_of_each(uint32_t a, uint32_t b) {
    uint32_t y;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
  }
  static __device__ __forceinline__ float low(uint32_t w) { return __uint_as_float(w << 16); }
  static __device__ __forceinline__ float high(uint32_t w) {
    return __uint_as_float(w & 0xFFFF0000u);
  }
};

struct Float16 {
  static constexpr int kBytes = 2, kUnitBits = 13;
  static constexpr uint32_t kNothing = 0xFC00FC00u;
  using Bits = uint16_t;
  static __device__ __forceinline__ uint32_t larger_of_each(uint32_t a, uint32_t b) {
    uint32_t y;
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
  }
  static __device__ __forceinline__ float low(uint32_t w) {
    float y;
    asm("{.reg .b16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, a;}" : "=f"(y) : "r"(w));
    return y;
  }
  static __device__ __forceinline__ float high(uint32_t w) {
    float y;
    asm("{.reg .b16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, b;}" : "=f"(y) : "r"(w));
    return y;
  }
};

template <typename T>
constexpr int kTileColumns = kTileBytes / T::kBytes;
template <typename T>
constexpr int kVector = 16 / T::kBytes;  // columns of 16 bytes

template <typename T>
__device__ __forceinline__ float element(typename T::Bits bits) {
  if constexpr (T::kBytes == 4)
    return __uint_as_float(bits);
  else
    return T::low(bits);
}

// Calls visit(value) for each column of a lane.
template <typename T, int kWords, typename Visit>
__device__ __forceinline__ void for_each(const uint32_t (&words)[kWords], Visit visit) {
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    if constexpr (T::kBytes == 4) {
      visit(__uint_as_float(words[i]));
    } else {
      visit(T::low(words[i]));
      visit(T::high(words[i]));
    }
  }
}

// As threadIdx.x % 32, but read here: what follows from that would be computed before the rows are read,
// and kept in registers while they are.
__device__ __forceinline__ int own_lane() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// ---- loads ------------------------------------------------------------------------------------

// A row that starts at 16 bytes; `at` is where the lane's first words are.
__device__ __forceinline__ void load_aligned(uint32_t (&words)[kTileWords], const uint4* at) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint4 v = __ldg(at + 32 * j);
    words[4 * j] = v.x, words[4 * j + 1] = v.y, words[4 * j + 2] = v.z, words[4 * j + 3] = v.w;
  }
}

// One that starts anywhere: word by word, two bytes up where it starts between words. Reads up to two
// bytes before the tile and behind it.
template <typename T>
__device__ __forceinline__ void load_words(uint32_t (&words)[kTileWords], const char* tile,
                                           int lane) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(tile);
  const bool between = T::kBytes == 2 && (address & 2) != 0;
  const uint32_t* const at = reinterpret_cast<const uint32_t*>(address & ~uintptr_t{3}) + 4 * lane;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t v[5] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = __ldg(at + 128 * j + i);
    if (between) v[4] = __ldg(at + 128 * j + 4);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      words[4 * j + i] = between ? __funnelshift_r(v[i], v[i + 1], 16) : v[i];
  }
}

// At an end of the row: element by element, -inf where there is none.
template <typename T>
__device__ __forceinline__ void load_elements(uint32_t (&words)[kTileWords], const char* tile,
                                              int columns) {
  using Bits = typename T::Bits;
  const int lane = own_lane();
  const Bits* const at = reinterpret_cast<const Bits*>(tile);
#pragma unroll
  for (int i = 0; i < kTileWords; ++i) {
    constexpr int kPerWord = 4 / T::kBytes;
    const int column = i / 4 * 32 * kVector<T> + lane * kVector<T> + i % 4 * kPerWord;
    uint32_t word = T::kNothing;
    if constexpr (kPerWord == 1) {
      if (column < columns) word = __ldg(at + column);
    } else {
      uint32_t low = word & 0xFFFFu, high = low;
      if (column < columns) low = __ldg(at + column);
      if (column + 1 < columns) high = __ldg(at + column + 1);
      word = low | (high << 16);
    }
    words[i] = word;
  }
}

// A row, and which of its tiles lie inside it with all that their loads touch.
template <typename T>
struct Row {
  const char* start;
  int vocab, whole;  // tiles before `whole` have no column beyond the row
  bool aligned;

  __device__ __forceinline__ Row(const RowsParams& p, int row)
      : start(static_cast<const char*>(p.logits) + row * p.row_bytes), vocab(p.vocab) {
    aligned = reinterpret_cast<uintptr_t>(start) % 16 == 0;
    const int columns = vocab - (aligned ? 0 : kVector<T>);
    whole = columns < 0 ? 0 : columns / kTileColumns<T>;
  }

  __device__ __forceinline__ const char* tile(int number) const {
    return start + static_cast<int64_t>(number) * kTileBytes;
  }

  __device__ __forceinline__ void load(uint32_t (&words)[kTileWords], int number, int lane) const {
    if (number < whole && (number > 0 || aligned))
      load_words<T>(words, tile(number), lane);
    else
      load_elements<T>(words, tile(number), vocab - number * kTileColumns<T>);
  }
};

// ---- moments ----------------------------------------------------------------------------------

// Of a tile with the largest value m, relative to it: S = sum 2^d and T = sum d 2^d, d = (x - m) log2 e,
// and the mass sum 2^(d / temperature).
struct Moments {
  float sum = 0.0f, slope = 0.0f, mass = 0.0f;
};

template <typename T>
__device__ __forceinline__ float largest(const uint32_t (&words)[kTileWords]) {
  if constexpr (T::kBytes == 4) {
    float top = __uint_as_float(words[0]);
#pragma unroll
    for (int i = 1; i < kTileWords; ++i) top = larger(top, __uint_as_float(words[i]));
    return top + 0.0f;  // no -0.0
  } else {
    uint32_t top = words[0];
#pragma unroll
    for (int i = 1; i < kTileWords; ++i) top = T::larger_of_each(top, words[i]);
    return larger(T::low(top), T::high(top)) + 0.0f;
  }
}

// The base is m log2 e rounded, which costs an element one instruction and no rounding of its own; what
// was rounded off the base is put right once a tile.
template <typename T, bool kMass>
__device__ __forceinline__ Moments moments_of(const uint32_t (&words)[kTileWords], float top,
                                              float inverse) {
  const float base = top * kLog2E;
  Moments of;
  for_each<T>(words, [&](float x) {
    const float d = fmaf(x, kLog2E, -base), bounded = fmaxf(d, kWeightless);
    const float weight = power_of_two(bounded);
    of.sum += weight;
    of.slope = fmaf(bounded, weight, of.slope);
    if constexpr (kMass) of.mass += power_of_two(d * inverse);
  });
  const float off = fmaf(top, kLog2E, -base), scale = power_of_two(-off);
  of.slope = fmaf(-off, of.sum, of.slope) * scale;
  of.sum *= scale;
  if constexpr (kMass) of.mass *= power_of_two(-off * inverse);
  return of;
}

// The same with a guard an element, for a largest value that is infinite, or so large that the product
// with log2 e is.
template <typename T, bool kMass>
__device__ __forceinline__ Moments guarded_moments(const uint32_t (&words)[kTileWords], float top,
                                                   float inverse) {
  Moments of;
  if (key_of(top) == kMinusInfinityKey) return of;
  for_each<T>(words, [&](float x) {
    const float d = x == top ? 0.0f : (x - top) * kLog2E, bounded = fmaxf(d, kWeightless);
    const float weight = power_of_two(bounded);
    of.sum += weight;
    of.slope = fmaf(bounded, weight, of.slope);
    if constexpr (kMass) of.mass += power_of_two(d * inverse);
  });
  return of;
}

// Adds up the lanes' moments and stores the tile's four numbers. Sums part on the way: after all steps
// lanes 0 to 7 have S, 16 to 23 have T, and 8 to 15 and 24 to 31 the mass.
template <bool kMass>
__device__ __forceinline__ void store_moments(float* to, float top, const Moments& of, int lane) {
  const auto add_apart = [&](float mine, float yours, int apart) {
    const bool other = (lane & apart) != 0;
    return (other ? yours : mine) + __shfl_xor_sync(~0u, other ? mine : yours, apart);
  };
  float value = add_apart(of.sum, of.slope, 16);
  if constexpr (kMass) {
    value = add_apart(value, of.mass + __shfl_xor_sync(~0u, of.mass, 16), 8);
  } else {
    value += __shfl_xor_sync(~0u, value, 8);
  }
#pragma unroll
  for (int apart = 4; apart > 0; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
  if (lane == 8) value = top;
  const int slot = 0x3201 >> (lane / 2) & 15;  // of lanes 0, 8, 16, 24: 1, 0, 2, 3
  if (lane % 8 == 0) to[slot] = value;
}

// What is kept of a tile: the moments, and of each lane the key of its largest value.
template <typename T, bool kMass>
__device__ __forceinline__ void note_tile(const RowsParams& p, const uint32_t (&words)[kTileWords],
                                          int unit, int lane) {
  int key = key_of(largest<T>(words));
  p.peaks[32 * unit + lane] = key;
  key = __reduce_max_sync(~0u, key);
  const float top = value_of(key), inverse = static_cast<float>(p.inverse);
  const Moments of = fabsf(top) <= 1e38f ? moments_of<T, kMass>(words, top, inverse)
                                         : guarded_moments<T, kMass>(words, top, inverse);
  store_moments<kMass>(p.moments + 4 * unit, top, of, lane);
}

// Tiles of a row that starts at 16 bytes, and have no column beyond it: while one is worked on the next
// is on its way.
template <typename T, bool kMass>
__device__ __forceinline__ void read_aligned(const RowsParams& p, const char* tile, int unit,
                                             int count, int lane) {
  const uint4* at = reinterpret_cast<const uint4*>(tile) + lane;
  const int last = unit + count - 1;
  uint32_t held[kTileWords], next[kTileWords];
  load_aligned(held, at);
#pragma unroll 1
  for (; unit < last; ++unit) {
    at += kTileBytes / 16;
    load_aligned(next, at);
    note_tile<T, kMass>(p, held, unit, lane);
#pragma unroll
    for (int i = 0; i < kTileWords; ++i) held[i] = next[i];
  }
  note_tile<T, kMass>(p, held, last, lane);
}

// Tiles `first` to `last` of a row.
template <typename T, bool kMass>
__device__ __forceinline__ void read_tiles(const RowsParams& p, int row, int first, int last,
                                           int lane) {
  const Row<T> from(p, row);
  const int unit = row * p.tiles, whole = from.aligned ? min(last, from.whole) : first;
  if (first < whole) {
    read_aligned<T, kMass>(p, from.tile(first), unit + first, whole - first, lane);
    first = whole;
  }
#pragma unroll 1
  for (; first < last; ++first) {
    uint32_t words[kTileWords];
    from.load(words, first, lane);
    note_tile<T, kMass>(p, words, unit + first, lane);
  }
}

}  // namespace steer
