/* The kernels' one door, in C: what libfastinit_kernels.so offers, and all that it offers.
 *
 * The library knows neither torch nor Python, so one build of it serves every version of both. Who calls it describes a
 * fill as plain data. Functions that can fail return a fastinit_status, and fastinit_message() says what went wrong;
 * nothing is thrown. Any thread may call any function.
 */
#ifndef FASTINIT_KERNELS_INTERFACE_H
#define FASTINIT_KERNELS_INTERFACE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* To be counted up with every change of this file that a caller can tell. */
#define FASTINIT_INTERFACE 1

#define FASTINIT_MOST_DIMS 64

#define FASTINIT_EXPORT __attribute__((visibility("default")))

typedef enum {
  FASTINIT_OK,
  FASTINIT_FAILED,
  FASTINIT_INVALID, /* something that the user has asked for cannot be had */
  FASTINIT_NO_MEMORY,
} fastinit_status;

/* What went wrong in the last call of this thread that failed. */
FASTINIT_EXPORT const char* fastinit_message(void);

/* ---- The library and its host ---------------------------------------------------------------------------------- */

/* What only the program knows that the library works in. */
typedef struct {
  int (*threads)(void); /* how many may work at a time */
  int (*in_parallel)(
      void); /* whether the calling thread is one of several that work already, and is to do so alone */
} fastinit_host;

/* Comes first. Fails if the library's interface is not this one. Without it, each call works on its own thread alone. */
FASTINIT_EXPORT int fastinit_open(int32_t interface_version, const fastinit_host* host);

/* What was built: "version", "compiler", "instruction_sets", "cuda_architectures", "cuda_toolkit", "cuda_missing". Lists
 * are separated by blanks; what does not apply is empty. */
FASTINIT_EXPORT const char* fastinit_build_info(const char* name);

/* The name of the instruction set in use. Fails if FASTINIT_CPU_CAPABILITY names one that cannot be had. */
FASTINIT_EXPORT int fastinit_instruction_set(const char** name);
/* Chooses one, and says which one it was before; for tests. */
FASTINIT_EXPORT int fastinit_set_instruction_set(const char* name, const char** before);

/* ---- Fills ------------------------------------------------------------------------------------------------------ */

typedef enum {
  FASTINIT_F32,
  FASTINIT_F64,
  FASTINIT_F16,
  FASTINIT_BF16,
  FASTINIT_F8_E4M3FN,
  FASTINIT_F8_E4M3FNUZ,
  FASTINIT_F8_E5M2,
  FASTINIT_F8_E5M2FNUZ,
} fastinit_dtype;

typedef enum {
  FASTINIT_UNIFORM,          /* on [a, b): a, b */
  FASTINIT_NORMAL,           /* mean, standard deviation */
  FASTINIT_TRUNCATED_NORMAL, /* mean, standard deviation, lower bound, upper bound */
  FASTINIT_SPARSE,           /* standard deviation */
} fastinit_kind;

typedef struct {
  int32_t kind;
  double parameters[4];
  /* Of FASTINIT_SPARSE: the whole matrix, how many of each column are zeros, and whether an element is one number or the
   * two parts of a complex one. */
  int32_t parts;
  uint64_t rows, columns, zeros;
} fastinit_distribution;

/* A box of logical indices, mapped onto memory; strides count elements. See Region in core/region.h. */
typedef struct {
  int32_t dtype;
  int32_t dims; /* 1 to FASTINIT_MOST_DIMS */
  const int64_t* sizes;
  const int64_t* strides;
  const int64_t* index_strides;
  uint64_t first_index;
  void* data;
  fastinit_distribution distribution;
} fastinit_fill;

/* One fill for each key, each `step` elements from the one before. */
FASTINIT_EXPORT int fastinit_fill_on_cpu(const fastinit_fill* fill, const uint64_t* keys, int64_t count,
                                         int64_t step);

/* On a GPU: on that device, in that cudaStream_t, without waiting for it. The key is the one at `device_key`, in the
 * device's memory, unless that is null. */
FASTINIT_EXPORT int fastinit_fill_on_cuda(const fastinit_fill* fill, uint64_t key, const uint64_t* device_key,
                                          int32_t device, void* stream);
/* Whether what is put into the stream goes into a CUDA graph. */
FASTINIT_EXPORT int fastinit_cuda_is_capturing(int32_t device, void* stream, int32_t* capturing);

/* ---- Products, for orthogonal_ ---------------------------------------------------------------------------------- */

typedef enum { FASTINIT_ALL, FASTINIT_LOWER, FASTINIT_UPPER } fastinit_part;

/* Real, of FASTINIT_F32 or FASTINIT_F64. See Matrix in cpu/matrix.h. */
typedef struct {
  void* data;
  int64_t rows, cols, row_stride, col_stride;
  int32_t part;
} fastinit_matrix;

/* The most terms that are summed before the sum is added to the result. */
#define FASTINIT_MOST_TERMS 384

/* Keeps its workspace from one product to the next; for one thread at a time. See Multiplier in cpu/product.h. */
typedef struct fastinit_multiplier fastinit_multiplier;

FASTINIT_EXPORT int fastinit_multiplier_new(int32_t dtype, fastinit_multiplier** made);
FASTINIT_EXPORT void fastinit_multiplier_delete(fastinit_multiplier* multiplier);
/* Room for products of that size. */
FASTINIT_EXPORT int fastinit_multiplier_reserve(fastinit_multiplier* multiplier, int64_t rows, int64_t cols,
                                                int64_t terms);
/* c = alpha a b, or c += alpha a b. */
FASTINIT_EXPORT int fastinit_multiply(fastinit_multiplier* multiplier, const fastinit_matrix* c,
                                      const fastinit_matrix* a, const fastinit_matrix* b, double alpha,
                                      int32_t add);
/* The sum of the squares of each column, from the diagonal down. */
FASTINIT_EXPORT int fastinit_lower_squares(int32_t dtype, const fastinit_matrix* a, double* sums);

/* Calls work(from, to, context) for parts of begin .. end - 1, of `grain` each, on the fills' threads. It must not throw. */
FASTINIT_EXPORT int fastinit_parallel(int64_t begin, int64_t end, int64_t grain,
                                      void (*work)(int64_t from, int64_t to, void* context), void* context);

#ifdef __cplusplus
}
#endif

#endif
