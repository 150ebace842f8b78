#include "cpu/target.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastinit::cpu {
namespace {

constexpr const char* names[] = {
#define TARGET(NAMESPACE, NAME, ...) NAME,
#include "cpu/targets.def"
};

bool runs_here(Target target) {
  switch (target) {
#define TARGET(NAMESPACE, NAME, FLAGS, RUNS) \
  case Target::NAMESPACE:                    \
    return RUNS;
#include "cpu/targets.def"
  }
  return false;
}

Target choose() {
  const std::vector<Target> choices = available();
  if (const char* wanted = std::getenv("FASTINIT_CPU_CAPABILITY"); wanted != nullptr && *wanted != '\0') {
    std::string list;
    for (const Target t : choices) {
      if (std::string(wanted) == name(t)) return t;
      list += (list.empty() ? "" : ", ") + std::string(name(t));
    }
    throw std::invalid_argument("FASTINIT_CPU_CAPABILITY=" + std::string(wanted) +
                                " cannot be had; this build on this processor offers: " + list);
  }
  Target best = choices.back();
  if (const char* limit = std::getenv("ATEN_CPU_CAPABILITY")) {
    for (const Target t : built()) {
      if (std::string(limit) == name(t)) best = std::min(best, t);
    }
  }
  return best;
}

std::atomic<Target>& active_storage() {
  static std::atomic<Target> storage{choose()};
  return storage;
}

}  // namespace

const char* name(Target target) { return names[static_cast<int>(target)]; }

std::vector<Target> built() {
  return {
#define TARGET(NAMESPACE, ...) Target::NAMESPACE,
#include "cpu/targets.def"
  };
}

std::vector<Target> available() {
  std::vector<Target> result = built();
  std::erase_if(result, [](Target t) { return !runs_here(t); });
  return result;
}

Target active() { return active_storage().load(std::memory_order_relaxed); }

Target set_active(Target target) { return active_storage().exchange(target); }

}  // namespace fastinit::cpu
