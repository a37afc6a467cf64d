#include "cpu/row_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/kernels.h"

namespace steer {
namespace {

constexpr int kLongList = 32;  // for top_p: covers most steps of a language model
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kNothing = std::numeric_limits<float>::infinity();

// How far below the maximum min_p may keep an element; 0 where that is no bound.
double kept_gap(const SampleLogitsParams& params) {
  if (params.greedy() || params.cuts_k() || params.min_p == 0.0) return 0.0;
  return -std::log(params.min_p) * params.temperature;
}

// How many ties of the k-th element a list has room for: in 16 bits logits are often equal, and a tie
// that reaches beyond the list has the row sorted.
int64_t ties_of(DType dtype) { return dtype == DType::kFloat32 ? 0 : 12; }

// A longer list than the caller asked for, where it decides the token without another read. What a
// gap bounds takes the list no time until it is there.
int list_length(const SampleLogitsParams& params) {
  int64_t length = params.stats.k;
  if (!params.greedy() && !params.keeps_all()) {
    if (kept_gap(params) > 0.0) length = kMaxListLength;
    else if (!params.cuts_k()) length = std::max<int64_t>(length, kLongList);
    else length = std::max(length, params.top_k + 1 + ties_of(params.stats.dtype));
  }
  return static_cast<int>(std::min<int64_t>({length, kMaxListLength, params.stats.vocab}));
}

// Sums of tiles under the temperature are needed where all is kept and for the total of top_p.
bool needs_masses(const SampleLogitsParams& params) {
  if (params.greedy() || params.temperature == 1.0) return false;  // or they are those of the stats
  return params.keeps_all() || (params.top_p < 1.0 && !params.cuts_k());
}

double sum_of(const std::vector<double>& masses) {
  double total = 0.0;
  for (const double mass : masses) total += mass;
  return total;
}

}  // namespace

LogitStatsWorkspace sampling_workspace(const SampleLogitsParams& params) {
  LogitStatsWorkspace work(params.stats, list_length(params), kept_gap(params));
  if (needs_masses(params)) work.temper(params.temperature);
  return work;
}

RowSampler::RowSampler(const SampleLogitsParams& params, const LogitStatsWorkspace& work,
                       const LogitStatsKernels& kernels, const RowSummary& summary, int64_t row)
    : params_(params),
      work_(work),
      kernels_(kernels),
      summary_(summary),
      row_(row),
      max_(summary.total.max),
      weightless_from_(kNothing) {}

Choice RowSampler::choose(double uniform) {
  if (!summary_.total.valid()) return {0, std::numeric_limits<double>::quiet_NaN()};
  if (params_.greedy()) return {summary_.queue.id(0), -summary_.total.lse_above_max()};
  return params_.keeps_all() ? choose_by_tile(uniform) : choose_kept(uniform);
}

double RowSampler::logprob(int64_t column) {
  const float x = logit(column);
  if (params_.greedy())
    return (x == max_ ? 0.0 : static_cast<double>(x) - max_) - summary_.total.lse_above_max();
  if (params_.keeps_all()) return exponent(x) - std::log(total());
  const Elements& elements = kept();
  const auto at =
      std::lower_bound(elements.begin(), elements.end(), std::make_pair(column, -kInfinity));
  if (at != elements.end() && at->first == column) return at->second - std::log(total_);
  const double log_weight = exponent(x);
  const bool weightless = x >= weightless_from_ && std::exp(log_weight) == 0.0 &&
                          log_weight >= std::log(params_.min_p);
  return weightless ? log_weight - std::log(total_) : -kInfinity;
}

float RowSampler::logit(int64_t column) const {
  const int64_t at = row_ * params_.stats.row_stride + column;
  switch (params_.stats.dtype) {
    case DType::kFloat32: return static_cast<const float*>(params_.stats.logits)[at];
    case DType::kBFloat16: return to_float(static_cast<const BFloat16*>(params_.stats.logits)[at]);
    default: return to_float(static_cast<const Half*>(params_.stats.logits)[at]);
  }
}

// (x - max) / temperature; the maximum is at 0, even where it is +inf.
double RowSampler::exponent(float x) const {
  if (x == max_) return 0.0;
  return (static_cast<double>(x) - static_cast<double>(max_)) / params_.temperature;
}

// Masses of the tiles relative to the row's maximum. Tiles mostly share a base, and with it the
// factor that their sums take.
std::vector<double> RowSampler::tile_masses() const {
  std::vector<double> masses(work_.tiles_per_row);
  const SoftmaxAccumulator* parts = &work_.partials[row_ * work_.tiles_per_row];
  float base = max_;
  double factor = 1.0;
  for (int64_t tile = 0; tile < work_.tiles_per_row; ++tile) {
    const double mass = work_.masses.empty() ? parts[tile].sum
                                             : work_.masses[row_ * work_.tiles_per_row + tile];
    if (mass == 0.0) continue;
    const float own = work_.masses.empty() ? parts[tile].base : parts[tile].max;
    if (own != base) factor = std::exp(exponent(base = own));
    masses[tile] = mass * factor;
  }
  return masses;
}

double RowSampler::total() {
  if (total_ >= 0.0) return total_;
  if (params_.keeps_all()) return total_ = sum_of(tile_masses());
  kept();
  return total_;
}

Choice RowSampler::choose_by_tile(double uniform) {
  const std::vector<double> masses = tile_masses();
  total_ = sum_of(masses);
  const double target = uniform * total_;
  int64_t chosen = 0;
  double below = 0.0, running = 0.0;  // below: mass of the tiles before the chosen one
  for (int64_t tile = 0; tile < work_.tiles_per_row && running <= target; ++tile) {
    if (masses[tile] == 0.0) continue;  // so that rounding cannot lead into a tile without mass
    chosen = tile;
    below = running;
    running += masses[tile];
  }
  const SoftmaxAccumulator& part = work_.partials[row_ * work_.tiles_per_row + chosen];
  const double in_tile = (target - below) / std::exp(exponent(part.max));
  const Found found = kernels_.locate(params_.stats, row_, chosen * kTile, part.max,
                                      work_.inverse_temperature, in_tile);
  return {found.column, exponent(found.logit) - std::log(total_)};
}

// The weight that the nucleus has to reach, of the first `limit` ranks.
double RowSampler::share_of_nucleus(Ranking& ranking, int64_t limit) const {
  if (params_.top_p == 1.0) return kInfinity;
  if (!params_.cuts_k()) return params_.top_p * sum_of(tile_masses());
  double total = 0.0;
  for (int64_t i = 0; i < limit && ranking.reach(i); ++i)
    total += std::exp(exponent(ranking.value(i)));
  return params_.top_p * total;
}

// How many elements, in order of rank, the warpers keep.
int64_t RowSampler::count_kept(Ranking& ranking) {
  int64_t limit = params_.stats.vocab;
  float lowest = -kNothing;
  if (params_.cuts_k() && ranking.reach(params_.top_k - 1)) {
    lowest = ranking.value(params_.top_k - 1);
    for (limit = params_.top_k; ranking.reach(limit) && ranking.value(limit) == lowest;) ++limit;
  }
  const double nucleus = share_of_nucleus(ranking, limit), least = std::log(params_.min_p);
  double before = 0.0;
  int64_t count = 0;
  for (; count < limit && before < nucleus && ranking.reach(count); ++count) {
    const double log_weight = exponent(ranking.value(count));
    const double weight = std::exp(log_weight);
    if (weight == 0.0) weightless_from_ = lowest;
    if (log_weight < least || weight == 0.0) break;  // what has no weight is never drawn
    before += weight;
  }
  return count;
}

const RowSampler::Elements& RowSampler::kept() {
  if (total_ >= 0.0) return kept_;
  Ranking ranking(params_.stats, row_, summary_.queue, work_.required, work_.gap);
  const int64_t count = count_kept(ranking);
  kept_.reserve(count);
  for (int64_t i = 0; i < count; ++i)
    kept_.emplace_back(ranking.id(i), exponent(ranking.value(i)));
  std::sort(kept_.begin(), kept_.end());
  total_ = 0.0;
  for (const auto& element : kept_) total_ += std::exp(element.second);
  return kept_;
}

Choice RowSampler::choose_kept(double uniform) {
  const double target = uniform * (kept(), total_);
  double running = 0.0;
  size_t at = 0;
  for (; at + 1 < kept_.size(); ++at)
    if ((running += std::exp(kept_[at].second)) > target) break;
  return {kept_[at].first, kept_[at].second - std::log(total_)};
}

}  // namespace steer
