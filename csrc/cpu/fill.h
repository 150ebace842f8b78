// Filling on the CPU: all threads, the instruction set in use.
#pragma once

#include "core/fill.h"

namespace fastinit::cpu {

void fill(const Fill& f);

}  // namespace fastinit::cpu
