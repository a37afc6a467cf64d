// decode_linear as a C++ function: the formula on every instruction set, memory that must not be
// read, splits over threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "check.h"
#include "core/float16.h"
#include "cpu/decode_linear.h"
#include "cpu/isa.h"

using namespace steer;

namespace {

// Buffers end with the last element, so that a sanitizer sees a step beyond it.
template <class T>
struct Problem {
  std::vector<T> x, weight, bias, out;
  DecodeLinearParams params;

  Problem(DType dtype, int64_t tokens, int64_t in, int64_t outs) {
    std::mt19937 random(static_cast<unsigned>(tokens * 31 + in));
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<T>& to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) to.push_back(from_float<T>(normal(random)));
    };
    fill(x, tokens * in);
    fill(weight, outs * in);
    fill(bias, outs);
    out.resize(tokens * outs);
    params.dtype = dtype;
    params.tokens = tokens;
    params.in_features = params.x_stride = params.weight_stride = in;
    params.out_features = outs;
    point();
  }

  void point() {
    params.x = x.data();
    params.weight = weight.data();
    params.bias = bias.data();
    params.out = out.data();
  }

  double expected(int64_t token, int64_t row) const {
    double sum = to_float(bias[row]);
    for (int64_t k = 0; k < params.in_features; ++k)
      sum += static_cast<double>(to_float(x[token * params.in_features + k])) *
             to_float(weight[row * params.in_features + k]);
    return sum;
  }
};

// `tolerance` is that of up to 160 products; sums of random numbers grow with the root.
template <class T>
void check_formula(DType dtype, double tolerance) {
  for (Isa isa : supported_isas()) {
    set_isa(isa_name(isa));
    for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 17, 122})
      for (int64_t in : {1, 16, 45, 160, 1030, 2080})
        for (int64_t outs : {1, 4, 71}) {
          // Two thirds of all products; every two of the three sizes meet in another problem.
          if (tokens == 122 && in > 160 && outs == 71) continue;
          Problem<T> problem(dtype, tokens, in, outs);
          decode_linear_cpu(problem.params, at_once);
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t n = 0; n < outs; ++n)
              CHECK_NEAR(to_float(problem.out[t * outs + n]), problem.expected(t, n),
                         tolerance * std::sqrt(std::max(1.0, in / 160.0)));
        }
  }
  set_isa("");
}

}  // namespace

TEST(the_formula_in_float32) { check_formula<float>(DType::kFloat32, 2e-5); }
TEST(the_formula_in_bfloat16) { check_formula<BFloat16>(DType::kBFloat16, 0.3); }
TEST(the_formula_in_float16) { check_formula<Half>(DType::kFloat16, 4e-2); }

TEST(splits_change_no_bit) {
  for (Isa isa : supported_isas()) {
    set_isa(isa_name(isa));
    Problem<float> a(DType::kFloat32, 5, 700, 203), b = a;
    b.point();
    decode_linear_cpu(a.params, at_once);
    decode_linear_cpu(b.params, backwards);
    CHECK(std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(float)) == 0);
  }
  set_isa("");
}

TEST(no_tokens_and_no_outputs) {
  Problem<float> problem(DType::kFloat32, 2, 8, 3);
  const std::vector<float> before = problem.out;
  problem.params.tokens = 0;
  decode_linear_cpu(problem.params, at_once);
  problem.params.tokens = 2;
  problem.params.out_features = 0;
  decode_linear_cpu(problem.params, at_once);
  CHECK(problem.out == before);
}

int main() { return run_all_tests(); }
