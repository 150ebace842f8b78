// Filling on the CPU: all threads, the instruction set in use.
#pragma once

#include "core/fill.h"

namespace fastinit::cpu {

void fill(const Fill& f);

// Several fills that differ in the key and in the place: one for each key, `step` elements from the one before. f.key does not
// count.
struct Members {
  const Key* keys;
  int64_t count, step;
};
void fill(const Fill& f, const Members& members);

}  // namespace fastinit::cpu
