// kv_append_, CUDA: ragged rows of new keys and values into a preallocated cache, in place.
//
// Mathematics: none. For every b, h and i < counts[b]:
//   cache[rows[b], h, starts[b] + i, :] = source[b, h, i, :], for keys and for values.
// Data movement: one launch for both sides. A block takes kThreads * kUnroll units of one head of
//   one row; a thread loads its units into registers, then stores them, neighbours taking
//   neighbouring units. A unit is 16 bytes where pointers and strides allow, else 4, 2 or 1; where
//   a token is no multiple of it, one thread a token copies the rest byte by byte.
// Bytes: 2 * heads * head size * element size a new token, read once and written once, and 24 bytes
//   of indices a block. The context that is in the cache already is not touched.
// Synchronisation: none. Entries of one call must not write the same position (checked on the CPU
//   only: the indices are on the device, and reading them would stall it).
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/kv_append.h"

namespace steer {
namespace {

constexpr int kThreads = 128;
constexpr int kUnroll = 4;
constexpr int kUnitsPerBlock = kThreads * kUnroll;

template <typename Unit>
__global__ void __launch_bounds__(kThreads)
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
  const int64_t first = chunk * kUnitsPerBlock;
  if (first >= units) return;
  const int64_t first_token = first / per_token;
  const int offset = static_cast<int>(first % per_token);  // from here on 32 bits are enough

  const KvSide& side = params.sides[side_index];
  const char* const source = side.source + b * side.source_batch + head * side.source_head;
  char* const cache = side.cache + entry.row * side.cache_row + head * side.cache_head +
                      entry.start * side.cache_token;
  Unit held[kUnroll];
  int64_t place[kUnroll];  // where held[i] goes, from `cache` on
  bool whole[kUnroll];     // whether there is a held[i]
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int local = offset + i * kThreads + static_cast<int>(threadIdx.x);
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
  for (int i = 0; i < kUnroll; ++i)
    if (whole[i]) *reinterpret_cast<Unit*>(cache + place[i]) = held[i];
}

// Low bits set by any address or stride; the unit is what their lowest set bit allows.
uint64_t alignment_bits(const KvSide& side) {
  return reinterpret_cast<uintptr_t>(side.source) | reinterpret_cast<uintptr_t>(side.cache) |
         static_cast<uint64_t>(side.source_batch | side.source_head | side.source_token |
                               side.cache_row | side.cache_head | side.cache_token);
}

template <typename Unit>
const char* launch(const KvAppendParams& params, cudaStream_t stream) {
  const auto units = [](const KvSide& side) {
    return (side.token_bytes + static_cast<int64_t>(sizeof(Unit)) - 1) /
           static_cast<int64_t>(sizeof(Unit));
  };
  const int64_t units_k = units(params.sides[0]), units_v = units(params.sides[1]);
  const int64_t longest = params.tokens * std::max(units_k, units_v);
  const int64_t chunks = (longest + kUnitsPerBlock - 1) / kUnitsPerBlock;
  if (std::max(units_k, units_v) > INT32_MAX - kUnitsPerBlock)
    return "the head size is too large for one launch";
  if (chunks > INT32_MAX / (2 * params.batch * params.heads))
    return "batch * heads * tokens is too large for one launch";
  const auto blocks = static_cast<unsigned>(2 * params.batch * params.heads * chunks);
  kv_append_kernel<Unit><<<blocks, kThreads, 0, stream>>>(
      params, chunks, static_cast<int>(units_k), static_cast<int>(units_v));
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace

const char* kv_append_cuda(const KvAppendParams& params, void* stream) {
  const int64_t bytes = params.sides[0].token_bytes + params.sides[1].token_bytes;
  if (params.batch == 0 || params.heads == 0 || params.tokens == 0 || bytes == 0) return nullptr;
  const auto on = static_cast<cudaStream_t>(stream);
  const uint64_t bits = alignment_bits(params.sides[0]) | alignment_bits(params.sides[1]);
  if (bits % 16 == 0) return launch<uint4>(params, on);
  if (bits % 4 == 0) return launch<uint32_t>(params, on);
  if (bits % 2 == 0) return launch<uint16_t>(params, on);
  return launch<uint8_t>(params, on);
}

}  // namespace steer
