// step_update_ as a C++ function: where a step closes, what freezes, what is refused.
#include <stdexcept>
#include <string>

#include "check.h"
#include "core/step_update_row.h"
#include "cpu/step_update.h"

using namespace steer;

namespace {

// Ids of a small vocabulary: word, newline, two newlines, point, end of text, a silent word.
enum : int64_t { kWord, kNewline, kBreak, kPoint, kEnd, kSilent };
const std::vector<uint8_t> kClasses = {kSaysSomething | kCounts,
                                       kStartsWithHalf | kEndsWithHalf | kCounts,
                                       kHoldsDelimiter | kStartsWithHalf | kEndsWithHalf | kCounts,
                                       kCounts,
                                       kEndOfText | kCounts,
                                       kSaysSomething};

struct State {
  std::vector<int64_t> transcript = std::vector<int64_t>(16, -1), length{1}, start{1}, count{0};
  std::vector<double> sum{0.0};
  std::vector<uint8_t> flag{0};
  std::vector<int64_t> limit{16}, token{0};
  std::vector<float> score{0.0f};
  StepUpdateParams params;

  State() {
    params.transcript = transcript.data();
    params.transcript_stride = params.capacity = 16;
    params.length = length.data();
    params.step_start = start.data();
    params.score_sum = sum.data();
    params.score_count = count.data();
    params.flag = flag.data();
    params.limit = limit.data();
    params.token = token.data();
    params.score = score.data();
    params.token_class = kClasses.data();
    params.rows = 1;
    params.vocab = static_cast<int64_t>(kClasses.size());
    params.max_step = 512;
  }
  State(const State&) = delete;

  uint8_t push(int64_t id, float value = 0.0f) {
    token[0] = id;
    score[0] = value;
    step_update_cpu(params);
    return flag[0];
  }
};

}  // namespace

TEST(a_step_closes_at_the_delimiter_once_it_has_said_something) {
  State state;
  CHECK(state.push(kBreak) == 0);
  CHECK(state.push(kWord, 2.0f) == kSaid);
  CHECK(state.push(kNewline, 3.0f) == kSaid);
  CHECK(state.push(kNewline, 4.0f) == (kSaid | kStepClosed));
  CHECK(state.sum[0] == 9.0 && state.count[0] == 4 && state.start[0] == 1);
  CHECK(state.push(kNewline, 5.0f) == 0);  // a new step, whose first token completes nothing
  CHECK(state.sum[0] == 5.0 && state.count[0] == 1 && state.start[0] == 5);
  CHECK(state.length[0] == 6 && state.transcript[5] == kNewline && state.transcript[6] == -1);
}

TEST(the_cap_the_end_and_the_limit) {
  State capped;
  capped.params.max_step = 2;
  CHECK(capped.push(kPoint) == 0);
  CHECK(capped.push(kPoint) == kStepClosed);
  State ended;
  CHECK(ended.push(kEnd) == (kStepClosed | kEnded));
  CHECK(ended.push(kWord) == (kStepClosed | kEnded) && ended.length[0] == 2);
  State full;
  full.limit[0] = 3;
  CHECK(full.push(kWord) == kSaid);
  CHECK(full.push(kSilent, 9.0f) == (kSaid | kFull));
  CHECK(full.count[0] == 1 && full.sum[0] == 0.0);
  State both;
  both.limit[0] = 2;
  CHECK(both.push(kEnd) == (kStepClosed | kEnded));  // as in the loop, the end comes first
}

TEST(frozen_rows_and_rows_without_room_take_nothing) {
  State state;
  const bool inactive = false;
  state.params.active = &inactive;
  CHECK(state.push(-5) == 0 && state.length[0] == 1);
  state.params.active = nullptr;
  state.limit[0] = 1;
  CHECK(state.push(kWord) == kFull && state.length[0] == 1 && state.transcript[1] == -1);
}

TEST(bad_values_are_refused_before_any_row_changes) {
  State state;
  CHECK_THROWS(state.push(6), std::invalid_argument);
  CHECK_THROWS(state.push(-1), std::invalid_argument);
  state.limit[0] = 17;
  CHECK_THROWS(state.push(kWord), std::invalid_argument);
  state.limit[0] = 16;
  state.start[0] = 2;
  CHECK_THROWS(state.push(kWord), std::invalid_argument);
  state.length[0] = 17;
  CHECK_THROWS(state.push(kWord), std::invalid_argument);
  CHECK(state.length[0] == 17 && state.flag[0] == 0 && state.transcript[1] == -1);
}

int main() { return run_all_tests(); }
