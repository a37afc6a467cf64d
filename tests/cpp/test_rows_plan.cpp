// How rows are cut among warps, and who has which counters: no CUDA is needed for either.
#include "check.h"
#include "core/counter_slots.h"
#include "cuda/rows_params.h"

using namespace steer;

namespace {

// Every tile of every row is some warp's, once, and no warp has two more than another.
void test_split(int64_t rows, int64_t vocab, DType dtype, int multiprocessors) {
  const RowsPlan plan = rows_plan(rows, vocab, dtype, multiprocessors);
  CHECK(plan.fault == nullptr);
  const int columns = kTileBytes / element_bytes(dtype);
  CHECK(static_cast<int64_t>(plan.tiles) * columns >= vocab);
  CHECK(static_cast<int64_t>(plan.tiles - 1) * columns < vocab);
  CHECK(plan.units == rows * plan.tiles);
  CHECK(plan.ranges <= plan.blocks * kRowWarps && plan.ranges <= plan.units);
  CHECK(plan.blocks <= multiprocessors * kRowBlocksPerSm);
  // One warp a block while there are blocks: on as many multiprocessors as can be.
  CHECK(plan.blocks == plan.units || plan.blocks == multiprocessors * kRowBlocksPerSm);
  const int each = plan.units / plan.ranges, extra = plan.units % plan.ranges;
  int at = 0;
  for (int range = 0; range < plan.ranges; ++range) {
    const int first = range * each + std::min(range, extra);  // as the kernel has it
    CHECK(first == at);
    at = first + each + (range < extra ? 1 : 0);
  }
  CHECK(at == plan.units);
}

TEST(every_tile_is_one_warps) {
  for (const int64_t rows : {1, 2, 7, 64, 256})
    for (const int64_t vocab : {1, 1024, 1025, 50257, 151936})
      for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
        for (const int multiprocessors : {1, 108, 132}) test_split(rows, vocab, dtype, multiprocessors);
  CHECK(rows_plan(1, INT32_MAX, DType::kBFloat16, 132).fault != nullptr);
  CHECK(rows_plan(1 << 20, 151936, DType::kBFloat16, 132).fault != nullptr);
  CHECK(rows_plan(1 << 18, 151936, DType::kBFloat16, 132).fault == nullptr);
}

TEST(a_list_is_longer_than_the_cut_that_it_decides) {
  const DType wide = DType::kFloat32, narrow = DType::kBFloat16;
  CHECK(cut_list_length(8, 20, 1000, wide) == 21 && cut_list_length(8, 20, 1000, narrow) == 33);
  CHECK(cut_list_length(40, 20, 1000, wide) == 40 && cut_list_length(8, 60, 1000, narrow) == 64);
  CHECK(cut_list_length(8, 63, 1000, wide) == 64 && cut_list_length(8, 64, 1000, wide) == 64);
  CHECK(cut_list_length(8, 0, 1000, narrow) == 64 && cut_list_length(8, 0, 20, narrow) == 20);
  CHECK(cut_list_length(64, INT64_MAX, 1000, narrow) == 64);
}

TEST(counters_are_shared_by_nobody_but_calls_of_a_stream) {
  int streams[2];
  CounterSlots slots(2000);
  const int64_t first = *slots.of_stream(&streams[0], 10);
  CHECK(*slots.of_stream(&streams[0], 256) == first);  // as long as they fit
  const int64_t second = *slots.of_stream(&streams[1], 10);
  CHECK(second >= first + 256);
  const int64_t captured = *slots.fresh(64), again = *slots.fresh(64);
  CHECK(captured >= second + 256 && again >= captured + 64);
  const int64_t grown = *slots.of_stream(&streams[0], 300);
  CHECK(grown >= again + 64);
  CHECK(*slots.of_stream(&streams[0], 512) == grown);
  CHECK(*slots.of_stream(&streams[1], 10) == second);
  CHECK(!slots.of_stream(&streams[1], 5000).has_value());
  CHECK(*slots.of_stream(&streams[1], 256) == second);  // a refusal takes nothing away
  const int64_t left = 2000 - (grown + 512);
  CHECK(!slots.fresh(left + 1).has_value());
  CHECK(*slots.fresh(left) == grown + 512);
  CHECK(!slots.of_stream(&slots, 1).has_value());
}

}  // namespace

int main() { return run_all_tests(); }
