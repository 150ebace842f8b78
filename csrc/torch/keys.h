// Keys: what a fill takes its own from, and who is told which one it was (contract C7).
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "core/philox.h"

namespace fastinit {

struct Backend;

// The key of one fill: on the host, or in the memory of the tensor's device (a 0-dimensional int64 tensor), where each replay of
// a captured graph draws it anew.
struct TensorKey {
  Key host{0};
  at::Tensor device;
};

// Where a fill's key comes from: a generator (none: the default one of the tensor's device), or the key itself.
struct KeySource {
  std::optional<at::Generator> generator;
  std::optional<at::Tensor> key;  // or several, one for each index of the tensor's first dimensions

  // Throws if it cannot give a key for this tensor.
  void check(const char* op, const at::Tensor& self) const;
  // What one key fills: the tensor, or the first of those that have their own.
  at::Tensor member(const at::Tensor& self) const;
  // Takes exactly one key, under the generator's lock.
  TensorKey take(const Backend& on, const at::Tensor& self) const;
};

// The keys in a vector of int64, each as a fill by itself takes it.
std::vector<TensorKey> each_key(const at::Tensor& keys);

// `count` keys from one, or from each of several: SplitMix64's numbers from that state on (contract C7). As int64, along a
// first dimension.
at::Tensor member_keys(const at::Tensor& key, int64_t count);

// The key as one int64: a tensor on the key's own device.
at::Tensor as_tensor(const TensorKey& key);

// While it is open, a record is told what the fills of its thread do. Records nest; the innermost one is told, and the
// one around it hears that it began.
class Record {
 public:
  void open();
  void close();

  bool began = false;            // a fill has passed its checks: it may have drawn and written since
  std::optional<TensorKey> key;  // of the last fill that took one

  // The innermost record of this thread, or null.
  static Record* current();

 private:
  Record* outer_ = nullptr;
};

}  // namespace fastinit
