// From a region to runs of consecutive indices: direct, through a window, or through tiles.
#pragma once

#include <cstdint>

#include "cpu/run.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

// One fill, taken apart for these loops.
template <class T, class D>
struct Task {
  const Region& region;
  T* data;
  const Keys& keys;
  const D& distribution;
  bool streaming;

  // The last dimension, along which a row goes.
  int inner() const { return region.dims - 1; }
  int64_t width() const { return region.sizes[inner()]; }
  int64_t stride() const { return region.strides[inner()]; }
  int64_t index_stride() const { return region.index_strides[inner()]; }
  uint64_t last_index() const {
    uint64_t last = region.first_index;
    for (int d = 0; d < region.dims; ++d)
      last += static_cast<uint64_t>((region.sizes[d] - 1) * region.index_strides[d]);
    return last;
  }
};

// A position in a region: coordinates, memory and index of the row (all but the last dimension) it is in.
class Rows {
 public:
  Rows(const Region& region, int64_t row) : index(region.first_index), region_(region) {
    for (int d = region.dims - 2; d >= 0; --d) {
      coordinate_[d] = row % region.sizes[d];
      row /= region.sizes[d];
      memory += coordinate_[d] * region.strides[d];
      index += static_cast<uint64_t>(coordinate_[d] * region.index_strides[d]);
    }
  }
  // How many rows, this one included, differ in the last outer coordinate alone.
  int64_t neighbours() const {
    const int d = region_.dims - 2;
    return d < 0 ? 1 : region_.sizes[d] - coordinate_[d];
  }
  void advance(int64_t rows) {
    for (int d = region_.dims - 2; d >= 0; --d) {
      coordinate_[d] += rows;
      memory += rows * region_.strides[d];
      index += static_cast<uint64_t>(rows * region_.index_strides[d]);
      if (coordinate_[d] < region_.sizes[d]) return;
      // `rows` never goes past the end of its own dimension, so this is a carry of one.
      coordinate_[d] -= region_.sizes[d];
      memory -= region_.sizes[d] * region_.strides[d];
      index -= static_cast<uint64_t>(region_.sizes[d] * region_.index_strides[d]);
      rows = 1;
    }
  }

  int64_t memory = 0;
  uint64_t index;

 private:
  const Region& region_;
  int64_t coordinate_[Region::max_dims];
};

// For rows that are long, and whose elements touch in memory.
template <class T, class D>
class DirectWriter {
 public:
  explicit DirectWriter(const Task<T, D>& task) : task_(task) {}

  // Columns from .. to - 1 of a row.
  void write(const Rows& row, int64_t from, int64_t to) {
    fill_run(task_.data + row.memory + from, row.index + static_cast<uint64_t>(from), to - from, task_.keys,
             task_.distribution, task_.streaming);
  }

 private:
  const Task<T, D>& task_;
};

// For any region: values are made a window of consecutive indices at a time, in the nearest cache, and taken from there.
template <class T, class D>
class WindowWriter {
 public:
  static constexpr int64_t size = 256;

  explicit WindowWriter(const Task<T, D>& task) : task_(task), last_(task.last_index()) {}

  void write(const Rows& row, int64_t from, int64_t to) {
    const int64_t stride = task_.stride(), index_stride = task_.index_stride();
    T* const p = task_.data + row.memory + from * stride;
    const uint64_t index = row.index + static_cast<uint64_t>(from * index_stride);
    if (index_stride == 1) return scatter(p, stride, index, to - from);
    for (int64_t i = 0; i < to - from; ++i) {
      scatter(p + i * stride, 1, index + static_cast<uint64_t>(i * index_stride), 1);
    }
  }

 private:
  // Copies the values of n indices from `first` on to p, p + stride, ...
  void scatter(T* p, int64_t stride, uint64_t first, int64_t n) {
    while (n > 0) {
      if (first - base_ >= static_cast<uint64_t>(count_)) load(first);
      const int64_t skip = static_cast<int64_t>(first - base_), part = n < count_ - skip ? n : count_ - skip;
      for (int64_t i = 0; i < part; ++i) p[i * stride] = values_[skip + i];
      p += part * stride;
      first += static_cast<uint64_t>(part);
      n -= part;
    }
  }

  void load(uint64_t index) {
    base_ = index / step * step;
    const uint64_t most = last_ - base_ + 1;
    count_ = most < static_cast<uint64_t>(size) ? static_cast<int64_t>(most) : size;
    fill_run(values_, base_, count_, task_.keys, task_.distribution, false);
  }

