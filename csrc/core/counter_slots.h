// Who has which of the counters that a device keeps at zero.
//
// A kernel finds the counters of its rows at zero and leaves them so. Calls that follow one another on
// a stream may share counters; others may not, and a call that a graph has captured runs whenever the
// graph is replayed, so it has counters of its own for good. What is given out is never taken back: a
// stream that asks for more gets a range of twice the size, so all of its ranges are at most four times
// the largest call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>

namespace steer {

class CounterSlots {
 public:
  explicit CounterSlots(int64_t size) : size_(size) {}

  // The first of `count` counters of a stream's; none where no more are left.
  std::optional<int64_t> of_stream(const void* stream, int64_t count) {
    Range& range = streams_[stream];
    if (range.count < count) {
      const int64_t wanted = std::max({count, 2 * range.count, kLeast});
      const int64_t granted = wanted <= size_ - used_ ? wanted : count;
      const std::optional<int64_t> first = fresh(granted);
      if (!first.has_value()) return std::nullopt;
      range = {*first, granted};
    }
    return range.first;
  }

  // The first of `count` counters that nobody else is given.
  std::optional<int64_t> fresh(int64_t count) {
    if (count > size_ - used_) return std::nullopt;
    const int64_t first = used_;
    used_ += count;
    return first;
  }

 private:
  static constexpr int64_t kLeast = 256;
  struct Range {
    int64_t first = 0, count = 0;
  };

  int64_t size_, used_ = 0;
  std::map<const void*, Range> streams_;
};

}  // namespace steer
