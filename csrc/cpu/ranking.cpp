#include "cpu/ranking.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/float16.h"

namespace steer {
namespace {

constexpr int64_t kFirstSort = 1024;
constexpr int64_t kGrowth = 8;

// Ascending keys: higher value first, then lower id. Both zeros become +0.0.
uint64_t key_of(float value, int64_t id) {
  value += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(~ascending) << 32 | static_cast<uint64_t>(id);
}

float value_of(uint64_t key) {
  const uint32_t ascending = ~static_cast<uint32_t>(key >> 32);
  return float_from_bits((ascending & 0x80000000u) != 0 ? ascending & 0x7FFFFFFFu : ~ascending);
}

template <class T>
void append_keys(const T* row, int64_t columns, std::vector<uint64_t>& keys) {
  for (int64_t i = 0; i < columns; ++i) {
    const float value = to_float(row[i]);
    if (value > -std::numeric_limits<float>::infinity()) keys.push_back(key_of(value, i));
  }
}

}  // namespace

Ranking::Ranking(const LogitStatsParams& params, int64_t row, const TopKQueue& list, int required,
                 float gap)
    : params_(params), row_(row), list_(list), listed_(list.size()) {
  const float minus_infinity = -std::numeric_limits<float>::infinity();
  const auto lowest_listed = [&] { return list.value(static_cast<int>(listed_ - 1)); };
  while (listed_ > 0 && lowest_listed() == minus_infinity) --listed_;
  list_is_all_ = listed_ < list.size() || listed_ == params.vocab;
  if (gap <= 0.0f) return;
  const float within = floor_of_gap(list.value(0), gap, 5e-7f);  // topk_tile.h: 1e-6, a little lower
  list_is_all_ = list_is_all_ || !list.full() || lowest_listed() < within;
  while (listed_ > required && lowest_listed() < within) --listed_;
}

bool Ranking::reach(int64_t rank) {
  if (rank < listed_) return true;
  if (list_is_all_) return false;
  if (keys_.empty()) make_keys();
  if (rank >= static_cast<int64_t>(keys_.size())) return false;
  if (rank >= sorted_) sort_up_to(std::max({rank + 1, kFirstSort, kGrowth * sorted_}));
  return true;
}

float Ranking::value(int64_t rank) const {
  return rank < listed_ ? list_.value(static_cast<int>(rank)) : value_of(keys_[rank]);
}

int64_t Ranking::id(int64_t rank) const {
  return rank < listed_ ? list_.id(static_cast<int>(rank))
                        : static_cast<int64_t>(keys_[rank] & 0xFFFFFFFFu);
}

void Ranking::make_keys() {
  keys_.reserve(params_.vocab);
  const int64_t offset = row_ * params_.row_stride;
  switch (params_.dtype) {
    case DType::kFloat32:
      return append_keys(static_cast<const float*>(params_.logits) + offset, params_.vocab, keys_);
    case DType::kBFloat16:
      return append_keys(static_cast<const BFloat16*>(params_.logits) + offset, params_.vocab,
                         keys_);
    case DType::kFloat16:
      return append_keys(static_cast<const Half*>(params_.logits) + offset, params_.vocab, keys_);
  }
}

void Ranking::sort_up_to(int64_t count) {
  const auto begin = keys_.begin() + sorted_;
  sorted_ = std::min(count, static_cast<int64_t>(keys_.size()));
  const auto end = keys_.begin() + sorted_;
  if (end != keys_.end()) std::nth_element(begin, end, keys_.end());
  std::sort(begin, end);
}

}  // namespace steer
