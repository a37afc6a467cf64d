// Which instruction set the CPU kernels use: the best one the machine has, or the one asked for.
//
// The environment variable STEER_CPU_ISA (portable, avx2, avx512 or neon) is read at the first use;
// set_isa overrides it for the process. Both throw std::invalid_argument, with a sentence, for a
// name that is unknown or a set that this machine or this build does not have.
#pragma once

#include <string>
#include <vector>

// The x86 kernels use GCC/Clang target pragmas and are left out of builds for other machines.
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define STEER_X86_KERNELS 1
#else
#define STEER_X86_KERNELS 0
#endif

// Little-endian AArch64.
#if defined(__aarch64__) && !defined(__AARCH64EB__) && (defined(__GNUC__) || defined(__clang__))
#define STEER_NEON_KERNELS 1
#else
#define STEER_NEON_KERNELS 0
#endif

namespace steer {

enum class Isa : int { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3 };

const char* isa_name(Isa isa);
std::vector<Isa> supported_isas();

Isa current_isa();
void set_isa(const std::string& name);  // "" goes back to the environment variable, or the best

}  // namespace steer
