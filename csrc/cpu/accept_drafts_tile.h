// accept_drafts, the part for one instruction set: max(0, p - q) of a tile, and an element of it.
//
// The weights of a block of columns are written to the stack, those of each row by its own dtype, and
// then subtracted: dtypes do not multiply, and a block stays in L1. Included after
// sample_logits_tile.h, under the same rules.
#pragma once

// kExpUnit * exp((x - max) / temperature) of a block, into `weights`; zeros up to a whole step.
template <class T>
STEER_INLINE void weights_of_block(const Softmax& side, int64_t column, int64_t columns,
                             const Exponential<true>& tempered, float* weights) {
  const Tile<T> tile(static_cast<const T*>(side.logits) + column, columns);
  const bool infinite = side.max == std::numeric_limits<float>::infinity();
  if (infinite) weights_at_infinity(tile.body, tile.body_columns, weights);
  else weights_of(tile.body, tile.body_columns, side.max, tempered, weights);
  if (tile.tail_columns == 0) return;
  if (infinite) weights_at_infinity(tile.tail, kStep, weights + tile.body_columns);
  else weights_of(tile.tail, kStep, side.max, tempered, weights + tile.body_columns);
}

inline void weights_of_side(const Softmax& side, int64_t column, int64_t columns,
                            const Exponential<true>& tempered, float* weights) {
  switch (side.dtype) {
    case DType::kFloat32:
      return weights_of_block<float>(side, column, columns, tempered, weights);
    case DType::kBFloat16:
      return weights_of_block<BFloat16>(side, column, columns, tempered, weights);
    default:
      return weights_of_block<Half>(side, column, columns, tempered, weights);
  }
}

// The tile at `column`, block by block.
struct ResidualTile {
  const Residual& residual;
  int64_t begin, end;
  Exponential<true> tempered;
  Vec p_factor, q_factor;
  float weights[kBlock];

  ResidualTile(const Residual& of, int64_t column)
      : residual(of),
        begin(column),
        end(std::min(column + kTile, of.vocab)),
        tempered(of.inverse_temperature),
        p_factor(Vec::set1(static_cast<float>(1.0 / (of.p.total * kExpUnit)))),
        q_factor(Vec::set1(static_cast<float>(1.0 / (of.q.total * kExpUnit)))) {}

  // Fills `weights` from `column` on; returns how many there are, of which the last may be padding.
  int64_t fill(int64_t column) {
    const int64_t columns = std::min(kBlock, end - column);
    const int64_t steps = (columns + kStep - 1) / kStep * kStep;
    float q[kBlock];
    weights_of_side(residual.p, column, columns, tempered, weights);
    weights_of_side(residual.q, column, columns, tempered, q);
    const Vec zero = Vec::set1(0.0f);
    for (int64_t i = 0; i < steps; i += Vec::kLanes) {
      const Vec above = Vec::sub(Vec::mul(Vec::load(weights + i), p_factor),
                                 Vec::mul(Vec::load(q + i), q_factor));
      const Vec mass = Vec::max(zero, above);
      std::memcpy(weights + i, &mass, sizeof(mass));
    }
    return steps;
  }

  bool search(Search& search) {
    for (int64_t column = begin; column < end; column += kBlock) {
      const int64_t columns = fill(column);
      if (search.step(weights, column, columns)) return true;
    }
    return false;
  }
};

inline double residual_of_tile(const Residual& residual, int64_t column) {
  ResidualTile tile(residual, column);
  double mass = 0.0;
  for (int64_t at = tile.begin; at < tile.end; at += kBlock) {
    const int64_t columns = tile.fill(at);
    mass += sum_of(tile.weights, columns);
  }
  return mass;
}

inline int64_t locate_residual(const Residual& residual, int64_t column, double target) {
  ResidualTile tile(residual, column);
  Search search{target, false};
  if (!tile.search(search)) {  // as in `locate`
    search = {target, true};
    tile.search(search);
  }
  return search.at;
}
