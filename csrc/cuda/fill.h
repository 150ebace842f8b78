// Filling on an NVIDIA GPU: one kernel a fill.
#pragma once

#include "core/fill.h"

namespace fastinit::cuda {

// Where and when: a device's number, and one of its streams (a cudaStream_t).
struct Queue {
  int device;
  void* stream;
};

// Whether what is put into the queue goes into a CUDA graph, to be run later and any number of times.
bool capturing(Queue queue);

// `device_key`, if not null, is where the device finds the key; f.key counts otherwise. Does not wait for the
// device. Throws std::runtime_error where the launch fails.
void fill(const Fill& f, const uint64_t* device_key, Queue queue);

}  // namespace fastinit::cuda
