// The instruction sets of cpu/targets.def: which there are, and which one is in use.
#pragma once

#include <vector>

namespace fastinit::cpu {

enum class Target {
#define TARGET(NAMESPACE, ...) NAMESPACE,
#include "cpu/targets.def"
};

const char* name(Target target);
// What this build contains, and what of it this processor runs; the best one last.
std::vector<Target> built();
std::vector<Target> available();
// The one in use: FASTINIT_CPU_CAPABILITY, else ATEN_CPU_CAPABILITY as an upper limit, else the best.
// Throws std::invalid_argument if FASTINIT_CPU_CAPABILITY is unknown or cannot be had.
Target active();
// Overrides active(); for tests. Returns the previous one.
Target set_active(Target target);

}  // namespace fastinit::cpu
