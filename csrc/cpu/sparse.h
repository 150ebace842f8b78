// Normal values with an exact number of zeros in each column.
#pragma once

#include <type_traits>

#include "cpu/region.h"
#include "cpu/zeros.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

// Numbers of a region in rows of the matrix, next to each other or not: from the first to the last one of a row.
inline int64_t span_of(const Region& region, int dim) {
  int64_t span = 1;
  for (int d = dim; d < region.dims; ++d) span += (region.sizes[d] - 1) * region.index_strides[d];
  return span;
}

// Puts the zeros into rows that are drawn.
template <class R>
struct Finish<Sparse<R>> {
  static constexpr bool any = true;

  template <class T>
  Finish(const Task<T, Sparse<R>>& task, int64_t begin, int64_t end)
      : columns_(task.distribution.columns), strip_(task.distribution, task.keys) {
    // Known rows of few columns; else the strips are those that are asked for.
    const Region& region = task.region;
    const int64_t span = region.dims > 1 ? span_of(region, 1) : 0;
    const uint64_t left = region.first_index % columns_;
    if (span == 0 || span > ZeroStrip<R>::width || left + static_cast<uint64_t>(span) > columns_ ||
        static_cast<uint64_t>(region.index_strides[0]) != columns_) {
      return;
    }
    const int64_t in_row = region.elements() / region.sizes[0];
    const int64_t first = begin / in_row, rows = (end - 1) / in_row - first + 1;
    strip_.cover(left, span, region.first_index / columns_ + static_cast<uint64_t>(first), rows);
  }

  template <class T>
  void operator()(T* values, uint64_t index, int64_t n) {
    if (index == index_ + columns_) {
      ++row_;
    } else {
      row_ = index / columns_;
      column_ = index % columns_;
    }
    index_ = index;
    for (uint64_t row = row_, column = column_; n > 0; ++row, column = 0) {
      for (; n > 0 && column < columns_;) {
        if (!strip_.covers(row, column)) {
          strip_.cover(column,
                       static_cast<int64_t>(smaller(uint64_t{ZeroStrip<R>::width}, columns_ - column)), row,
                       1);
        }
        const int64_t part = smaller(n, strip_.columns_from(column));
        strip_.clear(values, row, column, part);
        values += part;
        column += static_cast<uint64_t>(part);
        n -= part;
      }
    }
  }

 private:
  uint64_t columns_, index_ = 0, row_ = 0, column_ = 0;
  ZeroStrip<R> strip_;
};

// Rows of whole groups, where they belong at once: a group's zeros are put in before it is stored. Says whether it could.
template <class T>
bool fill_groups([[maybe_unused]] const Task<T, Sparse<float>>& task, [[maybe_unused]] int64_t begin,
                 [[maybe_unused]] int64_t end) {
  using Strip = ZeroStrip<float>;
  if constexpr (Lanes::U32::lanes % LanesOf16::U32::lanes != 0 || !std::is_same_v<T, Drawn<T>>) {
    return false;
  } else {
    constexpr int group = group_size<float>, per_block = elements_per_block<float>;
    const Region& region = task.region;
    const Sparse<float>& d = task.distribution;
    const int64_t width = task.width(), rows = (end - begin) / width, first_row = begin / width;
    if (region.dims != 2 || task.stride() != 1 || width % group != 0 || begin % width != 0 ||
        end % width != 0 || region.first_index % per_block != 0 || d.columns % per_block != 0 ||
        !Strip::finds_all(d, width, rows)) {
      return false;
    }
    T* const out = task.data + first_row * task.down();
    const int64_t row_bytes = task.down() * static_cast<int64_t>(sizeof(T));
    if (task.streaming && (!on_cache_line(out) || row_bytes % 64 != 0)) return false;
    const uint64_t step = d.columns / per_block;
    const uint64_t first = region.first_index / per_block + static_cast<uint64_t>(first_row) * step;
    const uint64_t last =
        first + static_cast<uint64_t>(rows - 1) * step + static_cast<uint64_t>(width / per_block);
    if (first >> 32 != last >> 32) return false;
    Strip strip(d, task.keys);
    strip.cover(region.first_index % d.columns, width,
                region.first_index / d.columns + static_cast<uint64_t>(first_row), rows, Strip::Order::lanes);

    const auto fill = [&](auto streaming) {
      using U64 = Lanes::U64;
      const U64 high(first >> 32);
      const Lanes::F32 zero(0.0f);
      for (int64_t row = 0; row < rows; ++row) {
        const uint64_t low = (first & low_half) + static_cast<uint64_t>(row) * step;
        for (int64_t c = 0; c < width; c += group) {
          const U64 block = U64(low + static_cast<uint64_t>(c / per_block)) + Lanes::block_offsets();
          const auto words = words_of<Lanes>(block, high, 0, Purpose::values, task.keys);
          const auto x = d.normal.template values<Lanes>(bits_of<Lanes, float>(words));
          const auto zeros = strip.zeros_of_group(row, c);
          store_pairs<decltype(streaming)::value>(out + row * task.down() + c,
                                                  select(zeros.first, zero, x.first),
                                                  select(zeros.second, zero, x.second));
        }
      }
    };
    task.streaming ? fill(std::true_type()) : fill(std::false_type());
    return true;
  }
}
template <class T>
bool fill_groups(const Task<T, Sparse<double>>&, int64_t, int64_t) {
  return false;
}

