// kv_append_, CPU: ragged rows of new keys and values into a preallocated cache, in place.
//
// Mathematics: none. For every b, h and i < counts[b]:
//   cache[rows[b], h, starts[b] + i, :] = source[b, h, i, :], for keys and for values.
// Data movement: one memcpy per row and head where tokens lie back to back on both sides, else one
//   per token; bytes are copied as they are, whatever the dtype.
// Bytes: 2 * heads * head size * element size a new token, read once and written once. The context
//   that is already in the cache is not touched, so its length does not matter.
// Synchronisation: none. Heads of rows are independent tasks; entries that would write the same
//   position are refused before anything is written, so no two tasks share a byte. Rows, starts and
//   counts are copied once, and only the copies are checked and used.
#include "cpu/kv_append.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/memory_overlap.h"

namespace steer {
namespace {

// Bytes below which a second thread costs more than it brings: about 10 us of copying.
constexpr int64_t kGrainBytes = 128 * 1024;

// The call's own copy of rows, starts and counts: a batch of up to 16 needs no allocation.
class HeldIndices {
 public:
  explicit HeldIndices(const KvAppendParams& given) : params(given) {
    int64_t* to = few_;
    if (given.batch > kFew) {
      many_.resize(3 * given.batch);
      to = many_.data();
    }
    for (int64_t b = 0; b < given.batch; ++b) {
      const KvEntry entry(given, b);
      to[3 * b] = entry.row;
      to[3 * b + 1] = entry.start;
      to[3 * b + 2] = entry.count;
    }
    params.rows = to;
    params.starts = to + 1;
    params.counts = to + 2;
    params.rows_stride = params.starts_stride = params.counts_stride = 3;
  }
  HeldIndices(const HeldIndices&) = delete;

  KvAppendParams params;

 private:
  static constexpr int64_t kFew = 16;
  int64_t few_[3 * kFew];
  std::vector<int64_t> many_;
};

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

// Bytes from a tensor's first to its last.
ByteRange span_of(const char* name, const char* data, int64_t rows, int64_t row, int64_t heads,
                  int64_t head, int64_t tokens, int64_t token, int64_t bytes) {
  if (rows * heads * tokens * bytes == 0) return {name, data, 0};
  return {name, data, (rows - 1) * row + (heads - 1) * head + (tokens - 1) * token + bytes};
}

ByteRange span_of(const char* name, const int64_t* data, int64_t size, int64_t stride) {
  constexpr int64_t bytes = sizeof(int64_t);
  return {name, data, size == 0 ? 0 : ((size - 1) * stride + 1) * bytes};
}

// What entries write must not be read by the same call: refused as torch's index_copy_ does, but
// by the bytes that are really touched, so that caches may lie side by side in one tensor.
void check_memory(const KvAppendParams& given, const KvAppendParams& held) {
  static const char* const caches[2] = {"k_cache", "v_cache"};
  static const char* const sources[2] = {"k", "v"};
  const ByteRange indices[3] = {span_of("rows", given.rows, given.batch, given.rows_stride),
                                span_of("starts", given.starts, given.batch, given.starts_stride),
                                span_of("counts", given.counts, given.batch, given.counts_stride)};
  const auto cache = [&](int i) {
    const KvSide& side = held.sides[i];
    return span_of(caches[i], side.cache, held.cache_rows, side.cache_row, held.heads,
                   side.cache_head, held.capacity, side.cache_token, side.token_bytes);
  };
  const auto source = [&](int i) {
    const KvSide& side = held.sides[i];
    return span_of(sources[i], side.source, held.batch, side.source_batch, held.heads,
                   side.source_head, held.tokens, side.source_token, side.token_bytes);
  };
  const ByteRange keys = cache(0), values = cache(1), new_keys = source(0), new_values = source(1);
  bool apart = !keys.meets(values);
  for (const ByteRange& written : {keys, values}) {
    apart = apart && !written.meets(new_keys) && !written.meets(new_values);
    for (const ByteRange& index : indices) apart = apart && !written.meets(index);
  }
  if (apart) return;

  ByteRuns runs;
  for (int i = 0; i < 2; ++i) {
    const KvSide& side = held.sides[i];
    for (int64_t b = 0; b < held.batch; ++b) {
      const KvEntry entry(held, b);
      for (int64_t head = 0; head < held.heads; ++head) {
        const char* from = side.source + b * side.source_batch + head * side.source_head;
        const char* to = side.cache + entry.row * side.cache_row + head * side.cache_head +
                         entry.start * side.cache_token;
        for (int64_t token = 0; token < entry.count; ++token) {
          runs.write({caches[i], to + token * side.cache_token, side.token_bytes});
          runs.read({sources[i], from + token * side.source_token, side.token_bytes});
        }
      }
    }
  }
  const int64_t* const data[3] = {given.rows, given.starts, given.counts};
  const int64_t strides[3] = {given.rows_stride, given.starts_stride, given.counts_stride};
  for (int i = 0; i < 3; ++i)
    for (int64_t b = 0; b < given.batch; ++b)
      runs.read({indices[i].name, data[i] + b * strides[i], sizeof(int64_t)});
  const std::string fault = runs.fault();
  if (!fault.empty()) refuse(fault);
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

void kv_append_cpu(const KvAppendParams& given, const ParallelFor& parallel_for) {
  const HeldIndices held(given);
  const KvAppendParams& params = held.params;
  for (int64_t b = 0; b < params.batch; ++b) check_entry(params, b);
  check_disjoint(params);
  check_memory(given, params);
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
