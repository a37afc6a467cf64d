// Which bytes a call reads and writes, and whether it writes one that it also reads or writes twice.
//
// An in-place kernel is right only where it does not: torch's own in-place functions refuse such
// tensors, and so do ours. Ranges are compared first, which takes nanoseconds and settles what
// callers really pass; views that interleave are compared run by run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace steer {

// Bytes [begin, end) of a named argument.
struct ByteRange {
  const char* name;
  uintptr_t begin, end;

  ByteRange(const char* name_, const void* data, int64_t bytes)
      : name(name_), begin(reinterpret_cast<uintptr_t>(data)), end(begin + bytes) {}

  bool empty() const { return begin == end; }
  bool meets(const ByteRange& other) const {
    return begin < other.end && other.begin < end && !empty() && !other.empty();
  }
};

inline std::string overlap_sentence(const ByteRange& written, const ByteRange& other) {
  return std::string(other.name) + " shares memory with what is written of " + written.name +
         "; clone() it first";
}

// Runs of bytes that a call writes and reads. `fault` is empty where no written byte is read, or
// written twice.
class ByteRuns {
 public:
  void write(const ByteRange& run) { add(written_, run); }
  void read(const ByteRange& run) { add(read_, run); }

  std::string fault() {
    const auto by_begin = [](const ByteRange& a, const ByteRange& b) { return a.begin < b.begin; };
    std::sort(written_.begin(), written_.end(), by_begin);
    for (size_t i = 1; i < written_.size(); ++i)
      if (written_[i - 1].meets(written_[i]))
        return overlap_sentence(written_[i - 1], written_[i]);
    for (const ByteRange& run : read_) {  // written runs are disjoint: their ends are in order too
      const auto after = std::upper_bound(
          written_.begin(), written_.end(), run.begin,
          [](uintptr_t begin, const ByteRange& other) { return begin < other.end; });
      if (after != written_.end() && after->meets(run)) return overlap_sentence(*after, run);
    }
    return {};
  }

 private:
  static void add(std::vector<ByteRange>& runs, const ByteRange& run) {
    if (run.empty()) return;
    if (!runs.empty() && runs.back().name == run.name && runs.back().end == run.begin)
      runs.back().end = run.end;
    else
      runs.push_back(run);
  }

  std::vector<ByteRange> written_, read_;
};

// Whether strides (of any unit) keep the elements of a tensor apart: sorted by stride, each dimension
// steps over all of the smaller ones. `inner` is the size of an element in the unit of the strides.
template <size_t N>
bool strides_nest(std::pair<int64_t, int64_t> (&size_and_stride)[N], int64_t inner) {
  std::sort(size_and_stride, size_and_stride + N,
            [](const auto& a, const auto& b) { return a.second < b.second; });
  for (const auto& [size, stride] : size_and_stride) {
    if (size <= 1) continue;
    if (stride < inner) return false;
    inner += stride * (size - 1);
  }
  return true;
}

}  // namespace steer
