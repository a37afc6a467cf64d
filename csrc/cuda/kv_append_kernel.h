// The kernel of kv_append_ and the shape of its launch; included by kv_append.cu, and by a C++ test
// that runs it thread by thread on the CPU, for which it needs no CUDA header.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/kv_append_params.h"

namespace steer {

constexpr int kKvThreads = 128;
constexpr int kKvUnroll = 4;
constexpr int kKvUnitsPerBlock = kKvThreads * kKvUnroll;

template <typename Unit>
__global__ void __launch_bounds__(kKvThreads)
    kv_append_kernel(const KvAppendParams params, int64_t chunks, int units_k, int units_v) {
  const int64_t head_index = blockIdx.x / chunks;  // (b, head, side), the side fastest
  const int64_t chunk = blockIdx.x % chunks;
  const int side_index = static_cast<int>(head_index % 2);
  const int64_t b = head_index / 2 / params.heads, head = head_index / 2 % params.heads;
  const KvEntry entry(params, b);
  if (!entry.fits(params)) return;

  // Units are numbered token by token, `per_token` of them each; the last one may be a part.
  const int per_token = side_index == 0 ? units_k : units_v;
  const int64_t units = entry.count * per_token;
  const int64_t first = chunk * kKvUnitsPerBlock;
  if (first >= units) return;
  const int64_t first_token = first / per_token;
  const int offset = static_cast<int>(first % per_token);  // from here on 32 bits are enough

  const KvSide& side = params.sides[side_index];
  const char* const source = side.source + b * side.source_batch + head * side.source_head;
  char* const cache = side.cache + entry.row * side.cache_row + head * side.cache_head +
                      entry.start * side.cache_token;
  Unit held[kKvUnroll];
  int64_t place[kKvUnroll];  // where held[i] goes, from `cache` on
  bool whole[kKvUnroll];     // whether there is a held[i]
#pragma unroll
  for (int i = 0; i < kKvUnroll; ++i) {
    const int local = offset + i * kKvThreads + static_cast<int>(threadIdx.x);
    const int64_t token = first_token + local / per_token;
    const int64_t byte = static_cast<int64_t>(local % per_token) * sizeof(Unit);
    const int64_t from = token * side.source_token + byte;
    place[i] = token * side.cache_token + byte;
    const int64_t left = token < entry.count ? side.token_bytes - byte : 0;
    whole[i] = left >= static_cast<int64_t>(sizeof(Unit));
    if (whole[i]) {
      held[i] = *reinterpret_cast<const Unit*>(source + from);
    } else {
      for (int64_t j = 0; j < left; ++j) cache[place[i] + j] = source[from + j];
    }
  }
#pragma unroll
  for (int i = 0; i < kKvUnroll; ++i)
    if (whole[i]) *reinterpret_cast<Unit*>(cache + place[i]) = held[i];
}

// How to launch it: a block for every `chunks`-th part of a head of a row's keys or values.
struct KvLaunch {
  int unit = 0;  // bytes: 16, 4, 2 or 1; 0 where there is nothing to do
  int units_k = 0, units_v = 0;  // of a token
  int64_t chunks = 0;
  unsigned blocks = 0;
  const char* fault = nullptr;
};

// Low bits set by any address or stride; the unit is what their lowest set bit allows.
inline uint64_t alignment_bits(const KvSide& side) {
  return reinterpret_cast<uintptr_t>(side.source) | reinterpret_cast<uintptr_t>(side.cache) |
         static_cast<uint64_t>(side.source_batch | side.source_head | side.source_token |
                               side.cache_row | side.cache_head | side.cache_token);
}

inline KvLaunch kv_launch(const KvAppendParams& params) {
  KvLaunch launch;
  const int64_t heads = 2 * params.batch * params.heads;
  const int64_t bytes = std::max(params.sides[0].token_bytes, params.sides[1].token_bytes);
  if (heads == 0 || params.tokens == 0 || bytes == 0) return launch;
  const uint64_t bits = alignment_bits(params.sides[0]) | alignment_bits(params.sides[1]);
  launch.unit = bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : bits % 2 == 0 ? 2 : 1;
  const auto units = [&](int64_t token) { return (token + launch.unit - 1) / launch.unit; };
  if (units(bytes) > INT32_MAX - kKvUnitsPerBlock) {
    launch.fault = "the head size is too large for one launch";
    return launch;
  }
  launch.units_k = static_cast<int>(units(params.sides[0].token_bytes));
  launch.units_v = static_cast<int>(units(params.sides[1].token_bytes));
  launch.chunks = (params.tokens * units(bytes) + kKvUnitsPerBlock - 1) / kKvUnitsPerBlock;
  if (launch.chunks > INT32_MAX / heads)
    launch.fault = "batch * heads * tokens is too large for one launch";
  else
    launch.blocks = static_cast<unsigned>(heads * launch.chunks);
  return launch;
}

}  // namespace steer
