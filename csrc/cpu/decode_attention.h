// decode_attention on the CPU: entry point, and what the driver shares with the tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/decode_attention_params.h"
#include "cpu/parallel.h"

namespace steer {

// Keys of a block, the unit of the reduction. Blocks begin at multiples of this, whatever the row's
// length, its window, its number of queries and the threads: so does every sum.
constexpr int64_t kBlockKeys = 256;

// Positions begin..end - 1.
struct KeyRange {
  int64_t begin, end;

  int64_t size() const { return std::max<int64_t>(0, end - begin); }
  KeyRange within(KeyRange other) const {
    return {std::max(begin, other.begin), std::min(end, other.end)};
  }
};

// What query `i` of a row reads.
inline KeyRange keys_of_query(const DecodeAttentionParams& params, int64_t row, int64_t i) {
  const int64_t at = params.start(row) + i;
  const int64_t begin = at < params.window ? 0 : at - params.window + 1;
  return {begin, std::min(at + 1, params.width)};
}

// Per-call scratch. A task is one block of one key head of one row; the blocks of a head lie side
// by side. For each query of a task: its weighted values, the sum of its weights, and its largest
// score.
struct DecodeAttentionWorkspace {
  DecodeAttentionWorkspace(const DecodeAttentionParams& params, int64_t lanes);

  int64_t rows_of_task;         // queries that share a key head: group * queries
  int64_t padded_value_size;    // floats of a query's weighted values
  std::vector<int64_t> tasks;   // [batch + 1]: the first task of each row, and their number
  std::vector<int64_t> blocks;  // [batch]: the first block that a row reads
  std::unique_ptr<float[]> values;  // [tasks, rows_of_task, padded_value_size]
  std::unique_ptr<float[]> sums;    // [tasks, rows_of_task]
  std::unique_ptr<float[]> maxima;  // [tasks, rows_of_task]

  int64_t blocks_of(const DecodeAttentionParams& params, int64_t row) const {
    return (tasks[row + 1] - tasks[row]) / params.kv_heads;
  }
};

// What is compiled once per instruction set (kernels.h).
struct DecodeAttentionKernels {
  int64_t lanes;
  // Fills the scratch of tasks [begin, end).
  void (*attend)(const DecodeAttentionParams&, DecodeAttentionWorkspace&, int64_t begin,
                 int64_t end);
  // Merges the blocks of key heads [begin, end), counted through all rows, and writes the output.
  void (*merge)(const DecodeAttentionParams&, const DecodeAttentionWorkspace&, int64_t begin,
                int64_t end);
};

// Fills the output. Shapes and strides must already be checked. Throws std::invalid_argument for a
// value of `starts` out of its range or a bad STEER_CPU_ISA, and that before any work.
void decode_attention_cpu(const DecodeAttentionParams& params, const ParallelFor& parallel_for);

}  // namespace steer
