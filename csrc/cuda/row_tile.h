// A tile of a row in the registers of a warp: how it gets there.
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

}  // namespace steer
