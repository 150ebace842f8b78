// From a region to what is drawn at once: a long row where it stands, or a batch of short ones.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/batch.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

// What draws again does so in the nearest cache, and for many values together.
template <class D>
inline constexpr bool rejects = false;
template <class R>
inline constexpr bool rejects<TruncatedNormal<R>> = true;

// One fill, taken apart for these loops.
template <class T, class D>
struct Task {
  const Region& region;
  T* data;
  Rounding<T> rounding;
  const Keys& keys;
  const D& distribution;
  bool streaming;

  // The last dimension, along which a row goes.
  int inner() const { return region.dims - 1; }
  int64_t width() const { return region.sizes[inner()]; }
  int64_t stride() const { return region.strides[inner()]; }
  // From one row to the next one, where there are several.
  int64_t down() const { return inner() > 0 ? region.strides[inner() - 1] : 0; }
  int64_t index_down() const { return inner() > 0 ? region.index_strides[inner() - 1] : 0; }
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
    T* p = task_.data + row.memory + from;
    uint64_t index = row.index + static_cast<uint64_t>(from);
    if constexpr (std::is_same_v<T, Drawn<T>>) {
      fill_run(p, index, to - from, task_.keys, task_.distribution, task_.streaming);
    } else {
      alignas(64) Drawn<T> values[at_once];
      for (int64_t rest = to - from; rest > 0;) {
        const int64_t n = smaller(rest, at_once - static_cast<int64_t>(index % at_once));
        fill_run(values, index, n, task_.keys, task_.distribution, false);
        round_all(p, values, n, task_.rounding);
        p += n;
        index += static_cast<uint64_t>(n);
        rest -= n;
      }
    }
  }
  void finish() {}

 private:
  static constexpr int64_t at_once = 2048;  // in the nearest cache
  const Task<T, D>& task_;
};

