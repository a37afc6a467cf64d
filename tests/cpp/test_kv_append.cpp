// kv_append_ as a C++ function: layouts, threads, and refusals that write nothing.
#include <stdexcept>
#include <string>

#include "check.h"
#include "cpu/kv_append.h"

using namespace steer;

namespace {

constexpr int64_t kRows = 3, kHeads = 2, kCapacity = 7, kBatch = 2, kTokens = 4;

// Keys of 5 bytes, values of 8; tokens of the cache lie `gap` bytes apart.
struct Problem {
  std::vector<char> cache[2], source[2];
  std::vector<int64_t> rows{2, 0}, starts{3, 6}, counts{4, 1};
  KvAppendParams params;

  explicit Problem(int64_t gap = 0) {
    for (int s : {0, 1}) {
      KvSide& side = params.sides[s];
      side.token_bytes = s == 0 ? 5 : 8;
      side.cache_token = side.token_bytes + gap;
      side.cache_head = side.cache_token * kCapacity;
      side.cache_row = side.cache_head * kHeads;
      side.source_token = side.token_bytes;
      side.source_head = side.source_token * kTokens;
      side.source_batch = side.source_head * kHeads;
      cache[s].assign(side.cache_row * kRows, 'x');
      for (int64_t i = 0; i < side.source_batch * kBatch; ++i)
        source[s].push_back(static_cast<char>('A' + i % 23));
      side.cache = cache[s].data();
      side.source = source[s].data();
    }
    params.batch = kBatch;
    params.heads = kHeads;
    params.tokens = kTokens;
    params.cache_rows = kRows;
    params.capacity = kCapacity;
    params.rows = rows.data();
    params.starts = starts.data();
    params.counts = counts.data();
  }

  // Byte by byte, as the formula says.
  std::vector<char> expected(int s) const {
    std::vector<char> result = cache[s];
    const KvSide& side = params.sides[s];
    for (int64_t b = 0; b < kBatch; ++b)
      for (int64_t h = 0; h < kHeads; ++h)
        for (int64_t i = 0; i < counts[b]; ++i)
          for (int64_t j = 0; j < side.token_bytes; ++j)
            result[rows[b] * side.cache_row + h * side.cache_head +
                   (starts[b] + i) * side.cache_token + j] =
                source[s][b * side.source_batch + h * side.source_head + i * side.source_token + j];
    return result;
  }
};

std::string refusal(const Problem& problem) {
  try {
    kv_append_cpu(problem.params, backwards);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST(every_byte_by_the_formula) {
  for (int64_t gap : {0, 3}) {
    Problem problem(gap);
    const std::vector<char> keys = problem.expected(0), values = problem.expected(1);
    kv_append_cpu(problem.params, backwards);
    CHECK(problem.cache[0] == keys);
    CHECK(problem.cache[1] == values);
  }
}

TEST(large_copies_go_through_the_threads) {
  const int64_t bytes = 300000;  // a token
  std::vector<char> source(bytes * 2, 'n'), cache(bytes * 4, 'o');
  const int64_t zero = 0, one = 1;
  KvAppendParams params;
  for (KvSide& side : params.sides) {
    side.source = source.data();
    side.cache = cache.data() + (&side == &params.sides[0] ? 0 : 2 * bytes);
    side.token_bytes = side.cache_token = side.source_token = bytes;
  }
  params.batch = params.heads = params.cache_rows = params.tokens = 1;
  params.capacity = 2;
  params.rows = &zero;
  params.starts = params.counts = &one;
  int calls = 0;
  kv_append_cpu(params, [&](int64_t count, int64_t grain, const RangeBody& body) {
    CHECK(count == 2 && grain == 1);
    ++calls;
    body(0, count);
  });
  CHECK(calls == 1);
  for (int64_t i = 0; i < bytes * 4; i += bytes / 2)
    CHECK(cache[i] == ((i / bytes) % 2 == 1 ? 'n' : 'o'));
}

TEST(a_refusal_names_the_value_and_writes_nothing) {
  struct Case {
    int64_t rows, starts, counts;
    const char* message;
  };
  for (const Case& c : {Case{3, 0, 1, "rows[1] is 3, but the cache has 3 rows"},
                        Case{-1, 0, 0, "rows[1] is -1"},
                        Case{0, 8, 0, "starts[1] is 8, but a row of the cache holds"},
                        Case{0, 0, 5, "counts[1] is 5, but k and v have room for 4 tokens"},
                        Case{0, 5, 3, "counts[1] is 3 and starts[1] is 5: together they exceed"},
                        Case{0, INT64_MAX, INT64_MAX, "starts[1] is 9223372036854775807"},
                        Case{2, 0, 4, "and both would write position 3 of it"}}) {
    Problem problem;
    problem.rows[1] = c.rows;
    problem.starts[1] = c.starts;
    problem.counts[1] = c.counts;
    const std::vector<char> before = problem.cache[0];
    CHECK(refusal(problem).find(c.message) != std::string::npos);
    CHECK(problem.cache[0] == before);
  }
}

TEST(one_row_may_be_appended_to_twice) {
  Problem problem;
  problem.rows = {2, 2};
  problem.starts = {3, 2};
  problem.params.rows = problem.rows.data();
  problem.params.starts = problem.starts.data();
  const std::vector<char> keys = problem.expected(0);
  kv_append_cpu(problem.params, backwards);
  CHECK(problem.cache[0] == keys);
}

TEST(indices_are_read_once) {
  const int64_t bytes = 300000;  // enough that the threads are asked
  std::vector<char> source(bytes, 'n'), cache(bytes * 4, 'o');
  int64_t row = 0, start = 1, count = 1;
  KvAppendParams params;
  for (KvSide& side : params.sides) {
    side.source = source.data();
    side.cache = cache.data() + (&side == &params.sides[0] ? 0 : 2 * bytes);
    side.token_bytes = side.cache_token = side.source_token = bytes;
  }
  params.batch = params.heads = params.cache_rows = params.tokens = 1;
  params.capacity = 2;
  params.rows = &row;
  params.starts = &start;
  params.counts = &count;
  kv_append_cpu(params, [&](int64_t tasks, int64_t, const RangeBody& body) {
    row = start = count = int64_t{1} << 50;  // as another thread may, once they have been checked
    body(0, tasks);
  });
  for (int64_t i = 0; i < bytes * 4; i += bytes / 2)
    CHECK(cache[i] == ((i / bytes) % 2 == 1 ? 'n' : 'o'));
}

int main() { return run_all_tests(); }
