// What the fills of a block did, and to which memory: what is behind a Report (python/fastinit/_enabled/report.py). To be
// called with the GIL.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/DimVector.h>
#include <pybind11/pybind11.h>

#include <array>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "torch/keys.h"

namespace fastinit {

// Disjoint, sorted ranges of bytes.
class Intervals {
 public:
  // Adds a range, and returns how many of its bytes were there before.
  int64_t add(int64_t start, int64_t end);
  const std::vector<std::pair<int64_t, int64_t>>& ranges() const { return ranges_; }

 private:
  std::vector<std::pair<int64_t, int64_t>> ranges_;
};

// The memory of a view: the length of its contiguous pieces and where they start, in bytes of its storage. No starts for more
// than `most_runs` pieces.
struct Runs {
  int64_t length;
  std::vector<int64_t> starts;
};
constexpr int64_t most_runs = 4096;
Runs runs_of_memory(const at::Tensor& tensor);

// What was called, and with what besides the tensor and the generator.
struct Call {
  pybind11::object function;                  // an interned string
  pybind11::object names;                     // a tuple of the arguments' names, or None: then
  std::array<pybind11::object, 4> arguments;  // the first of these is a dictionary of all
  std::optional<TensorKey> key;
  bool random;
  pybind11::object place,
      source;  // of a part, where in the whole it lies; the Fill of what was copied. Or null.
};

// A fill as it is kept: of which bytes of which storage.
struct Seen {
  Call call;
  at::DimVector shape, stride;
  int64_t offset;
  at::ScalarType dtype;
  int64_t start, end;
  bool solid;  // it filled every byte from start to end

  pybind11::tuple as_tuple() const;
};

// The fills of one storage, in order. A view that is filled again is there once.
class Fills {
 public:
  void add(Seen seen, bool all);
  pybind11::list as_list() const;

 private:
  std::vector<std::optional<Seen>> fills_;
  std::map<std::vector<int64_t>, size_t> views_;  // where those of a part of the storage are
};

class Log {
 public:
  bool open = true;    // its block is
  bool simple = true;  // whether it takes more than `add`; else whoever fills has to ask Python

  // The row of a function, and what is known of the memory.
  void add(Call call, const at::Tensor& tensor, double seconds);
  // What filled these bytes, or what they are a copy of. Returns how many were drawn before and are drawn again.
  int64_t remember(Call call, const at::Tensor& tensor);
  bool knows(const at::Tensor& tensor) const;
  // The fills of a tensor's storage, each as a tuple.
  pybind11::list seen(const at::Tensor& tensor) const;
  // For each function: its name, and the numbers of a Row.
  pybind11::list rows() const;
  // How many storages are known that are still there.
  size_t memories();

 private:
  struct Row {
    pybind11::object function;
    int64_t calls = 0, elements = 0, bytes = 0;
    double seconds = 0;
    int64_t redrawn = 0;
  };
  // A weak reference keeps the storage's address from being used again, but not its memory.
  struct Memory {
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    Intervals drawn;
    Fills fills;
  };

  Row& row(const pybind11::object& function);
  void forget_what_is_gone();

  std::vector<Row> rows_;
  std::unordered_map<const c10::StorageImpl*, Memory> memory_;
  size_t most_memories_ = 1024;  // before it is worthwhile to look for those that are gone
};

void define_log(pybind11::module_& m);

}  // namespace fastinit
