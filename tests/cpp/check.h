// A unit test in a few lines: TEST(name) { CHECK(...); } and one run_all_tests() in main. And two
// parallel loops to run a kernel in.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cpu/parallel.h"

struct TestCase {
  const char* name;
  void (*run)();
};

inline std::vector<TestCase>& test_cases() {
  static std::vector<TestCase> cases;
  return cases;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct TestRegistration {
  TestRegistration(const char* name, void (*run)()) { test_cases().push_back({name, run}); }
};

#define TEST(name)                                          \
  static void test_##name();                                \
  static const TestRegistration reg_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::printf("%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition);     \
      ++failures();                                                                 \
    }                                                                               \
  } while (false)

#define CHECK_NEAR(actual, expected, tolerance)                                         \
  do {                                                                                  \
    const double a_ = (actual), e_ = (expected), t_ = (tolerance);                      \
    if (!(std::fabs(a_ - e_) <= t_)) {                                                  \
      std::printf("%s:%d: %s is %.9g, expected %.9g within %.2g\n", __FILE__, __LINE__, \
                  #actual, a_, e_, t_);                                                 \
      ++failures();                                                                     \
    }                                                                                   \
  } while (false)

#define CHECK_THROWS(statement, type)                                                      \
  do {                                                                                     \
    bool thrown_ = false;                                                                  \
    try {                                                                                  \
      statement;                                                                           \
    } catch (const type&) {                                                                \
      thrown_ = true;                                                                      \
    }                                                                                      \
    if (!thrown_) {                                                                        \
      std::printf("%s:%d: %s did not throw %s\n", __FILE__, __LINE__, #statement, #type);  \
      ++failures();                                                                        \
    }                                                                                      \
  } while (false)

// Item by item from the last one: neither the order nor the split may matter.
inline void backwards(int64_t count, int64_t /*grain*/, const steer::RangeBody& body) {
  for (int64_t i = count; i-- > 0;) body(i, i + 1);
}

inline void at_once(int64_t count, int64_t /*grain*/, const steer::RangeBody& body) {
  body(0, count);
}

inline int run_all_tests() {
  for (const TestCase& test : test_cases()) {
    const int before = failures();
    test.run();
    std::printf("%-6s %s\n", failures() == before ? "ok" : "FAILED", test.name);
  }
  return failures() == 0 && !test_cases().empty() ? 0 : 1;
}
