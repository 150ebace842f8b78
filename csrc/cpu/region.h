// From a region to what is drawn at once: a long row where it stands, or a batch of short ones.
#pragma once

#include <cstdint>

#include "cpu/batch.h"

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
  DirectWriter(const Task<T, D>& task, int64_t, int64_t) : task_(task) {}

  // Columns from .. to - 1 of a row.
  void write(const Rows& row, int64_t from, int64_t to) {
    fill_run(task_.data + row.memory + from, row.index + static_cast<uint64_t>(from), to - from, task_.keys,
             task_.distribution, task_.streaming);
  }
  void finish() {}

 private:
  const Task<T, D>& task_;
};

// For any rows: as many as there is room for are drawn together, and copied to where they belong.
template <class T, class D>
class BatchWriter {
 public:
  BatchWriter(const Task<T, D>& task, int64_t begin, int64_t end) : task_(task), finish_(task, begin, end) {}

  void write(const Rows& row, int64_t from, int64_t to) {
    const int64_t stride = task_.stride();
    T* p = task_.data + row.memory + from * stride;
    uint64_t index = row.index + static_cast<uint64_t>(from);
    for (int64_t rest = to - from; rest > 0;) {
      const int64_t room = count_ < most ? batch_.room(index) : 0, n = smaller(rest, room);
      if (n <= 0) {
        finish();
        continue;
      }
      add(p, batch_.add(index, n), n);
      p += n * stride;
      index += static_cast<uint64_t>(n);
      rest -= n;
    }
  }

  // Writes what has been gathered.
  void finish() {
    if (batch_.empty()) return;
    batch_.draw(task_.keys, task_.distribution);
    if constexpr (Finish<D>::any) {
      for (int i = 0; i < count_; ++i) {
        finish_(batch_.values() + pieces_[i].at, batch_.index(pieces_[i].at), pieces_[i].n);
      }
    }
    const int64_t stride = task_.stride();
    for (int i = 0; i < count_; ++i) {
      const Piece piece = pieces_[i];
      const T* const values = batch_.values() + piece.at;
      if (stride == 1) {
        copy(piece.to, values, piece.n, task_.streaming && on_cache_line(piece.to));
      } else {
        for (int64_t k = 0; k < piece.n; ++k) piece.to[k * stride] = values[k];
      }
    }
    batch_.clear();
    count_ = 0;
  }

 private:
  struct Piece {
    T* to;
    int32_t at, n;  // of the batch's values
  };

  void add(T* to, int64_t at, int64_t n) {
    if (!Finish<D>::any && count_ > 0) {
      Piece& last = pieces_[count_ - 1];
      if (last.to + last.n == to && last.at + last.n == at && task_.stride() == 1) {
        last.n += static_cast<int32_t>(n);
        return;
      }
    }
    pieces_[count_++] = {to, static_cast<int32_t>(at), static_cast<int32_t>(n)};
  }

  static constexpr int most = 512;
  const Task<T, D>& task_;
  Finish<D> finish_;
  Batch<T> batch_;
  int count_ = 0;
  Piece pieces_[most];
};

// For rows that are closer to each other in memory than the elements of a row (a transposed matrix): batches of rows are
// written column by column. Memory is written to in its own order, some cache lines at a time.
template <class T, class D>
class TileWriter {
 public:
  TileWriter(const Task<T, D>& task, int64_t begin, int64_t end) : task_(task), finish_(task, begin, end) {}

  void write(const Rows& row, int64_t from, int64_t to) {
    for (int64_t c = from; c < to; c += columns) write_box(row, 1, c, smaller(columns, to - c));
  }
  // Whole rows, which differ in the last outer coordinate alone.
  void write_rows(const Rows& row, int64_t rows) {
    const int64_t width = task_.width();
    for (int64_t c = 0; c < width; c += columns) write_box(row, rows, c, smaller(columns, width - c));
  }
  void finish() {}

 private:
  static constexpr int64_t columns = 64, most = 512;

