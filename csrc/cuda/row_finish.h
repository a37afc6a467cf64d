// What the last warp of a row makes of its tiles: the six results and the token.
#pragma once

#include <cstdint>

#include "cuda/row_cuts.h"
#include "cuda/row_list.h"

namespace steer {

// ---- the row's moments ------------------------------------------------------------------------

// Relative to the row's largest value; sums in double.
struct RowMoments {
  float top = -INFINITY;
  double sum = 0.0, slope = 0.0, mass = 0.0;
};

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}

// The exponent of two in exp(m - top), 0 at the top even where that is infinite.
__device__ __forceinline__ float power_below(float m, float top) {
  return m == top ? 0.0f : (m - top) * kLog2E;
}

__device__ __forceinline__ float4 tile_moments(const RowsParams& p, int row, int tile) {
  const auto* const at = reinterpret_cast<const float4*>(p.moments) + static_cast<int64_t>(row) * p.tiles;
  return tile < p.tiles ? __ldcg(at + tile) : make_float4(-INFINITY, 0.0f, 0.0f, 0.0f);
}

// The mass of a tile at the row's largest value.
template <bool kMass>
__device__ __forceinline__ double tile_mass(const float4& tile, float top, float inverse) {
  const float mass = kMass ? tile.w : tile.y;
  return mass > 0.0f ? static_cast<double>(mass * power_of_two(power_below(tile.x, top) * inverse))
                     : 0.0;
}

constexpr int kMerged = 8;  // tiles of a lane at a time

// Makes sums relative to a larger value.
__device__ __forceinline__ void move_to(RowMoments& of, float top, float inverse) {
  const float power = fmaxf(power_below(of.top, top), kWeightless), weight = power_of_two(power);
  of.slope = weight * (of.slope + power * of.sum);
  of.sum *= weight;
  if (of.mass > 0.0) of.mass *= power_of_two(power_below(of.top, top) * inverse);
  of.top = top;
}

// A lane's sums are moved to the common top as that grows. The largest values of the first tiles are
// kept as keys, INT_MIN where there is no tile.
template <bool kMass>
__device__ __forceinline__ RowMoments merge_tiles(const RowsParams& p, int row, int lane,
                                                  ListSpace& space) {
  RowMoments of;
#pragma unroll 1
  for (int first = 0; first < max(p.tiles, 32 * kSample); first += 32 * kMerged) {
    float4 tile[kMerged];
    int key = key_of(of.top);
#pragma unroll
    for (int i = 0; i < kMerged; ++i) tile[i] = tile_moments(p, row, first + 32 * i + lane);
#pragma unroll
    for (int i = 0; i < kMerged; ++i) {
      const int own = key_of(tile[i].x);
      const int at = first + 32 * i + lane;
      if (at < 32 * kSample) space.sample[at] = at < p.tiles ? own : INT_MIN;
      key = max(key, own);
    }
    const float top = value_of(__reduce_max_sync(~0u, key));
    const float inverse = static_cast<float>(p.inverse);
    move_to(of, top, inverse);
    float sum = 0.0f, slope = 0.0f;  // of a lane's few tiles
#pragma unroll
    for (int i = 0; i < kMerged; ++i) {
      const float power = fmaxf(power_below(tile[i].x, top), kWeightless);
      const float weight = power_of_two(power);
      sum = fmaf(weight, tile[i].y, sum);
      slope = fmaf(weight, fmaf(power, tile[i].y, tile[i].z), slope);
      if constexpr (kMass) of.mass += tile_mass<kMass>(tile[i], top, inverse);
    }
    of.sum += sum, of.slope += slope;
  }
  of.sum = warp_sum(of.sum), of.slope = warp_sum(of.slope);
  if constexpr (kMass) of.mass = warp_sum(of.mass);
  return of;
}

// ---- the token --------------------------------------------------------------------------------

__device__ __forceinline__ double running_sum(double x, int lane) {
#pragma unroll
  for (int apart = 1; apart < 32; apart *= 2) {
    const double other = __shfl_up_sync(~0u, x, apart);
    if (lane >= apart) x += other;
  }
  return x;
}

// The first lane whose running sum exceeds the target, else the last with a weight; -1 if none has one.
// `through` and `weight` of it are then known to all lanes.
struct Place {
  int at = -1;       // tile, or vector of a tile
  double before = 0.0;  // the sum of those before
};

// Adds 32 weights, in order, to those passed so far. Returns whether the place is final.
__device__ __forceinline__ bool pass(Place& place, double& passed, double weight, double target,
                                     int first, int lane) {
  const double through = passed + running_sum(weight, lane);
  const uint32_t weighty = __ballot_sync(~0u, weight > 0.0);
  const uint32_t over = __ballot_sync(~0u, weight > 0.0 && through > target);
  if (weighty != 0) {
    const int at = over != 0 ? __ffs(over) - 1 : 31 - __clz(weighty);
    const double before = __shfl_sync(~0u, through, max(at - 1, 0));
    place.at = first + at;
    place.before = at == 0 ? passed : before;
  }
  passed = __shfl_sync(~0u, through, 31);
  return over != 0;
}

__device__ __forceinline__ double uniform_of(const RowsParams& p, int row) {
  const int64_t at = row * p.uniform_stride;
  return p.uniform_bytes == 8 ? static_cast<const double*>(p.uniform)[at]
                              : static_cast<double>(static_cast<const float*>(p.uniform)[at]);
}

