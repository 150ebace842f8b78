// libtorch's threads, for the CPU's loops.
#pragma once

#include <cstdint>

namespace fastinit::cpu {

// How many there are.
int threads();

// Calls work(from, to, context) for consecutive parts of begin .. end - 1, of `grain` or more each, on these threads:
// torch.set_num_threads holds, and inside a parallel region nothing is oversubscribed.
void parallel_for(int64_t begin, int64_t end, int64_t grain, void (*work)(int64_t, int64_t, void*),
                  void* context);

}  // namespace fastinit::cpu
