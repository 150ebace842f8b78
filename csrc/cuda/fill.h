// Filling on an NVIDIA GPU: one kernel a fill, on the given stream of the current device.
#pragma once

#include "core/region.h"

namespace fastinit::cuda {

// `device_key`, if not null, is where the device finds the key; f.key counts otherwise. Does not wait for the
// device. Throws std::runtime_error where the launch fails.
template <class Distribution>
void fill(const Fill<Distribution>& f, const uint64_t* device_key, void* stream);

}  // namespace fastinit::cuda
