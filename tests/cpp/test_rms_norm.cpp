// rms_norm as a C++ function: the formula, memory that must not be read, splits over threads.
#include <cmath>
#include <cstring>
#include <random>

#include "check.h"
#include "core/float16.h"
#include "cpu/rms_norm.h"

using namespace steer;

namespace {

// Buffers end with the last element, so that a sanitizer sees a step beyond it.
template <class T>
void check_formula(DType dtype, double tolerance) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int64_t rows : {1, 3, 700})
    for (int64_t size : {1, 4, 15, 16, 77}) {
      std::vector<T> x, weight, out(rows * size), again(rows * size);
      for (int64_t i = 0; i < rows * size; ++i) x.push_back(from_float<T>(normal(random)));
      for (int64_t i = 0; i < size; ++i) weight.push_back(from_float<T>(normal(random)));
      RmsNormParams params;
      params.x = x.data();
      params.weight = weight.data();
      params.out = out.data();
      params.dtype = dtype;
      params.rows = rows;
      params.size = params.x_stride = size;
      params.epsilon = 1e-5;
      rms_norm_cpu(params, at_once);
      params.out = again.data();
      rms_norm_cpu(params, backwards);
      CHECK(std::memcmp(out.data(), again.data(), out.size() * sizeof(T)) == 0);
      for (int64_t row = 0; row < rows; ++row) {
        double squares = 0.0;
        for (int64_t i = 0; i < size; ++i) squares += std::pow(to_float(x[row * size + i]), 2.0);
        const double scale = 1.0 / std::sqrt(squares / size + 1e-5);
        for (int64_t i = 0; i < size; ++i)
          CHECK_NEAR(to_float(out[row * size + i]),
                     to_float(x[row * size + i]) * scale * to_float(weight[i]), tolerance);
      }
    }
}

}  // namespace

TEST(the_formula_in_float32) { check_formula<float>(DType::kFloat32, 1e-5); }
TEST(the_formula_in_bfloat16) { check_formula<BFloat16>(DType::kBFloat16, 0.08); }
TEST(the_formula_in_float16) { check_formula<Half>(DType::kFloat16, 0.01); }

TEST(no_rows) {
  RmsNormParams params;
  params.size = 3;
  rms_norm_cpu(params, at_once);
}

int main() { return run_all_tests(); }