// Copies n elements, past the caches if `streaming`. Less than a cache line takes two moves, which may overlap.
template <class T>
void copy_piece(T* to, const T* from, int64_t n, bool streaming) {
  const auto ends = [&](auto bytes) {
    constexpr int64_t part = decltype(bytes)::value / static_cast<int64_t>(sizeof(T));
    if (n < part) return false;
    memcpy(to, from, sizeof(T) * part);
    memcpy(to + n - part, from + n - part, sizeof(T) * part);
    return true;
  };
  if (n * static_cast<int64_t>(sizeof(T)) >= 64) return copy(to, from, n, streaming && on_cache_line(to));
  if (ends(std::integral_constant<int64_t, 32>()) || ends(std::integral_constant<int64_t, 16>())) return;
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

// For any rows: as many as there is room for are drawn together, and copied to where they belong.
template <class T, class D>
class BatchWriter {
 public:
  BatchWriter(const Task<T, D>& task, int64_t begin, int64_t end) : task_(task), finish_(task, begin, end) {}

  void write(const Rows& row, int64_t from, int64_t to) {
    write(task_.data + row.memory + from * task_.stride(), row.index + static_cast<uint64_t>(from),
          to - from);
  }
  void write_rows(const Rows& row, int64_t rows) {
    const int64_t width = task_.width(), down = task_.down(), index_down = task_.index_down();
    T* p = task_.data + row.memory;
    for (uint64_t index = row.index; rows > 0;) {
      const auto put = [&](int64_t at) {
        add(p, at, width);
        p += down;
      };
      int64_t done = batch_.add_rows(index, index_down, width, smaller(rows, most - count_), put);
      if (done == 0 && batch_.empty()) {  // a row that does not fit
        write(p, index, width);
        p += down;
        done = 1;
      } else if (done == 0) {
        finish();
      }
      index += static_cast<uint64_t>(done * index_down);
      rows -= done;
    }
  }

  // Writes what has been gathered.
  void finish() {
    if (batch_.empty()) return;
    if constexpr (!Finish<D>::any && !rejects<D> && std::is_same_v<T, Drawn<T>>) {
      // Whole blocks that touch in memory, as narrow shards have them, are drawn where they belong.
      if (count_ == 1 && pieces_[0].n == batch_.size() && task_.stride() == 1) {
        batch_.draw(pieces_[0].to, task_.keys, task_.distribution, task_.streaming);
        batch_.clear();
        count_ = 0;
        return;
      }
    }
    batch_.draw(task_.keys, task_.distribution);
    if constexpr (Finish<D>::any) {
      for (int64_t i = 0; i < count_; ++i) {
        finish_(batch_.values() + pieces_[i].at, batch_.index(pieces_[i].at), pieces_[i].n);
      }
    }
    const int64_t stride = task_.stride();
    const T* const rounded = rounded_.of(batch_, task_.rounding);
    for (int64_t i = 0; i < count_; ++i) {
      const Piece piece = pieces_[i];
      const T* const values = rounded + piece.at;
      if (stride == 1) {
        copy_piece(piece.to, values, piece.n, task_.streaming);
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

  void write(T* p, uint64_t index, int64_t rest) {
    while (rest > 0) {
      const int64_t n = count_ < most ? smaller(rest, batch_.room(index)) : 0;
      if (n <= 0) {
        finish();
        continue;
      }
      add(p, batch_.add(index, n), n);
      p += n * task_.stride();
      index += static_cast<uint64_t>(n);
      rest -= n;
    }
  }

  FASTINIT_INLINE void add(T* to, int64_t at, int64_t n) {
    if (!Finish<D>::any && count_ > 0) {
      Piece& last = pieces_[count_ - 1];
      if (last.to + last.n == to && last.at + last.n == at && task_.stride() == 1) {
        last.n += static_cast<int32_t>(n);
        return;
      }
    }
    pieces_[count_++] = {to, static_cast<int32_t>(at), static_cast<int32_t>(n)};
  }

  static constexpr int64_t most = 512;
  const Task<T, D>& task_;
  Finish<D> finish_;
  Batch<Drawn<T>> batch_;
  Rounded<T> rounded_;
  int64_t count_ = 0;
  Piece pieces_[most];
};

// For rows that are closer to each other in memory than the elements of a row (a transposed matrix): batches of rows are
// written column by column. Memory is written to in its own order, some cache lines at a time.
template <class T, class D>
class TileWriter {
 public:
  // Rows of the batch are then no multiple of a cache line apart: what is read down a column lies in many banks and sets.
  static constexpr int64_t columns = 60;

  TileWriter(const Task<T, D>& task, int64_t begin, int64_t end) : task_(task), finish_(task, begin, end) {}

  void write(const Rows& row, int64_t from, int64_t to) { write(row, from, to, 1); }
  // Whole rows, which differ in the last outer coordinate alone.
  void write_rows(const Rows& row, int64_t rows) { write(row, 0, task_.width(), rows); }
  void finish() {}

 private:
  void write(const Rows& row, int64_t from, int64_t to, int64_t rows) {
    for (int64_t c = from; c < to; c += columns) {
      write_box(task_.data + row.memory + c * task_.stride(), row.index + static_cast<uint64_t>(c),
                smaller(columns, to - c), rows);
    }
  }

  void write_box(T* to, uint64_t index, int64_t n, int64_t rows) {
    const int64_t down = task_.down(), index_down = task_.index_down();
    while (rows > 0) {
      int64_t count = 0, width = n;
      const auto put = [&](int64_t at) { at_[count++] = static_cast<int32_t>(at); };
      const int64_t many = smaller(most, Batch<Drawn<T>>::elements / n / per_line * per_line);
      if (batch_.add_rows(index, index_down, n, smaller(rows, many), put) == 0) {
        width = smaller(n, batch_.room(index));  // a row across two high halves: its rest is a box of its own
        put(batch_.add(index, width));
      }
      batch_.draw(task_.keys, task_.distribution);
      if constexpr (Finish<D>::any) {
        for (int64_t i = 0; i < count; ++i) finish_(batch_.values() + at_[i], batch_.index(at_[i]), width);
      }
      const int64_t pitch = count > 1 ? at_[1] - at_[0] : 0;
      bool even = true;
      for (int64_t i = 0; i < count; ++i) even &= at_[i] == at_[0] + i * pitch;
      if (even) {
        write_columns(to, width, count, [&](int64_t i) { return at_[0] + i * pitch; });
      } else {
        write_columns(to, width, count, [&](int64_t i) { return at_[i]; });
      }
      batch_.clear();
      if (width < n)
        write_box(to + width * task_.stride(), index + static_cast<uint64_t>(width), n - width, 1);
      index += static_cast<uint64_t>(count * index_down);
      to += count * down;
      rows -= count;
    }
  }

  template <class F>
  FASTINIT_INLINE void write_columns(T* to, int64_t width, int64_t rows, const F& at) {
    const int64_t down = task_.down(), stride = task_.stride();
    const T* values = rounded_.of(batch_, task_.rounding);
    for (int64_t k = 0; k < width; ++k, to += stride, ++values) {
      T* p = to;
      int64_t i = 0;
      for (; i + 4 <= rows; i += 4, p += 4 * down) {
        const T a = values[at(i)], b = values[at(i + 1)], c = values[at(i + 2)], d = values[at(i + 3)];
        p[0] = a;
        p[down] = b;
        p[2 * down] = c;
        p[3 * down] = d;
      }
      for (; i < rows; ++i, p += down) *p = values[at(i)];
    }
  }

  static constexpr int64_t most = 512, per_line = 64 / static_cast<int64_t>(sizeof(T));
  const Task<T, D>& task_;
  Finish<D> finish_;
  Batch<Drawn<T>> batch_;
  Rounded<T> rounded_;
  int32_t at_[most];  // of the rows in the batch
};

// Elements begin .. end - 1 of the region: row by row, or as many whole rows at a time as there are.
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
  const Region& region = task.region;
  const int inner = task.inner();
  if constexpr (!Finish<D>::any) {
    // What a row has besides whole groups costs a group at either end; what it rejects, whole vectors.
    constexpr int64_t group = group_size<ArithmeticFor<T>>, per_block = elements_per_block<ArithmeticFor<T>>;
    const bool on_blocks = region.first_index % per_block == 0 && task.index_down() % per_block == 0 &&
                           task.width() % group == 0 && !rejects<D>;
    if (task.stride() == 1 && (inner == 0 || task.width() >= (on_blocks ? 2 : 16) * group)) {
      return write_region<DirectWriter<T, D>>(task, begin, end);
    }
  }
  if (inner > 0 && task.down() < task.stride() && task.width() * region.sizes[inner - 1] >= 256) {
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
    fill_rows(Task<T, D>{region, task.data, task.rounding, task.keys, task.distribution, task.streaming},
              begin, end);
  });
}

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
