// How a function of core/ is compiled: for the host, and by nvcc for the device as well.
#pragma once

#if defined(__CUDACC__)
#define FASTINIT_INLINE __host__ __device__ __forceinline__
#else
// Always inlined, so that no object file carries a shared copy of a function that another one
// compiled for a different instruction set (the one-definition rule would let the linker pick either).
#define FASTINIT_INLINE inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)
#define FASTINIT_UNROLL _Pragma("unroll")
#define FASTINIT_NO_UNROLL _Pragma("unroll 1")
#else
#define FASTINIT_UNROLL
#define FASTINIT_NO_UNROLL
#endif
