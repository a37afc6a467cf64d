// How a kernel is given its threads: a function that runs pieces of a loop.
#pragma once

#include <cstdint>
#include <functional>

namespace steer {

// Runs body(begin, end) over pieces of [0, count), each of at least `grain` items where possible.
using RangeBody = std::function<void(int64_t, int64_t)>;
using ParallelFor = std::function<void(int64_t count, int64_t grain, const RangeBody& body)>;

}  // namespace steer
