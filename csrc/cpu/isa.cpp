#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "cpu/kernels.h"

#if STEER_X86_KERNELS
#include <cpuid.h>
#endif
#if STEER_NEON_KERNELS && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace steer {
namespace {

constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kNeon};
std::atomic<const Kernels*> selected{nullptr};

#if STEER_X86_KERNELS
bool has_f16c() {  // __builtin_cpu_supports knows this name in recent compilers only
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

bool is_supported(Isa isa) {
  if (isa == Isa::kPortable) return true;
#if STEER_NEON_KERNELS && defined(__linux__)
  constexpr unsigned long kAdvancedSimd = 1ul << 1;  // HWCAP_ASIMD of <asm/hwcap.h>
  return isa == Isa::kNeon && (getauxval(AT_HWCAP) & kAdvancedSimd) != 0;
#elif STEER_NEON_KERNELS
  return isa == Isa::kNeon;  // the other systems on AArch64 demand it
#elif STEER_X86_KERNELS
  if (isa == Isa::kNeon) return false;
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  return isa == Isa::kAvx2 ? avx2 : avx2 && __builtin_cpu_supports("avx512f");
#else
  return false;
#endif
}

std::string supported_names() {
  std::string names;
  for (Isa isa : supported_isas()) names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  return names;
}

Isa parse(const std::string& name, const std::string& where) {
  for (Isa isa : kIsas) {
    if (name != isa_name(isa)) continue;
    if (is_supported(isa)) return isa;
    throw std::invalid_argument(where + " asks for '" + name +
                                "', which this machine or build does not have; it has: " +
                                supported_names());
  }
  throw std::invalid_argument(where + " is '" + name +
                              "', which is not one of portable, avx2, avx512, neon");
}

Isa default_isa() {
  const char* wanted = std::getenv("STEER_CPU_ISA");
  if (wanted != nullptr && *wanted != '\0') return parse(wanted, "STEER_CPU_ISA");
  return supported_isas().back();
}

// Of a set that is supported.
const Kernels& kernels_of(Isa isa) {
#if STEER_X86_KERNELS
  if (isa == Isa::kAvx512)
    return __builtin_cpu_supports("avx512bf16") ? kernels_avx512bf16() : kernels_avx512();
  if (isa == Isa::kAvx2) return kernels_avx2();
#endif
#if STEER_NEON_KERNELS
  if (isa == Isa::kNeon) return kernels_neon();
#endif
  (void)isa;
  return kernels_portable();
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kNeon: return "neon";
    default: return "portable";
  }
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (Isa isa : kIsas)
    if (is_supported(isa)) isas.push_back(isa);
  return isas;
}

const Kernels& current_kernels() {
  const Kernels* kernels = selected.load(std::memory_order_acquire);
  if (kernels == nullptr) {  // racing threads find and store the same table
    kernels = &kernels_of(default_isa());
    selected.store(kernels, std::memory_order_release);
  }
  return *kernels;
}

Isa current_isa() { return current_kernels().isa; }

void set_isa(const std::string& name) {
  selected.store(name.empty() ? nullptr : &kernels_of(parse(name, "the requested CPU ISA")),
                 std::memory_order_release);
}

}  // namespace steer
