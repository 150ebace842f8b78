// The loops of cpu/fill_target.cpp, compiled once per instruction set.
#pragma once

#include <cstddef>

#include "core/fill.h"

namespace fastinit {
namespace cpu {

// A fill as the loops take it: with the alternative, not the variant, whose functions all instruction sets would share.
struct Job {
  const Region& region;
  void* data;
  DType dtype;
  Key key;
  const void* distribution;
  bool streaming;  // past the caches
};
// Fills elements begin .. end - 1 of the region.
using FillPart = void (*)(const Job& job, int64_t begin, int64_t end);

}  // namespace cpu

// The loop for an alternative of Distribution and a dtype.
#define TARGET(NAMESPACE, ...)                              \
  namespace NAMESPACE {                                     \
  cpu::FillPart fill_part(size_t alternative, DType dtype); \
  }
#include "cpu/targets.def"

}  // namespace fastinit
