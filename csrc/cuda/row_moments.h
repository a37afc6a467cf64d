// What is kept of a row's tiles as they are read: moments, and largest values.
#pragma once

#include <cstdint>

#include "cuda/row_tile.h"

namespace steer {

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
