// The k largest elements seen so far, ordered by (value descending, id ascending).
//
// A sorted array with insertion: k is small, and after the first few hundred elements of a row
// almost nothing gets past the threshold test, so the insertion itself is rare.
//
// Contract of push: an element must not have a lower id than an equal element pushed before it.
// Scanning a row from left to right satisfies it, and so does draining the queues of consecutive
// pieces of a row in order. Ties then resolve by a strict comparison, with no look at the ids.
// -0.0 and +0.0 are equal. A NaN is never above the threshold and does no harm.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace steer {

constexpr int kMaxTopK = 64;
constexpr int kMaxListLength = kMaxTopK + 1;  // one more tells whether the k-th is tied

// The lowest value that is at most `gap` below the largest of a row, less `slack` times the numbers
// in it for what rounding does to logits. Below +inf lies everything that is not +inf.
inline float floor_of_gap(float largest, float gap, float slack) {
  if (largest == std::numeric_limits<float>::infinity()) return std::numeric_limits<float>::max();
  return largest - gap - slack * (std::fabs(largest) + gap);
}

class TopKQueue {
 public:
  explicit TopKQueue(int k) : k_(k) {}

  void clear() { size_ = 0; }
  bool full() const { return size_ == k_; }
  int size() const { return size_; }
  int capacity() const { return k_; }
  float value(int i) const { return values_[i]; }
  int64_t id(int i) const { return ids_[i]; }

  // What an element must exceed to enter a full queue.
  float threshold() const { return values_[k_ - 1]; }

  void push(float value, int64_t id) {
    if (full()) {
      if (!(value > threshold())) return;
    } else {
      ++size_;
    }
    int slot = size_ - 1;
    for (; slot > 0 && value > values_[slot - 1]; --slot) {
      values_[slot] = values_[slot - 1];
      ids_[slot] = ids_[slot - 1];
    }
    values_[slot] = value;
    ids_[slot] = id;
  }

 private:
  int k_;
  int size_ = 0;
  float values_[kMaxListLength];
  int64_t ids_[kMaxListLength];
};

}  // namespace steer
