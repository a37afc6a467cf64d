// Choosing the instruction set by environment variable and by call.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "check.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"

using namespace steer;

TEST(environment_is_read_and_a_bad_name_is_an_error) {
  const char* wanted = std::getenv("STEER_CPU_ISA");
  const std::string name = wanted == nullptr ? "" : wanted;
  if (name == "avx9") {
    CHECK_THROWS(current_isa(), std::invalid_argument);
    CHECK_THROWS(current_isa(), std::invalid_argument);  // and stays one
  } else {
    CHECK(current_isa() == supported_isas().back());
  }
}

TEST(a_call_overrides_and_a_bad_name_changes_nothing) {
  set_isa("portable");
  CHECK(current_isa() == Isa::kPortable);
  CHECK_THROWS(set_isa("neon9"), std::invalid_argument);
  CHECK(current_isa() == Isa::kPortable);
  for (Isa isa : supported_isas()) {
    set_isa(isa_name(isa));
    CHECK(current_isa() == isa);
  }
}

TEST(every_set_has_a_table_of_its_own_without_a_gap) {
  const Kernels* last = nullptr;
  for (Isa isa : supported_isas()) {
    set_isa(isa_name(isa));
    const Kernels& kernels = current_kernels();
    CHECK(kernels.isa == isa);
    CHECK(&kernels != last);
    CHECK(kernels.logit_stats.reduce_tasks != nullptr && kernels.logit_stats.locate != nullptr);
    CHECK(kernels.decode_attention.attend != nullptr && kernels.decode_attention.merge != nullptr);
    for (const DecodeLinearKernels& linear : {kernels.decode_linear, kernels.decode_linear_bfloat16})
      CHECK(linear.stage != nullptr && linear.multiply != nullptr && linear.token_bytes > 0);
    last = &kernels;
  }
  set_isa("");
}

TEST(portable_is_always_there_and_comes_first) {
  CHECK(supported_isas().front() == Isa::kPortable);
}

TEST(aarch64_has_neon_and_x86_has_not) {
  bool found = false;
  for (Isa isa : supported_isas()) found = found || isa == Isa::kNeon;
  CHECK(found == (STEER_NEON_KERNELS == 1));
  if (!found) CHECK_THROWS(set_isa("neon"), std::invalid_argument);
  set_isa("");
}

int main() { return run_all_tests(); }
