// The CUDA kernel of kv_append_, thread by thread on the CPU, against the CPU's own.
//
// The kernel has no synchronisation, so running its threads one after another is a legal schedule:
// this checks every index it computes, not the compiler and not the device.
#include <cstdint>
#include <cstring>
#include <random>

#include "check.h"

struct Index {
  unsigned x;
};
static Index blockIdx, threadIdx;
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
#define __global__
#define __launch_bounds__(threads)
#include "cuda/kv_append_kernel.h"

#include "cpu/kv_append.h"

using namespace steer;

namespace {

std::mt19937 random_bits(7);

int64_t below(int64_t bound) { return static_cast<int64_t>(random_bits() % bound); }

uint32_t word() { return static_cast<uint32_t>(random_bits()); }


template <typename Unit>
void run_threads(const KvAppendParams& params, const KvLaunch& plan) {
  for (unsigned block = plan.blocks; block-- > 0;)
    for (unsigned thread = 0; thread < kKvThreads; ++thread) {
      blockIdx.x = block;
      threadIdx.x = thread;
      kv_append_kernel<Unit>(params, plan.chunks, plan.units_k, plan.units_v);
    }
}

void run_kernel(const KvAppendParams& params) {
  const KvLaunch plan = kv_launch(params);
  CHECK(plan.fault == nullptr);
  if (plan.unit == 16) run_threads<uint4>(params, plan);
  if (plan.unit == 4) run_threads<uint32_t>(params, plan);
  if (plan.unit == 2) run_threads<uint16_t>(params, plan);
  if (plan.unit == 1) run_threads<uint8_t>(params, plan);
}

// Memory for one side, with every stride a multiple of `align`, and a margin on both ends.
struct Side {
  static constexpr int64_t kMargin = 64;
  std::vector<uint4> source, cache;  // for their alignment

  void fill(KvSide& side, const KvAppendParams& params, int64_t bytes, int64_t align) {
    const auto padded = [&](int64_t n) {
      return (n + align - 1) / align * align + align * below(2);
    };
    side.token_bytes = bytes;
    side.source_token = padded(bytes);
    side.source_head = padded(side.source_token * params.tokens);
    side.source_batch = padded(side.source_head * params.heads);
    side.cache_token = padded(bytes);
    side.cache_head = padded(side.cache_token * params.capacity);
    side.cache_row = padded(side.cache_head * params.heads);
    source.resize((side.source_batch * params.batch + 2 * kMargin) / 16 + 1);
    cache.assign((side.cache_row * params.cache_rows + 2 * kMargin) / 16 + 1, uint4{7, 7, 7, 7});
    for (uint4& item : source) item = {word(), word(), word(), word()};
    side.source = reinterpret_cast<char*>(source.data()) + kMargin + align * (align < 16);
    side.cache = reinterpret_cast<char*>(cache.data()) + kMargin;
  }
};

struct Problem {
  KvAppendParams params;
  Side sides[2];
  std::vector<int64_t> rows, starts, counts;

  Problem(int64_t batch, int64_t heads, int64_t tokens, int64_t k_bytes, int64_t v_bytes,
          int64_t align) {
    params.batch = batch;
    params.heads = heads;
    params.tokens = tokens;
    params.cache_rows = batch + 1;
    params.capacity = tokens + 3;
    sides[0].fill(params.sides[0], params, k_bytes, align);
    sides[1].fill(params.sides[1], params, v_bytes, align);
    for (int64_t b = 0; b < batch; ++b) {
      rows.push_back((b + 1) % params.cache_rows);
      starts.push_back(below(4));
      counts.push_back(b == 0 ? tokens : below(tokens + 1));
    }
    params.rows = rows.data();
    params.starts = starts.data();
    params.counts = counts.data();
  }

  std::vector<char> memory(int s) const {
    std::vector<char> bytes(sides[s].cache.size() * 16);
    std::memcpy(bytes.data(), sides[s].cache.data(), bytes.size());
    return bytes;
  }
};

void check_same(Problem& problem) {
  const std::vector<uint4> clean[2] = {problem.sides[0].cache, problem.sides[1].cache};
  kv_append_cpu(problem.params, at_once);
  const std::vector<char> expected[2] = {problem.memory(0), problem.memory(1)};
  for (int s : {0, 1})
    std::copy(clean[s].begin(), clean[s].end(), problem.sides[s].cache.begin());
  run_kernel(problem.params);
  for (int s : {0, 1}) CHECK(problem.memory(s) == expected[s]);
}

}  // namespace

TEST(every_unit_and_every_remainder) {
  for (int64_t align : {1, 2, 4, 16})
    for (int64_t bytes : {1, 2, 6, 15, 16, 17, 64, 128, 130, 256}) {
      Problem problem(2, 2, 5, bytes, bytes + 16 * below(2), align);
      CHECK(kv_launch(problem.params).unit == align);
      check_same(problem);
    }
}

TEST(heads_of_many_blocks) {
  for (int64_t tokens : {1, 7, 32, 33, 100, 257}) {
    Problem problem(3, 2, tokens, 256, 144, 16);
    check_same(problem);
  }
  Problem wide(1, 1, 2, 20000, 16, 16);  // a token of more units than a block takes
  CHECK(kv_launch(wide.params).chunks > 2);
  check_same(wide);
}

TEST(entries_that_do_not_fit_are_left_out_whole) {
  for (int fault = 0; fault < 6; ++fault) {
    Problem problem(2, 2, 5, 64, 32, 16);
    problem.counts[1] = 0;
    int64_t& row = problem.rows[1];
    const int64_t good = row;
    check_same(problem);
    if (fault == 0) row = 3;
    if (fault == 1) row = -1;
    if (fault == 2) problem.starts[1] = -1;
    if (fault == 3) problem.counts[1] = 6;
    if (fault == 4) problem.counts[1] = -1;
    if (fault == 5) problem.starts[1] = INT64_MAX, problem.counts[1] = 1;
    const std::vector<char> before[2] = {problem.memory(0), problem.memory(1)};
    run_kernel(problem.params);  // writes row 0 of the batch once more, and nothing else
    for (int s : {0, 1}) CHECK(problem.memory(s) == before[s]);
    row = good;
  }
}

TEST(launches_that_are_empty_or_too_large) {
  Problem problem(1, 1, 4, 16, 16, 16);
  KvAppendParams params = problem.params;
  params.tokens = 0;
  CHECK(kv_launch(params).blocks == 0 && kv_launch(params).unit == 0);
  params.tokens = int64_t{1} << 41;
  CHECK(kv_launch(params).fault != nullptr);
  params.tokens = 4;
  params.sides[0].token_bytes = int64_t{1} << 36;
  CHECK(kv_launch(params).fault != nullptr);
}

int main() { return run_all_tests(); }
