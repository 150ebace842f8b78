#include "torch/log.h"

#include <ATen/ATen.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <string>

namespace fastinit {
namespace py = pybind11;
using namespace pybind11::literals;
using at::Tensor;

int64_t Intervals::add(int64_t start, int64_t end) {
  // Ranges that touch are merged as well.
  auto first = std::lower_bound(ranges_.begin(), ranges_.end(), start,
                                [](const auto& range, int64_t value) { return range.second < value; });
  auto last = first;
  int64_t known = 0, low = start, high = end;
  for (; last != ranges_.end() && last->first <= end; ++last) {
    known += std::max<int64_t>(0, std::min(end, last->second) - std::max(start, last->first));
    low = std::min(low, last->first);
    high = std::max(high, last->second);
  }
  if (first == last) {
    ranges_.insert(first, {start, end});
  } else {
    *first = {low, high};
    ranges_.erase(first + 1, last);
  }
  return known;
}

Runs runs_of_memory(const Tensor& tensor) {
  const auto size = static_cast<int64_t>(tensor.itemsize());
  const int64_t offset = tensor.storage_offset();
  if (tensor.is_contiguous()) return {tensor.numel() * size, {offset * size}};
  std::vector<std::pair<int64_t, int64_t>> dims, outer;
  for (int64_t d = 0; d < tensor.dim(); ++d) dims.emplace_back(tensor.stride(d), tensor.size(d));
  std::sort(dims.begin(), dims.end());
  int64_t length = 1, pieces = 1;
  for (const auto& [stride, count] : dims) {
    if (stride == length) {
      length *= count;
    } else if (count > 1 && stride > 0) {
      outer.emplace_back(stride, count);
      pieces = count > most_runs ? most_runs + 1 : std::min(pieces * count, most_runs + 1);
    }
  }
  if (pieces > most_runs) return {length * size, {}};
  std::vector<int64_t> starts{offset};
  for (const auto& [stride, count] : outer) {
    std::vector<int64_t> next;
    next.reserve(starts.size() * static_cast<size_t>(count));
    for (const int64_t start : starts) {
      for (int64_t i = 0; i < count; ++i) next.push_back(start + i * stride);
    }
    starts = std::move(next);
  }
  for (int64_t& start : starts) start *= size;
  return {length * size, std::move(starts)};
}

namespace {

py::object key_of(const std::optional<TensorKey>& key) {
  if (!key.has_value()) return py::none();
  if (key->device.defined()) return py::cast(key->device);
  return py::int_(key->host.bits);
}

std::optional<TensorKey> key_from(const py::object& key) {
  if (key.is_none()) return std::nullopt;
  if (py::isinstance<py::int_>(key)) return TensorKey{Key{key.cast<uint64_t>()}, {}};
  return TensorKey{Key{0}, key.cast<Tensor>()};
}

py::object or_none(const py::object& object) { return object ? object : py::none(); }

py::tuple as_tuple(at::IntArrayRef numbers) {
  py::tuple result(numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) result[i] = numbers[i];
  return result;
}

}  // namespace

py::tuple Seen::as_tuple() const {
  py::object arguments = call.arguments[0];
  if (!call.names.is_none()) {
    const py::tuple names(call.names);
    py::dict named;
    for (size_t i = 0; i < names.size(); ++i) named[names[i]] = call.arguments[i];
    arguments = named;
  }
  return py::make_tuple(call.function, arguments, key_of(call.key), fastinit::as_tuple(shape),
                        or_none(call.place), fastinit::as_tuple(stride), offset, py::cast(dtype), start, end,
                        solid, or_none(call.source));
}

void Fills::add(Seen seen, bool all) {
  if (all) {
    fills_.clear();
    views_.clear();
  } else {  // so that a place that is filled again and again is remembered once, and in order
    std::vector<int64_t> view{seen.offset};
    view.insert(view.end(), seen.shape.begin(), seen.shape.end());
    view.insert(view.end(), seen.stride.begin(), seen.stride.end());
    if (fills_.size() > 2 * views_.size() + 16) {
      std::vector<size_t> moved(fills_.size());
      size_t kept = 0;
      for (size_t i = 0; i < fills_.size(); ++i) {
        moved[i] = kept;
        if (fills_[i].has_value() && kept++ != i) fills_[moved[i]] = std::move(fills_[i]);
      }
      fills_.resize(kept);
      for (auto& [_, place] : views_) place = moved[place];
    }
    const auto [known, added] = views_.try_emplace(std::move(view), fills_.size());
    if (!added) {
      fills_[known->second].reset();
      known->second = fills_.size();
    }
  }
  fills_.emplace_back(std::move(seen));
}

py::list Fills::as_list() const {
  // Of a copy: to make Python's objects may collect garbage, which may run code of the program that fills again.
  const std::vector<std::optional<Seen>> fills = fills_;
  py::list result;
  for (const std::optional<Seen>& seen : fills) {
    if (seen.has_value()) result.append(seen->as_tuple());
  }
  return result;
}

Log::Row& Log::row(const py::object& function) {
  for (Row& row : rows_) {
    if (row.function.ptr() == function.ptr()) return row;
  }
  rows_.push_back({function});
  return rows_.back();
}

void Log::add(Call call, const Tensor& tensor, double seconds) {
  const int64_t elements = tensor.numel(), size = static_cast<int64_t>(tensor.itemsize());
  const py::object function = call.function;
  const int64_t again = elements == 0 ? 0 : remember(std::move(call), tensor);
  Row& there = row(function);
  there.calls += 1;
  there.elements += elements;
  there.bytes += elements * size;
  there.seconds += seconds;
  there.redrawn += again / size;
}

int64_t Log::remember(Call call, const Tensor& tensor) {
  const int64_t size = static_cast<int64_t>(tensor.itemsize()), offset = tensor.storage_offset();
  const int64_t filled = tensor.numel() * size, start = offset * size;
  const Runs runs = runs_of_memory(tensor);
  const bool solid = runs.length == filled, random = call.random;
  int64_t end = start + filled;
  if (!solid) {
    end = start + size;
    for (int64_t d = 0; d < tensor.dim(); ++d) end += size * (tensor.size(d) - 1) * tensor.stride(d);
  }
  const at::Storage& storage = tensor.storage();
  const c10::StorageImpl* const address = storage.unsafeGetStorageImpl();
  auto found = memory_.find(address);
  if (found == memory_.end()) {
    if (memory_.size() >= most_memories_) forget_what_is_gone();
    found = memory_.try_emplace(address, Memory{storage.getWeakStorageImpl(), {}, {}}).first;
  }
  Memory& memory = found->second;
  const at::IntArrayRef sizes = tensor.sizes(), strides = tensor.strides();
  memory.fills.add({std::move(call),
                    {sizes.begin(), sizes.end()},
                    {strides.begin(), strides.end()},
                    offset,
                    tensor.scalar_type(),
                    start,
                    end,
                    solid},
                   solid && static_cast<size_t>(filled) == storage.nbytes());
  int64_t again = 0;
  if (random) {
    for (const int64_t each : runs.starts) again += memory.drawn.add(each, each + runs.length);
  }
  return again;
}

void Log::forget_what_is_gone() {
  std::erase_if(memory_, [](const auto& entry) { return entry.second.storage.expired(); });
  most_memories_ = std::max<size_t>(1024, 2 * memory_.size());
}

bool Log::knows(const Tensor& tensor) const {
  return memory_.contains(tensor.storage().unsafeGetStorageImpl());
}

py::list Log::seen(const Tensor& tensor) const {
  const auto found = memory_.find(tensor.storage().unsafeGetStorageImpl());
  return found == memory_.end() ? py::list() : found->second.fills.as_list();
}

py::list Log::rows() const {
  const std::vector<Row> rows = rows_;  // as in Fills::as_list
  py::list result;
  for (const Row& row : rows) {
    result.append(py::make_tuple(row.function, row.calls, row.elements, row.bytes, row.seconds, row.redrawn));
  }
  return result;
}

size_t Log::memories() {
  forget_what_is_gone();
  return memory_.size();
}

void define_log(py::module_& m) {
  py::class_<Intervals>(m, "Intervals", "Disjoint, sorted ranges of bytes.")
      .def(py::init<>())
      .def("add", &Intervals::add, "start"_a, "end"_a)
      .def_property_readonly("ranges", &Intervals::ranges);
  m.def(
      "runs",
      [](const Tensor& tensor) {
        Runs runs = runs_of_memory(tensor);
        return std::pair(runs.length, std::move(runs.starts));
      },
      "tensor"_a);

  const auto call = [](const py::str& function, const py::object& arguments, const py::object& place,
                       const py::object& key, bool random, const py::object& source) {
    PyObject* name = py::object(function).release().ptr();
    PyUnicode_InternInPlace(&name);
    return Call{py::reinterpret_steal<py::object>(name),
                py::none(),
                {arguments},
                key_from(key),
                random,
                place,
                source};
  };
  py::class_<Log>(m, "Log", "What the fills of a block did, and to which memory.")
      .def(py::init<>())
      .def_readwrite("open", &Log::open)
      .def_readwrite("simple", &Log::simple)
      .def(
          "add",
          [call](Log& log, const py::str& function, const py::object& arguments, const Tensor& tensor,
                 const py::object& place, const py::object& key, double seconds, bool random,
                 const py::object& source) {
            log.add(call(function, arguments, place, key, random, source), tensor, seconds);
          },
          "function"_a, "arguments"_a, "tensor"_a, "place"_a, "key"_a, "seconds"_a, "random"_a, "source"_a)
      .def(
          "remember",
          [call](Log& log, const py::str& function, const py::object& arguments, const Tensor& tensor,
                 const py::object& place, const py::object& source) {
            log.remember(call(function, arguments, place, py::none(), false, source), tensor);
          },
          "function"_a, "arguments"_a, "tensor"_a, "place"_a, "source"_a)
      .def("knows", &Log::knows, "tensor"_a)
      .def("seen", &Log::seen, "tensor"_a)
      .def("rows", &Log::rows)
      .def("memories", &Log::memories);
}

}  // namespace fastinit
