// kv_append_, CPU: ragged rows of new keys and values into a preallocated cache, in place.
//
// Mathematics: none. For every b, h and i < counts[b]:
//   cache[rows[b], h, starts[b] + i, :] = source[b, h, i, :], for keys and for values.
// Data movement: one memcpy per row and head where tokens lie back to back on both sides, else one
//   per token; bytes are copied as they are, whatever the dtype.
// Bytes: 2 * heads * head size * element size a new token, read once and written once. The context
//   that is already in the cache is not touched, so its length does not matter.
// Synchronisation: none. Heads of rows are independent tasks; entries that would write the same
//   position are refused before anything is written, so no two tasks share a byte.
#include "cpu/kv_append.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace steer {
namespace {

// Bytes below which a second thread costs more than it brings: about 10 us of copying.
constexpr int64_t kGrainBytes = 128 * 1024;

std::string item(const char* name, int64_t b, int64_t value) {
  return std::string(name) + "[" + std::to_string(b) + "] is " + std::to_string(value);
}

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

void check_entry(const KvAppendParams& params, int64_t b) {
  const KvEntry entry(params, b);
  if (entry.fits(params)) return;
  const std::string capacity = std::to_string(params.capacity);
  if (!entry.row_fits(params))
    refuse(item("rows", b, entry.row) + ", but the cache has " +
           std::to_string(params.cache_rows) + " rows");
  if (!entry.start_fits(params))
    refuse(item("starts", b, entry.start) + ", but a row of the cache holds positions 0.." +
           capacity);
  if (!entry.count_fits(params))
    refuse(item("counts", b, entry.count) + ", but k and v have room for " +
           std::to_string(params.tokens) + " tokens");
  refuse(item("counts", b, entry.count) + " and " + item("starts", b, entry.start) +
         ": together they exceed the " + capacity + " positions of a row of the cache");
}

// Two entries may share a row of the cache, but not a position of it.
void check_disjoint(const KvAppendParams& params) {
  if (params.batch < 2) return;
  std::vector<int64_t> order;
  order.reserve(params.batch);
  for (int64_t b = 0; b < params.batch; ++b)
    if (KvEntry(params, b).count > 0) order.push_back(b);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const KvEntry x(params, a), y(params, b);
    return x.row != y.row ? x.row < y.row : x.start < y.start;
  });
  for (size_t i = 1; i < order.size(); ++i) {
    const KvEntry before(params, order[i - 1]), after(params, order[i]);
    if (before.row != after.row || before.start + before.count <= after.start) continue;
    refuse(item("rows", order[i - 1], before.row) + " and so is " +
           "rows[" + std::to_string(order[i]) + "], and both would write position " +
           std::to_string(after.start) + " of it");
  }
}

void copy_head(const KvAppendParams& params, const KvSide& side, int64_t b, int64_t head) {
  const KvEntry entry(params, b);
  if (entry.count == 0 || side.token_bytes == 0) return;  // memcpy of nothing may be of null
  const char* source = side.source + b * side.source_batch + head * side.source_head;
  char* cache = side.cache + entry.row * side.cache_row + head * side.cache_head +
                entry.start * side.cache_token;
  const size_t bytes = static_cast<size_t>(side.token_bytes);
  if (side.source_token == side.token_bytes && side.cache_token == side.token_bytes) {
    std::memcpy(cache, source, bytes * entry.count);
    return;
  }
  for (int64_t i = 0; i < entry.count; ++i)
    std::memcpy(cache + i * side.cache_token, source + i * side.source_token, bytes);
}

}  // namespace

void kv_append_cpu(const KvAppendParams& params, const ParallelFor& parallel_for) {
  for (int64_t b = 0; b < params.batch; ++b) check_entry(params, b);
  check_disjoint(params);
  const int64_t tasks = 2 * params.batch * params.heads;  // one head of one row's keys or values
  const auto copy = [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b_head = task / 2;
      copy_head(params, params.sides[task % 2], b_head / params.heads, b_head % params.heads);
    }
  };
  const int64_t side_bytes = params.sides[0].token_bytes + params.sides[1].token_bytes;
  const int64_t task_bytes = std::max<int64_t>(1, params.tokens * side_bytes / 2);
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / task_bytes);
  if (tasks <= grain) {
    copy(0, tasks);  // a decode step: spare it the way through std::function and the pool
  } else {
    parallel_for(tasks, grain, copy);
  }
}

}  // namespace steer
