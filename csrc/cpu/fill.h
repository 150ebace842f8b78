// Filling on the CPU: all threads, the best instruction set.
#pragma once

#include <string>
#include <vector>

#include "core/fill.h"

namespace fastinit::cpu {

// Instruction sets, in the order of preference. Their names are those of ATEN_CPU_CAPABILITY.
enum class Capability { baseline, avx2, avx512 };

const char* name(Capability capability);
// What this build contains and this processor can run.
std::vector<Capability> available();
// The one in use: FASTINIT_CPU_CAPABILITY, else ATEN_CPU_CAPABILITY as an upper limit, else the best.
// Throws std::invalid_argument if FASTINIT_CPU_CAPABILITY is unknown or cannot be had.
Capability active();
// Overrides active(); for tests. Returns the previous one.
Capability set_active(Capability capability);

void fill(const Fill& f);

}  // namespace fastinit::cpu