  void write_box(const Rows& row, int64_t rows, int64_t left, int64_t n) {
    const int outer = task_.inner() - 1;
    const int64_t down = outer < 0 ? 0 : task_.region.strides[outer], stride = task_.stride();
    const int64_t index_down = outer < 0 ? 0 : task_.region.index_strides[outer];
    const uint64_t first = row.index + static_cast<uint64_t>(left);
    T* const to = task_.data + row.memory + left * stride;
    for (int64_t done = 0; done < rows;) {
      const int64_t many = smaller(most, Batch<T>::elements / n);
      int64_t count = 0;
      for (; count < many && done + count < rows; ++count) {
        const uint64_t index = first + static_cast<uint64_t>((done + count) * index_down);
        if (batch_.room(index) < n) break;
        at_[count] = static_cast<int32_t>(batch_.add(index, n));
      }
      batch_.draw(task_.keys, task_.distribution);
      if constexpr (Finish<D>::any) {
        for (int64_t i = 0; i < count; ++i) finish_(batch_.values() + at_[i], batch_.index(at_[i]), n);
      }
      for (int64_t k = 0; k < n; ++k) {
        T* const p = to + done * down + k * stride;
        const T* const values = batch_.values() + k;
        for (int64_t i = 0; i < count; ++i) p[i * down] = values[at_[i]];
      }
      batch_.clear();
      done += count;
    }
  }

  const Task<T, D>& task_;
  Finish<D> finish_;
  Batch<T> batch_;
  int32_t at_[most];  // of the rows in the batch
};

// Elements begin .. end - 1 of the region, row by row; with a TileWriter, as many whole rows at a time as there are.
template <class Writer, class T, class D>
void write_region(const Task<T, D>& task, int64_t begin, int64_t end) {
  Writer writer(task, begin, end);
  const int64_t width = task.width();
  Rows row(task.region, begin / width);
  int64_t from = begin % width;
  for (int64_t rest = end - begin; rest > 0;) {
    if constexpr (requires { writer.write_rows(row, 1); }) {
      const int64_t rows = from == 0 ? smaller(rest / width, row.neighbours()) : 0;
      if (rows > 1) {
        writer.write_rows(row, rows);
        row.advance(rows);
        rest -= rows * width;
        continue;
      }
    }
    const int64_t to = smaller(from + rest, width);
    writer.write(row, from, to);
    rest -= to - from;
    from = 0;
    if (rest > 0) row.advance(1);
  }
  writer.finish();
}

// A region whose last dimension's indices are consecutive.
template <class T, class D>
void fill_rows(const Task<T, D>& task, int64_t begin, int64_t end) {
  constexpr int64_t long_row = 2048, large_tile = 1024;
  const Region& region = task.region;
  const int inner = task.inner();
  if constexpr (!Finish<D>::any) {
    if (task.stride() == 1 && (inner == 0 || task.width() >= long_row)) {
      return write_region<DirectWriter<T, D>>(task, begin, end);
    }
  }
  if (inner > 0 && region.strides[inner - 1] < task.stride() &&
      task.width() * region.sizes[inner - 1] >= large_tile) {
    return write_region<TileWriter<T, D>>(task, begin, end);
  }
  write_region<BatchWriter<T, D>>(task, begin, end);
}

// Calls fill(region) with a region whose last dimension's indices are consecutive, be it of one element.
template <class F>
void with_rows(const Region& region, const F& fill) {
  if (region.index_strides[region.dims - 1] == 1) return fill(region);
  Region rows = region;  // of tensors with at most so many dimensions one is left: those of size 1 are none
  rows.sizes[rows.dims] = rows.strides[rows.dims] = rows.index_strides[rows.dims] = 1;
  ++rows.dims;
  fill(rows);
}

template <class T, class D>
void fill_region(const Task<T, D>& task, int64_t begin, int64_t end) {
  with_rows(task.region, [&](const Region& region) {
    fill_rows(Task<T, D>{region, task.data, task.keys, task.distribution, task.streaming}, begin, end);
  });
}

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
