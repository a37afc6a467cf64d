// accept_drafts, CPU driver: sample_logits for the large model's rows, and a verdict on each draft.
//
// Mathematics: p and q are the distributions of a row of logits and of its draft logits after
//   temperature and cuts. The draft d is accepted where uniform < a, a = min(1, p(d) / q(d)); else the
//   token is the first column, in column order, at which the running sum of max(0, p - q) exceeds
//   (uniform - a) / (1 - a) of its total. The result follows p if d follows q (arXiv 2211.17192).
// Data movement: one read of both rows gives the statistics of p and the norms of both. Of refused
//   places alone, where nothing is cut, both rows are read again, tile by tile: first the masses of
//   the tiles of max(0, p - q), then the one tile in which the token lies. Where something is cut both
//   distributions are the kept prefixes of two rankings (row_sampler.h), and nothing is read again.
//   Draft logits of rows without a draft, and of greedy calls, are not read.
// Bytes: vocab * (element of p + element of q) per row; for a refused place as many again.
// Synchronisation: the tiles of all rows of both models are tasks of one parallel loop; a second one
//   over the rows gives the verdicts; where a place is refused a third one over the tiles of the
//   refused rows. A row's result depends on its own values, draft and uniform only.
// Precision: as sample_logits. A weight of p or q is good to about 1e-6 of itself, so masses of
//   max(0, p - q) are to 1e-6 of the whole.
#include "cpu/accept_drafts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/row_sampler.h"
#include "cpu/sample_logits.h"

namespace steer {
namespace {

constexpr int64_t kGrainRows = 4;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kBelowOne = std::nextafter(1.0, 0.0);

// The drafting model's rows under the same sampling.
SampleLogitsParams small_params(const AcceptDraftsParams& params) {
  SampleLogitsParams small = params.large;
  small.stats.logits = params.draft_logits;
  small.stats.dtype = params.draft_dtype;
  small.stats.row_stride = params.draft_row_stride;
  small.stats.k = 1;
  return small;
}

// A refused place whose token is still to be found in max(0, p - q).
struct Refusal {
  int64_t row;
  Residual residual;
  double uniform;  // of the redraw
};

const void* row_of(const LogitStatsParams& params, int64_t row) {
  const int64_t bytes = params.dtype == DType::kFloat32 ? 4 : 2;
  return static_cast<const char*>(params.logits) + row * params.row_stride * bytes;
}

// Draws from what the one prefix has above the other; token -1 where it has no mass.
int64_t redraw(RowSampler& p, RowSampler& q, double uniform) {
  const RowSampler::Elements& from = p.kept();
  std::vector<double> masses(from.size());
  double total = 0.0;
  auto other = q.kept().begin();
  for (size_t i = 0; i < from.size(); ++i) {
    while (other != q.kept().end() && other->first < from[i].first) ++other;
    const bool shared = other != q.kept().end() && other->first == from[i].first;
    const double below = shared ? std::exp(other->second) / q.total() : 0.0;
    masses[i] = std::max(0.0, std::exp(from[i].second) / p.total() - below);
    total += masses[i];
  }
  int64_t token = -1;
  double running = 0.0;
  for (size_t i = 0; i < from.size() && running <= uniform * total; ++i) {
    if (masses[i] == 0.0) continue;
    token = from[i].first;
    running += masses[i];
  }
  return token;
}

class Judge {
 public:
  Judge(const AcceptDraftsParams& params, const ParallelFor& parallel_for)
      : params_(params),
        large_(params.large),
        small_(small_params(params)),
        kernels_(current_kernels()),
        work_(sampling_workspace(large_)),
        parallel_for_(parallel_for) {
    if (params.by_ratio())
      small_work_ = std::make_unique<LogitStatsWorkspace>(sampling_workspace(small_));
  }

  void run() {
    reduce();
    std::vector<std::unique_ptr<Refusal>> open(large_.stats.rows);
    parallel_for_(large_.stats.rows, kGrainRows, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) open[row] = judge(row);
    });
    std::vector<std::unique_ptr<Refusal>> refusals;
    for (auto& refusal : open)
      if (refusal != nullptr) refusals.push_back(std::move(refusal));
    if (!refusals.empty()) replace(refusals);
  }

 private:
  bool drafted(int64_t row) const { return params_.drafts[row] >= 0; }

  // The tiles of the large model's rows, then those of the small one's with a draft.
  void reduce() {
    const int64_t first = work_.tasks, tasks = first + (small_work_ ? small_work_->tasks : 0);
    parallel_for_(tasks, grain_of_tasks(large_.stats), [&](int64_t begin, int64_t end) {
      if (begin < first)
        kernels_.logit_stats.reduce_tasks(large_.stats, work_, begin, std::min(end, first));
      for (int64_t task = std::max(begin, first) - first; task < end - first;) {
        const int64_t row = task / work_.tiles_per_row;
        const int64_t stop = std::min(end - first, (row + 1) * work_.tiles_per_row);
        if (drafted(row))
          kernels_.logit_stats.reduce_tasks(small_.stats, *small_work_, task, stop);
        task = stop;
      }
    });
  }

