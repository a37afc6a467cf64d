// The exact top-k list of a row, by the warp that finds itself the last of the row.
//
// Mathematics: where k tiles have a largest value of t or more, so have k elements: the k-th largest of
//   the tiles' largest values, found by counting, bounds the list from below. Only tiles that reach it
//   count, at most k and a few, and of these only lanes whose largest value does; their elements are
//   read again. A key is the value's integer over the complement of the column, so keys are all
//   different, and ties fall to the lower column.
// Movement: of 256 tiles at a time the largest values are in registers; the lanes' are read for the
//   tiles that count, 32 each; then the elements of lanes that count, 64 bytes each. Candidates are
//   gathered in shared memory, and ranked by counting when it is full and at the end.
#pragma once

#include <climits>
#include <cstdint>

#include "cuda/row_tile.h"

namespace steer {

constexpr int kSample = 8;  // tiles of a lane at a time
constexpr int kCandidates = 128;
constexpr int kBatch = 16, kGroups = 64 + 32 * kBatch;  // tiles at a time, and their lanes
constexpr int kRounds = 2;  // of 32 pieces of 16 bytes, on their way together

// Shared memory of a warp.
struct ListSpace {
  int64_t keys[kCandidates];
  int2 groups[kGroups];       // number of a lane's columns (32 * tile + lane), key of the largest
  int sample[32 * kSample];    // keys of the largest values of tiles, then the tiles that count
};

__device__ __forceinline__ int64_t long_key(int key, int column) {
  return static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(key)) << 32 |
                              static_cast<uint32_t>(INT_MAX - column));
}
__device__ __forceinline__ float value_of(int64_t key) {
  return value_of(static_cast<int>(key >> 32));
}
__device__ __forceinline__ int column_of(int64_t key) {
  return INT_MAX - static_cast<int>(key & INT_MAX);
}

__device__ __forceinline__ int below(uint32_t mask, int lane) {
  return __popc(mask & ((1u << lane) - 1));
}

// Candidates: all keys above `floor` that were offered, but for those that k others exceed.
struct TopList {
  ListSpace& space;
  int k, lane;
  int64_t floor;
  int count = 0;

  __device__ __forceinline__ void offer(int64_t key) {
    uint32_t mask = __ballot_sync(~0u, key > floor);
    if (mask == 0) return;
    if (count + __popc(mask) > kCandidates) {
      rank();
      mask = __ballot_sync(~0u, key > floor);
    }
    if (key > floor) space.keys[count + below(mask, lane)] = key;
    count += __popc(mask);
  }

  // Puts the k largest in order, and drops the rest.
  __device__ __forceinline__ void rank() {
    constexpr int kOwn = kCandidates / 32;
    int64_t own[kOwn];
    int place[kOwn] = {};
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
      own[i] = lane + 32 * i < count ? space.keys[lane + 32 * i] : LLONG_MIN;
#pragma unroll 1
    for (int other = 0; other < count; ++other) {
      const int64_t key = space.keys[other];
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
        if (32 * i < count) place[i] += key > own[i];  // for all lanes or none
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
      if (lane + 32 * i < count && place[i] < k) space.keys[place[i]] = own[i];
    __syncwarp();
    count = min(count, k);
    if (count == k) floor = max(floor, space.keys[k - 1]);
  }
};

// The sum of what lower lanes have, and in `total` that of all.
__device__ __forceinline__ int sum_below(int x, int lane, int& total) {
  int through = x;
#pragma unroll
  for (int apart = 1; apart < 32; apart *= 2) {
    const int other = __shfl_up_sync(~0u, through, apart);
    if (lane >= apart) through += other;
  }
  total = __shfl_sync(~0u, through, 31);
  return through - x;
}

// A value that k of the sample reach, and how many of the tiles that equal it are needed.
struct Threshold {
  int key = INT_MIN, ties = INT_MAX;
};

__device__ __forceinline__ int reaching(const int (&keys)[kSample], int key) {
  int count = 0;
#pragma unroll
  for (int i = 0; i < kSample; ++i) count += keys[i] >= key;
  return __reduce_add_sync(~0u, count);
}

// Halves the range of the keys, INT_MIN where there is none; a few more than k are as good, and spare
// some steps.
template <typename T>
__device__ __forceinline__ Threshold threshold_of(int (&keys)[kSample], int k) {
  constexpr int kSpare = 4, kUnits = T::kUnitBits;
  int least = INT_MAX, most = INT_MIN, real = 0;
#pragma unroll
  for (int i = 0; i < kSample; ++i) {
    if (keys[i] != INT_MIN) least = min(least, keys[i]), ++real;
    most = max(most, keys[i]);
    keys[i] >>= kUnits;
  }
  real = __reduce_add_sync(~0u, real);
  if (real < k) return {};
  int low = __reduce_min_sync(~0u, least) >> kUnits;  // all reach it, k reach it
  int high = (__reduce_max_sync(~0u, most) >> kUnits) + 1;  // none does
  int count = real;
#pragma unroll 1
  while (count > k + kSpare && static_cast<uint32_t>(high) - static_cast<uint32_t>(low) > 1) {
    const uint32_t half = (static_cast<uint32_t>(high) - static_cast<uint32_t>(low)) / 2;
    const int tried = static_cast<int>(static_cast<uint32_t>(low) + half);
    const int reach = reaching(keys, tried);
    if (reach >= k)
      low = tried, count = reach;
    else
      high = tried;
  }
  Threshold found;
  found.key = static_cast<int>(static_cast<uint32_t>(low) << kUnits);
  if (count > k + kSpare) found.ties = k - reaching(keys, low + 1);
  return found;
}

// Reads again what the lanes in `space.groups` had, and offers it.
template <typename T>
__device__ __forceinline__ void offer_groups(TopList& list, const Row<T>& row, int groups) {
  using Bits = typename T::Bits;
  __syncwarp();
#pragma unroll 1
  for (int first = 0; first < 4 * groups; first += 32 * kRounds) {
    Bits bits[kRounds][kVector<T>];
    int column[kRounds];
    bool wanted[kRounds];
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int item = first + 32 * r + list.lane;
      const int2 group = list.space.groups[min(item / 4, groups - 1)];
      column[r] = (group.x / 32) * kTileColumns<T> + (item % 4 * 32 + group.x % 32) * kVector<T>;
      wanted[r] = item < 4 * groups && long_key(group.y, column[r]) > list.floor;
      const Bits* const at = reinterpret_cast<const Bits*>(row.start) + column[r];
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i)
        bits[r][i] = wanted[r] && column[r] + i < row.vocab ? __ldg(at + i) : 0;
    }
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const auto key_of_bits = [&](Bits x, int i) {
        return long_key(key_of(element<T>(x) + 0.0f), column[r] + i);
      };
      uint32_t left = 0;  // those of this lane that are above the floor, one bit each
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i)
        if (wanted[r] && column[r] + i < row.vocab && key_of_bits(bits[r][i], i) > list.floor)
          left |= 1u << i;
