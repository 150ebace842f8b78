/* A program in C that uses the library of kernels by its interface alone: no torch, no Python, no C++.
 * tests/build/test_kernels.py compares what it prints with what the package gives. */
#include "kernels/interface.h"

#include <stdio.h>
#include <string.h>

enum { rows = 3, cols = 5, members = 2 };

static int threads_asked;
static int threads(void) {
  ++threads_asked;
  return 2;
}
static int not_in_parallel(void) { return 0; }

static int refused(const char* what, int status, int expected) {
  printf("%s: %s\n", what, status == expected ? fastinit_message() : "another status");
  return status != expected;
}

static void add(int64_t from, int64_t to, void* context) {
  for (int64_t i = from; i < to; ++i) ((int*)context)[i] += 1;
}

int main(void) {
  const fastinit_host host = {threads, not_in_parallel};
  int wrong = refused("interface", fastinit_open(FASTINIT_INTERFACE + 1, &host), FASTINIT_FAILED);
  if (fastinit_open(FASTINIT_INTERFACE, &host) != FASTINIT_OK) return 1;

  /* Two matrices, transposed in memory, each with its own key. */
  float values[members][cols][rows];
  const int64_t sizes[] = {rows, cols}, strides[] = {1, rows}, index_strides[] = {cols, 1};
  const uint64_t keys[members] = {7, 11};
  fastinit_fill fill = {FASTINIT_F32,  2, sizes,  strides,
                        index_strides, 0, values, {FASTINIT_NORMAL, {1, 2}, 0, 0, 0, 0}};
  if (fastinit_fill_on_cpu(&fill, keys, members, rows * cols) != FASTINIT_OK) return 1;
  for (int m = 0; m < members; ++m) {
    printf("normal");
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < cols; ++j) printf(" %a", values[m][j][i]);
    }
    printf("\n");
  }

  fill.distribution.kind = 99;
  wrong += refused("kind", fastinit_fill_on_cpu(&fill, keys, 1, 0), FASTINIT_FAILED);
  fill.distribution.kind = FASTINIT_NORMAL;
  fill.dims = FASTINIT_MOST_DIMS + 1;
  wrong += refused("dims", fastinit_fill_on_cpu(&fill, keys, 1, 0), FASTINIT_FAILED);
  fill.dims = 2;
  fill.dtype = 99;
  wrong += refused("dtype", fastinit_fill_on_cpu(&fill, keys, 1, 0), FASTINIT_FAILED);
  const char* name = NULL;
  wrong += refused("instruction set", fastinit_set_instruction_set("mmx", &name), FASTINIT_INVALID);
  if (*fastinit_build_info("cuda_architectures") == '\0') {
    int32_t capturing = 0;
    fill.dtype = FASTINIT_F32;
    wrong += refused("CUDA", fastinit_fill_on_cuda(&fill, 0, NULL, 0, NULL), FASTINIT_FAILED);
    wrong += refused("CUDA", fastinit_cuda_is_capturing(0, NULL, &capturing), FASTINIT_FAILED);
  }

  /* (1 2; 3 4) (1 1; 0 1) twice = (2 6; 6 14), and the squares on and below the diagonal of the first one. */
  double a[] = {1, 2, 3, 4}, b[] = {1, 1, 0, 1}, c[4], sums[2];
  const fastinit_matrix of_a = {a, 2, 2, 2, 1, FASTINIT_ALL}, of_b = {b, 2, 2, 2, 1, FASTINIT_UPPER},
                        of_c = {c, 2, 2, 2, 1, FASTINIT_ALL};
  fastinit_multiplier* multiplier = NULL;
  if (fastinit_multiplier_new(FASTINIT_F64, &multiplier) != FASTINIT_OK ||
      fastinit_multiplier_reserve(multiplier, 2, 2, 2) != FASTINIT_OK ||
      fastinit_multiply(multiplier, &of_c, &of_a, &of_b, 2, 0) != FASTINIT_OK ||
      fastinit_lower_squares(FASTINIT_F64, &of_a, sums) != FASTINIT_OK) {
    return 1;
  }
  fastinit_multiplier_delete(multiplier);
  printf("product %g %g %g %g squares %g %g\n", c[0], c[1], c[2], c[3], sums[0], sums[1]);

  int counts[1000];
  memset(counts, 0, sizeof counts);
  if (fastinit_parallel(0, 1000, 10, add, counts) != FASTINIT_OK) return 1;
  int once = threads_asked > 0;
  for (int i = 0; i < 1000; ++i) once &= counts[i] == 1;
  printf("parallel %s\n", once ? "once" : "not once");
  return wrong;
}
