// The list of distributions. Adding one: its header, a line here, its op, its function and its test.
#pragma once

#include "core/normal.h"
#include "core/sparse.h"
#include "core/truncated_normal.h"
#include "core/uniform.h"

// APPLY(distribution over float32 arithmetic), APPLY(... float64 ...)
#define FASTINIT_FOR_EACH_DISTRIBUTION(APPLY) \
  APPLY(Uniform<float>)                       \
  APPLY(Uniform<double>)                      \
  APPLY(Normal<float>)                        \
  APPLY(Normal<double>)                       \
  APPLY(TruncatedNormal<float>)               \
  APPLY(TruncatedNormal<double>)              \
  APPLY(Sparse<float>)                        \
  APPLY(Sparse<double>)
