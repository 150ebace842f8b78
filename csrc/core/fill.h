// One fill, as plain data: what to fill, where it lies, its key and its distribution. The same for every device.
#pragma once

#include <variant>

#include "core/element.h"
#include "core/normal.h"
#include "core/philox.h"
#include "core/region.h"
#include "core/sparse.h"
#include "core/truncated_normal.h"
#include "core/uniform.h"

namespace fastinit {

// The list of distributions. Adding one: its header, a line here, its op, its function and its test.
using Distribution = std::variant<                    //
    Uniform<float>, Uniform<double>,                  //
    Normal<float>, Normal<double>,                    //
    TruncatedNormal<float>, TruncatedNormal<double>,  //
    Sparse<float>, Sparse<double>>;

// The dtype's arithmetic is that of the distribution.
struct Fill {
  Region region;
  void* data;
  DType dtype;
  Key key;
  Distribution distribution;
};

}  // namespace fastinit