#pragma unroll 1
      while (__any_sync(~0u, left != 0)) {
        const int i = __ffs(left) - 1;
        int64_t key = LLONG_MIN;
        if (left != 0) {
          const Bits* const at = reinterpret_cast<const Bits*>(row.start) + column[r];
          key = key_of_bits(__ldg(at + i), i);  // from L1
        }
        list.offer(key);
        left &= left - 1;
      }
    }
  }
  __syncwarp();
}

// Of the next `tiles` from `first` on, up to as many as `space.sample` has keys of: those that reach the
// threshold, and of the tiles that equal it the first `ties`.
template <typename T>
__device__ __forceinline__ void offer_tiles(TopList& list, const Row<T>& row, const int* peaks,
                                            int first, int tiles, int threshold, int ties) {
  int chosen = 0, tied = 0;
#pragma unroll 1
  for (int i = 0; i < min(tiles, 32 * kSample); i += 32) {
    const int key = list.space.sample[i + list.lane];
    const bool tie = key >> T::kUnitBits == threshold >> T::kUnitBits;
    const uint32_t equal = __ballot_sync(~0u, tie);
    const bool reaches = tie ? tied + below(equal, list.lane) < ties : key > threshold;
    const bool here = reaches && key != INT_MIN;
    tied += __popc(equal);
    const uint32_t mask = __ballot_sync(~0u, here);
    __syncwarp();  // all have read before one writes
    if (here) list.space.sample[chosen + below(mask, list.lane)] = i + list.lane;
    chosen += __popc(mask);
  }
  __syncwarp();
  int groups = 0;
#pragma unroll 1
  for (int batch = 0; batch < chosen; batch += kBatch) {
    int4 found[kBatch / 4];
    int tile[kBatch / 4];
#pragma unroll
    for (int i = 0; i < kBatch / 4; ++i) {
      const int at = batch + 4 * i + list.lane / 8;
      tile[i] = at < chosen ? first + list.space.sample[at] : -1;
      found[i] = make_int4(INT_MIN, INT_MIN, INT_MIN, INT_MIN);
      if (at < chosen)
        found[i] = __ldcg(reinterpret_cast<const int4*>(peaks + 32 * static_cast<int64_t>(tile[i])) +
                          list.lane % 8);
    }
    const auto group_at = [&](int i) {
      const int4& four = found[i / 4];
      const int peak = i % 4 == 0 ? four.x : i % 4 == 1 ? four.y : i % 4 == 2 ? four.z : four.w;
      return make_int2(32 * tile[i / 4] + list.lane % 8 * 4 + i % 4, peak);
    };
    uint32_t wanted = 0;  // one bit each
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int2 group = group_at(i);
      const int column = (group.x / 32) * kTileColumns<T> + group.x % 32 * kVector<T>;
      if (tile[i / 4] >= 0 && long_key(group.y, column) > list.floor) wanted |= 1u << i;
    }
    int found_here;
    int place = groups + sum_below(__popc(wanted), list.lane, found_here);
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (wanted >> i & 1) list.space.groups[place++] = group_at(i);
    groups += found_here;
    if (groups > kGroups - 32 * kBatch || batch + kBatch >= chosen) {
      offer_groups(list, row, groups);
      groups = 0;
    }
  }
}

}  // namespace steer