  static constexpr uint64_t step = 64;  // windows start on whole groups
  alignas(64) T values_[size];
  const Task<T, D>& task_;
  uint64_t last_;  // no larger index is asked for
  uint64_t base_ = 0;
  int64_t count_ = 0;
};

// For rows that are closer to each other in memory than the elements of a row (a transposed matrix): tiles are made row
// by row and taken from there column by column. Memory is written to in its own order, some cache lines at a time.
template <class T, class D>
class TileWriter {
 public:
  explicit TileWriter(const Task<T, D>& task)
      : task_(task),
        window_(task),
        down_(task.region.strides[task.inner() - 1]),
        index_down_(task.region.index_strides[task.inner() - 1]) {}

  void write(const Rows& row, int64_t from, int64_t to) { window_.write(row, from, to); }

  // Whole rows, which differ in the last outer coordinate alone.
  void write_rows(const Rows& row, int64_t rows) {
    const int64_t width = task_.width();
    // Short rows without gaps between their indices are one run.
    if (index_down_ == width && width <= Tile<T>::width / 2) {
      constexpr int64_t room = Tile<T>::rows * Tile<T>::pitch;
      return write_boxes(row, rows, width, room / width, width, [&](const Box& box) {
        fill_run(tile_.values, box.first, box.rows * width, task_.keys, task_.distribution, false);
      });
    }
    const bool on_blocks = row.index % Tile<T>::per_block == 0 && index_down_ % Tile<T>::per_block == 0;
    const int64_t columns = on_blocks ? Tile<T>::width : Tile<T>::width - Tile<T>::per_block + 1;
    write_boxes(row, rows, columns, Tile<T>::rows, Tile<T>::pitch,
                [&](const Box& box) { fill_box(tile_, box, task_.keys, task_.distribution); });
  }

 private:
  // Boxes of that many columns and rows at most, whose rows fill(box) leaves `pitch` apart in the tile.
  template <class F>
  void write_boxes(const Rows& row, int64_t rows, int64_t most_columns, int64_t most_rows, int64_t pitch,
                   const F& fill) {
    const int64_t width = task_.width(), stride = task_.stride();
    for (int64_t c = 0; c < width; c += most_columns) {
      for (int64_t r = 0; r < rows; r += most_rows) {
        const Box box{row.index + static_cast<uint64_t>(r * index_down_ + c), index_down_,
                      smaller(most_columns, width - c), smaller(most_rows, rows - r)};
        fill(box);
        T* p = task_.data + row.memory + r * down_ + c * stride;
        for (int64_t k = 0; k < box.columns; ++k, p += stride) {
          for (int64_t i = 0; i < box.rows; ++i) p[i * down_] = tile_.values[i * pitch + k];
        }
      }
    }
  }

  const Task<T, D>& task_;
  WindowWriter<T, D> window_;
  int64_t down_, index_down_;  // from one row to the next
  Tile<T> tile_;
};

// Elements begin .. end - 1 of the region, row by row; with a TileWriter, as many whole rows at a time as there are.
template <class Writer, class T, class D>
void write_region(const Task<T, D>& task, int64_t begin, int64_t end) {
  Writer writer(task);
  const int64_t width = task.width();
  Rows row(task.region, begin / width);
  for (int64_t at = begin; at < end;) {
    const int64_t from = at % width;
    if constexpr (requires { writer.write_rows(row, 1); }) {
      const int64_t rows = from == 0 ? smaller((end - at) / width, row.neighbours()) : 0;
      if (rows > 1) {
        writer.write_rows(row, rows);
        row.advance(rows);
        at += rows * width;
        continue;
      }
    }
    const int64_t to = smaller(from + (end - at), width);
    writer.write(row, from, to);
    if (to == width) row.advance(1);
    at += to - from;
  }
}

template <class T, class D>
void fill_region(const Task<T, D>& task, int64_t begin, int64_t end) {
  const int inner = task.inner();
  const int64_t width = task.width(), stride = task.stride();
  if (task.index_stride() == 1) {
    if (stride == 1 && (inner == 0 || width >= WindowWriter<T, D>::size)) {
      return write_region<DirectWriter<T, D>>(task, begin, end);
    }
    if (inner > 0 && width >= 16 && task.region.strides[inner - 1] < stride) {
      return write_region<TileWriter<T, D>>(task, begin, end);
    }
  }
  write_region<WindowWriter<T, D>>(task, begin, end);
}

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