// First the tile, then which 16 bytes of it, then the column of these.
template <typename T, bool kMass>
__device__ __forceinline__ int draw(const RowsParams& p, const Row<T>& from, int row, float top,
                                    double total, double uniform, int lane) {
  const float inverse = static_cast<float>(p.inverse);
  const double target = uniform * total;
  Place tile, vector;
  double passed = 0.0;
#pragma unroll 1
  for (int first = 0; first < p.tiles; first += 32)
    if (pass(tile, passed, tile_mass<kMass>(tile_moments(p, row, first + lane), top, inverse),
             target, first, lane))
      break;

  const float local = __ldcg(p.moments + 4 * (static_cast<int64_t>(row) * p.tiles + tile.at));
  const double inside =
      (target - tile.before) / power_of_two(power_below(local, top) * inverse);
  uint32_t words[kTileWords];
  from.load(words, tile.at, lane);
  const auto weight_of = [&](float x) { return power_of_two(power_below(x, local) * inverse); };
  float sums[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t (&four)[4] = reinterpret_cast<const uint32_t (&)[4]>(words[4 * j]);
    sums[j] = 0.0f;
    for_each<T>(four, [&](float x) { sums[j] += weight_of(x); });
  }
  passed = 0.0;
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (pass(vector, passed, sums[j], inside, 32 * j, lane)) break;
  const int column = tile.at * kTileColumns<T> + vector.at * kVector<T>;
  const auto* const at = reinterpret_cast<const typename T::Bits*>(from.start) + column;
  const bool real = lane < kVector<T> && column + lane < p.vocab;
  const float weight = real ? weight_of(element<T>(__ldg(at + lane))) : 0.0f;
  Place last;
  passed = vector.before;
  pass(last, passed, weight, inside, 0, lane);
  return column + last.at;
}

template <typename T>
__device__ __forceinline__ void store_token(const RowsParams& p, const Row<T>& from, int row,
                                            int column, float top, double total, double inverse) {
  const float x = element<T>(
      __ldg(reinterpret_cast<const typename T::Bits*>(from.start) + column));
  p.token[row] = column;
  p.logprob[row] = static_cast<float>(exponent_of(x, top, inverse) - log(total));
}

// ---- all of it --------------------------------------------------------------------------------

template <typename T>
__device__ __forceinline__ void store_list(const RowsParams& p, const ListSpace& space, int row,
                                           int lane, bool valid) {
  const int64_t first = static_cast<int64_t>(row) * p.k;
  for (int i = lane; i < p.k; i += 32) {
    p.topk_logits[first + i] = valid ? value_of(space.keys[i]) : NAN;
    p.topk_ids[first + i] = valid ? column_of(space.keys[i]) : i;
  }
}

// `space.sample` has the keys of the first tiles; a lane reads what it has written itself.
template <typename T>
__device__ __forceinline__ void find_list(const RowsParams& p, const Row<T>& from, int row,
                                          int lane, ListSpace& space) {
  const int* const peaks = p.peaks + 32 * static_cast<int64_t>(row) * p.tiles;
  const bool few = p.tiles < p.length;  // then their lanes' largest values say more
  int keys[kSample];
#pragma unroll
  for (int i = 0; i < kSample; ++i) {
    keys[i] = few ? INT_MIN : space.sample[32 * i + lane];
    if (few && i < p.tiles) keys[i] = __ldcg(peaks + 32 * i + lane);
  }
  const Threshold from_key = threshold_of<T>(keys, p.length);
  TopList list{space, p.length, lane,
               from_key.key == INT_MIN ? LLONG_MIN : long_key(from_key.key, INT_MAX) - 1};
  int ties = few ? INT_MAX : from_key.ties;
#pragma unroll 1
  for (int first = 0; first < p.tiles; first += 32 * kSample) {
    if (first > 0) {
#pragma unroll 1
      for (int i = lane; i < 32 * kSample; i += 32)
        space.sample[i] = first + i < p.tiles ? key_of(tile_moments(p, row, first + i).x) : INT_MIN;
    }
    offer_tiles(list, from, peaks, first, p.tiles - first, from_key.key, ties);
    ties = 0;  // the first tiles have k elements that equal the threshold or exceed it
  }
  list.rank();
}

template <typename T, bool kMass>
__device__ __forceinline__ void finish_row(const RowsParams& p, int row, ListSpace& space) {
  const int lane = own_lane();
  const Row<T> from(p, row);
  const RowMoments of = merge_tiles<kMass>(p, row, lane, space);
  const bool valid = of.top > -INFINITY;  // not of NaN
  if (valid) find_list(p, from, row, lane, space);
  store_list<T>(p, space, row, lane, valid);
  const double log_sum = log(of.sum);
  if (lane == 0) {
    p.max_logit[row] = valid ? of.top : NAN;
    p.lse[row] = valid ? static_cast<float>(of.top + log_sum) : NAN;
    p.entropy[row] = valid ? static_cast<float>(log_sum - kLog2 * (of.slope / of.sum)) : NAN;
    p.valid[row] = valid;
  }
  if (p.mode == RowToken::kNone) return;
  const double uniform = uniform_of(p, row), total = kMass ? of.mass : of.sum;
  if (!valid || !(uniform >= 0.0 && uniform < 1.0)) {
    if (lane == 0) p.token[row] = 0, p.logprob[row] = NAN;
  } else if (p.mode == RowToken::kGreedy) {
    if (lane == 0) p.token[row] = column_of(space.keys[0]), p.logprob[row] = static_cast<float>(-log_sum);
  } else if (p.mode == RowToken::kCut) {
    store_cut_token(p, space, row, of.top, total, uniform, lane);
  } else {
    const int column = draw<T, kMass>(p, from, row, of.top, total, uniform, lane);
    if (lane == 0) store_token(p, from, row, column, of.top, total, p.inverse);
  }
}

}  // namespace steer
