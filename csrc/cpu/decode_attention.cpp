// decode_attention, CPU driver: split, attend, merge.
//
// Mathematics: for query q of a row at position t, over keys j of max(0, t - window + 1) .. t:
//   s_j = scale * <q, k_j>,  out = sum_j exp(s_j - m) v_j / sum_j exp(s_j - m),  m = max_j s_j.
// Data movement: the keys of a head are cut into blocks of kBlockKeys. A block's keys are read from
//   memory once, for all queries of the group and all new tokens of the row, then its values once
//   (decode_attention_tile.h). A row's blocks end where the row ends.
// Bytes: (size + value_size) * sizeof(dtype) per key and key head, plus about 1/kBlockKeys of that
//   in float scratch for each query.
// Arithmetic: (size + value_size) multiply-adds per key and query head.
// Synchronisation: two parallel loops and the barrier between them. The blocks of a single row are
//   independent tasks, so one row is shared by the threads too. Neither the borders of blocks nor
//   the order in which they are merged depend on threads or on other rows: results are bitwise the
//   same for any of them.
#include "cpu/decode_attention.h"

#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace steer {
namespace {

constexpr int64_t kGrainBytes = 256 * 1024;  // about 10 us of reading
constexpr int64_t kMostStart = INT64_MAX / 4;

// A copy of the starts: what is checked has to be what is used by every task of the call.
std::vector<int64_t> checked_starts(const DecodeAttentionParams& params) {
  std::vector<int64_t> starts(params.batch);
  for (int64_t row = 0; row < params.batch; ++row) {
    const int64_t start = starts[row] = params.start(row);
    if (start >= 0 && start <= kMostStart) continue;
    throw std::invalid_argument("starts[" + std::to_string(row) + "] is " +
                                std::to_string(start) + ", which is no position of a query: " +
                                "positions count from 0");
  }
  return starts;
}

// Sizes of scratch: a view may claim 2^62 keys in a few bytes of memory.
int64_t product(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result)) throw std::bad_alloc();
  return result;
}

int64_t sum(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_add_overflow(a, b, &result)) throw std::bad_alloc();
  return result;
}

// Runs `body`, in the calling thread where there is too little for two.
void split(int64_t count, int64_t item_bytes, const ParallelFor& parallel_for,
           const RangeBody& body) {
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(1, item_bytes));
  if (count <= grain) {
    if (count > 0) body(0, count);
  } else {
    parallel_for(count, grain, body);
  }
}

}  // namespace

DecodeAttentionWorkspace::DecodeAttentionWorkspace(const DecodeAttentionParams& params,
                                                   int64_t lanes)
    : rows_of_task(product(params.group(), params.queries)),
      padded_value_size((params.value_size + lanes - 1) / lanes * lanes),
      tasks(params.batch + 1, 0),
      blocks(params.batch, 0) {
  for (int64_t row = 0; row < params.batch; ++row) {
    const KeyRange keys{keys_of_query(params, row, 0).begin,
                        keys_of_query(params, row, params.queries - 1).end};
    blocks[row] = keys.begin / kBlockKeys;
    const int64_t after = (keys.end + kBlockKeys - 1) / kBlockKeys;
    const int64_t count = keys.size() == 0 ? 0 : after - blocks[row];
    tasks[row + 1] = sum(tasks[row], product(count, params.kv_heads));
  }
  const int64_t rows = product(tasks.back(), rows_of_task);
  values.reset(new float[product(rows, padded_value_size)]);
  sums.reset(new float[rows]);
  maxima.reset(new float[rows]);
}

void decode_attention_cpu(const DecodeAttentionParams& given, const ParallelFor& parallel_for) {
  const DecodeAttentionKernels& kernels = current_kernels().decode_attention;
  const std::vector<int64_t> starts = checked_starts(given);
  DecodeAttentionParams params = given;
  params.starts = starts.data();
  params.starts_stride = 1;
  if (params.batch == 0 || params.heads == 0 || params.queries == 0) return;
  DecodeAttentionWorkspace work(params, kernels.lanes);
  const int64_t element = params.dtype == DType::kFloat32 ? 4 : 2;
  const int64_t task_bytes = kBlockKeys * (params.size + params.value_size) * element;
  split(work.tasks.back(), task_bytes, parallel_for,
        [&](int64_t begin, int64_t end) { kernels.attend(params, work, begin, end); });
  const int64_t key_heads = params.batch * params.kv_heads;
  const int64_t tasks_of_head = work.tasks.back() / key_heads + 1;
  split(key_heads, tasks_of_head * work.rows_of_task * work.padded_value_size * 4, parallel_for,
        [&](int64_t begin, int64_t end) { kernels.merge(params, work, begin, end); });
}

}  // namespace steer