// Elements begin .. end - 1 of the rows of a box, strip by strip: a strip's columns for all rows, in windows of them.
template <class T, class R>
void fill_strips(const Task<T, Sparse<R>>& task, int64_t begin, int64_t end) {
  const Region& region = task.region;
  const uint64_t columns = task.distribution.columns, left = region.first_index % columns;
  const int64_t rest = span_of(region, 2);  // of a column: 2 where real and imaginary parts are apart
  if (static_cast<uint64_t>(region.index_strides[0]) != columns || rest > ZeroStrip<R>::width ||
      left + static_cast<uint64_t>(span_of(region, 1)) > columns) {
    return fill_rows(task, begin, end);  // no box of the matrix: right, but not fast
  }
  // Wide enough for whole cache lines; where they go down the columns, as wide as what is written together.
  int64_t width = task.stride() == 1 ? ZeroStrip<R>::width : TileWriter<T, Sparse<R>>::columns;
  while (width > 64 && width * region.sizes[0] > ZeroStrip<R>::most_bits) width /= 2;
  const int64_t window = ZeroStrip<R>::most_bits / larger(width, int64_t{64});
  const int64_t step = larger(width - rest, int64_t{0}) / region.index_strides[1] + 1;
  Region strip = region;
  T* data = task.data;
  for (int64_t c = 0; c < region.sizes[1] && end > 0; c += step) {
    strip.sizes[1] = smaller(step, region.sizes[1] - c);
    const int64_t numbers = strip.elements(), in_row = numbers / strip.sizes[0], last = smaller(end, numbers);
    for (int64_t at = larger(begin, int64_t{0}); at < last;) {
      const int64_t next = smaller(last, (at / in_row + window) * in_row);
      const Task<T, Sparse<R>> part{strip, data, task.rounding, task.keys, task.distribution, task.streaming};
      if (!fill_groups(part, at, next)) fill_rows(part, at, next);
      at = next;
    }
    strip.first_index += static_cast<uint64_t>(step * region.index_strides[1]);
    data += step * region.strides[1];
    begin -= numbers;
    end -= numbers;
  }
}

// A run as the end of a row, whole rows, and the beginning of one. The elements are counted strip by strip: they are
// shared among the threads by columns rather than by rows.
template <class T, class R>
void fill_region(const Task<T, Sparse<R>>& task, int64_t begin, int64_t end) {
  const int64_t columns = static_cast<int64_t>(task.distribution.columns);
  with_rows(task.region, [&](const Region& region) {
    if (region.dims > 1) {
      return fill_strips(
          Task<T, Sparse<R>>{region, task.data, task.rounding, task.keys, task.distribution, task.streaming},
          begin, end);
    }
    Region box{2, {}, {}, {}, region.first_index};
    T* data = task.data;
    for (int64_t left = region.sizes[0]; left > 0 && end > 0;) {
      const int64_t from = static_cast<int64_t>(box.first_index % task.distribution.columns);
      const bool whole = from == 0 && left >= columns;
      box.sizes[0] = whole ? left / columns : 1;
      box.sizes[1] = whole ? columns : smaller(left, columns - from);
      box.strides[0] = columns * region.strides[0];
      box.strides[1] = region.strides[0];
      box.index_strides[0] = columns;
      box.index_strides[1] = 1;
      const int64_t numbers = box.elements(), first = larger(begin, int64_t{0}), last = smaller(end, numbers);
      if (first < last) {
        fill_strips(
            Task<T, Sparse<R>>{box, data, task.rounding, task.keys, task.distribution, task.streaming}, first,
            last);
      }
      data += numbers * region.strides[0];
      box.first_index += static_cast<uint64_t>(numbers);
      left -= numbers;
      begin -= numbers;
      end -= numbers;
    }
  });
}

template <class T, class R>
void fill_segment(T* out, const Scattered<R>& run, const Sparse<R>& d, bool streaming) {
  fill_segment(out, run, d.normal, streaming);
}

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
