// Threads for the CPU's loops: as many as the host says, which is libtorch, or a test.
#pragma once

#include <cstdint>

namespace fastinit::cpu {

struct Host {
  int (*threads)();
  int (*in_parallel)();  // whether this thread is one of several that work already
};
// Until then there is one thread.
void set_host(const Host& host);

// How many there are.
int threads();

// Calls work(from, to, context) for parts of begin .. end - 1, of `grain` each (the last one may be smaller), on these
// threads. The caller's thread works as well, and waits for no thread that has not begun. Inside such
// work, or a parallel region of the host's, it works alone. `work` does not throw.
void parallel_for(int64_t begin, int64_t end, int64_t grain, void (*work)(int64_t, int64_t, void*),
                  void* context);

}  // namespace fastinit::cpu
