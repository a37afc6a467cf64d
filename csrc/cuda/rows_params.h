// Arguments of the kernel of logit_stats and sample_logits, and the shape of its launch.
//
// It needs no CUDA header, so a C++ test reads it too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/dtype.h"

namespace steer {

// A tile is what a warp has in registers: 16 bytes, four times, of every lane.
constexpr int kRowThreads = 128;
constexpr int kRowWarps = kRowThreads / 32;
constexpr int kTileBytes = 2048;
constexpr int kTileWords = kTileBytes / 4 / 32;  // of a lane
constexpr int kRowBlocksPerSm = 5;                // what its registers allow on every GPU from sm_80 on
constexpr int kMomentWords = 4, kPeakWords = 32;  // of scratch, a tile
constexpr int kMaxList = 64;

enum class RowToken : int { kNone, kGreedy, kPlain, kCut };

struct RowsParams {
  const void* logits = nullptr;  // [rows, vocab]
  int64_t row_bytes = 0;         // from one row to the next
  int vocab = 0, tiles = 0;      // columns of a row, and tiles that hold them
  int units = 0;                 // rows * tiles: all tiles of all rows, one row after another
  int ranges = 0;                // warps that have some: `each` units, the first `extra` one more
  int each = 0, extra = 0;
  int k = 0, length = 0;  // of the list: what is returned, and what is found; 1..kMaxList, at most vocab

  float* max_logit = nullptr;    // [rows]
  float* lse = nullptr;          // [rows]
  float* entropy = nullptr;      // [rows]
  float* topk_logits = nullptr;  // [rows, k]
  int64_t* topk_ids = nullptr;   // [rows, k]
  bool* valid = nullptr;         // [rows]

  RowToken mode = RowToken::kNone;
  const void* uniform = nullptr;  // [rows], of `uniform_bytes`: float or double
  int64_t uniform_stride = 0;     // in elements
  int uniform_bytes = 8;
  double inverse = 1.0;           // of the temperature
  double top_p = 1.0, least = 0;  // of kCut; `least` is the logarithm of min_p
  int top_k = 0;
  int64_t* token = nullptr;   // [rows]
  float* logprob = nullptr;   // [rows]

  float* moments = nullptr;  // [units, kMomentWords]
  int* peaks = nullptr;      // [units, kPeakWords]
  int* arrived = nullptr;    // [rows], zero, and zero again when the kernel ends
};

// How rows are cut; the sums of a tile and their order do not depend on it.
struct RowsPlan {
  int tiles = 0, units = 0, ranges = 0, blocks = 0;
  const char* fault = nullptr;
};

inline int element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Of the list that decides the cuts: longer than top_k, which shows a tie of its last; in 16 bits, where
// logits are often equal, so much longer that most ties are all there. Where top_k does not bound what is
// kept, as long as can be: a row that the list does not decide is searched, which takes far longer.
inline int cut_list_length(int k, int64_t top_k, int64_t vocab, DType dtype) {
  const int64_t more = element_bytes(dtype) == 2 ? 13 : 1;
  const bool bounded = top_k > 0 && top_k < kMaxList;
  const int64_t wanted = bounded ? std::min<int64_t>(top_k + more, kMaxList) : kMaxList;
  return static_cast<int>(std::min(std::max<int64_t>(k, wanted), vocab));
}

// An even split: with fewer tiles than warps each has a warp, on as many multiprocessors as can be.
inline RowsPlan rows_plan(int64_t rows, int64_t vocab, DType dtype, int multiprocessors) {
  RowsPlan plan;
  const int64_t columns = kTileBytes / element_bytes(dtype);
  const int64_t tiles = (vocab + columns - 1) / columns, units = rows * tiles;
  if (vocab > INT32_MAX - columns || units > INT32_MAX / 32) {
    plan.fault = "the logits are too large for one launch";
    return plan;
  }
  plan.tiles = static_cast<int>(tiles);
  plan.units = static_cast<int>(units);
  plan.blocks = static_cast<int>(
      std::min<int64_t>(units, static_cast<int64_t>(multiprocessors) * kRowBlocksPerSm));
  plan.ranges =
      static_cast<int>(std::min<int64_t>(units, static_cast<int64_t>(plan.blocks) * kRowWarps));
  return plan;
}

}  // namespace steer