  void write(int64_t row, const Choice& choice, double draft_logprob, bool accepted) const {
    large_.token[row] = choice.token;
    large_.logprob[row] = static_cast<float>(choice.logprob);
    params_.draft_logprob[row] = static_cast<float>(draft_logprob);
    params_.accepted[row] = accepted;
  }

  // Writes the row but for a token that has to be looked for in both rows: that is what it returns.
  std::unique_ptr<Refusal> judge(int64_t row) const {
    const RowSummary summary = summarise_row(work_, row);
    write_row(large_.stats, row, summary);
    RowSampler p(large_, work_, kernels_.logit_stats, summary, row);
    const double uniform = large_.uniform[row];
    if (drafted(row) && params_.by_ratio()) return judge_by_ratio(row, summary, p, uniform);
    const Choice choice = p.choose(uniform);
    const bool known = drafted(row) && summary.total.valid();
    const int64_t draft = params_.drafts[row];
    write(row, choice, known ? p.logprob(draft) : kNaN, known && choice.token == draft);
    return nullptr;
  }

  std::unique_ptr<Refusal> judge_by_ratio(int64_t row, const RowSummary& summary, RowSampler& p,
                                          double uniform) const {
    const RowSummary small_summary = summarise_row(*small_work_, row);
    if (!summary.total.valid() || !small_summary.total.valid()) {
      write_row(large_.stats, row, {{}, summary.queue});  // as a row without an element
      write(row, {0, kNaN}, kNaN, false);
      return nullptr;
    }
    RowSampler q(small_, *small_work_, kernels_.logit_stats, small_summary, row);
    const int64_t draft = params_.drafts[row];
    const double log_p = p.logprob(draft), log_q = q.logprob(draft);
    const double ratio = log_q > -kInfinity ? std::min(1.0, std::exp(log_p - log_q))
                                            : static_cast<double>(log_p > -kInfinity);
    if (uniform < ratio) {
      write(row, {draft, log_p}, log_p, true);
      return nullptr;
    }
    const double again = std::min((uniform - ratio) / (1.0 - ratio), kBelowOne);
    if (large_.keeps_all()) {
      write(row, {0, kNaN}, log_p, false);
      return std::make_unique<Refusal>(Refusal{row, residual(row, p, q), again});
    }
    const int64_t token = redraw(p, q, again);
    write(row, token < 0 ? p.choose(again) : Choice{token, p.logprob(token)}, log_p, false);
    return nullptr;
  }

  Residual residual(int64_t row, RowSampler& p, RowSampler& q) const {
    const LogitStatsParams &large = large_.stats, &small = small_.stats;
    return {{row_of(large, row), large.dtype, p.max(), p.total()},
            {row_of(small, row), small.dtype, q.max(), q.total()},
            work_.inverse_temperature,
            large.vocab};
  }

  // Finds the tokens of refused places, all tiles of them being tasks.
  void replace(const std::vector<std::unique_ptr<Refusal>>& refusals) const {
    const int64_t tiles = work_.tiles_per_row, count = static_cast<int64_t>(refusals.size());
    std::vector<double> masses(count * tiles);
    parallel_for_(count * tiles, grain_of_tasks(large_.stats), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task)
        masses[task] = kernels_.accept_drafts.residual_of_tile(refusals[task / tiles]->residual,
                                                               task % tiles * kTile);
    });
    parallel_for_(count, kGrainRows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) replace_one(*refusals[i], &masses[i * tiles]);
    });
  }

  void replace_one(const Refusal& refusal, const double* masses) const {
    const int64_t tiles = work_.tiles_per_row, row = refusal.row;
    const RowSummary summary = summarise_row(work_, row);
    RowSampler p(large_, work_, kernels_.logit_stats, summary, row);
    double total = 0.0;
    for (int64_t tile = 0; tile < tiles; ++tile) total += masses[tile];
    const double target = refusal.uniform * total;
    int64_t chosen = -1;
    double below = 0.0, running = 0.0;
    for (int64_t tile = 0; tile < tiles && running <= target; ++tile) {
      if (masses[tile] == 0.0) continue;
      chosen = tile;
      below = running;
      running += masses[tile];
    }
    Choice choice;
    if (chosen < 0) {  // rounding left nothing
      choice = p.choose(refusal.uniform);
    } else {
      choice.token = kernels_.accept_drafts.locate_residual(refusal.residual, chosen * kTile,
                                                            target - below);
      choice.logprob = p.logprob(choice.token);
    }
    large_.token[row] = choice.token;
    large_.logprob[row] = static_cast<float>(choice.logprob);
  }

  const AcceptDraftsParams& params_;
  const SampleLogitsParams& large_;
  const SampleLogitsParams small_;
  const Kernels& kernels_;
  LogitStatsWorkspace work_;
  std::unique_ptr<LogitStatsWorkspace> small_work_;
  const ParallelFor& parallel_for_;
};

}  // namespace

void accept_drafts_cpu(const AcceptDraftsParams& params, const ParallelFor& parallel_for) {
  if (params.large.stats.rows > 0) Judge(params, parallel_for).run();
}

}  // namespace steer
