#!/usr/bin/env bash
# The C++ tests of the CPU kernels for AArch64, built by a cross compiler and run under QEMU.
#
# Needs aarch64-linux-gnu-g++ and qemu-aarch64-static: on Debian and Ubuntu the packages
# g++-aarch64-linux-gnu and qemu-user-static. Says what is missing, and succeeds, where they are not.
# STEER_NEON=1 makes that an error.
set -euo pipefail
cd "$(dirname "$0")/../.."
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
compiler=$(command -v aarch64-linux-gnu-g++ || true)
if [ -z "$qemu" ] || [ -z "$compiler" ]; then
  echo "NEON is not tested here: ${compiler:-aarch64-linux-gnu-g++} and ${qemu:-qemu-aarch64-static} are needed"
  [ "${STEER_NEON:-0}" != 1 ]
  exit
fi
build=build/neon
cmake -S . -B $build -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux \
  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_CROSSCOMPILING_EMULATOR="$qemu;-L;/usr/aarch64-linux-gnu" >/dev/null
cmake --build $build --parallel 2 \
  --target test_core test_accept_drafts test_decode_attention test_decode_linear test_isa test_logit_stats \
  test_sample_logits
ctest --test-dir $build --output-on-failure --parallel 2 -R \
  '^(core|accept_drafts|decode_attention|decode_linear|isa|isa_unknown|logit_stats|sample_logits)$'
