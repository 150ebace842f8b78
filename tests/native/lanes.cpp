// lanes: every operation on the lanes of an instruction set (csrc/cpu/lanes_*.h) against its portable meaning in
// core/lanes.h, bit by bit, on random and on awkward numbers. Compiled with the flags of one line of cpu/targets.def.
//
// Reads known answers of Philox from the standard input: 4 words of the counter, 2 of the key, 4 of the result, in
// hexadecimal. Prints what differs, and at the end how many operations and answers were compared.
#include "cpu/lanes.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "core/elementary.h"
#include "core/floating_point.h"
#include "core/stream.h"

using namespace fastinit;

namespace {

constexpr int most = 64;  // 32-bit lanes, of any instruction set

// Words for three operands, and for the high halves of 64-bit ones.
struct Numbers {
  uint32_t words[3][most], high[3][most];
};

std::mt19937 generator(7);

uint32_t pick(std::initializer_list<uint32_t> choices) {
  return choices.begin()[generator() % choices.size()];
}

// Any bits; few ones; or exponents and mantissas at which something ends: infinity, float16's and bfloat16's ties.
uint32_t word() {
  const uint32_t any = generator();
  switch (generator() % 4) {
    case 0:
      return any & generator() & generator();
    case 1:
      return pick({0, 1, 2, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFE, 0xFFFFFFFF});
    case 2: {
      const uint32_t exponent = pick({0, 1, 0x66, 0x70, 0x71, 0x7E, 0x7F, 0x80, 0x8E, 0x8F, 0xFE});
      const uint32_t low = pick({0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x7FF000});
      return (any & 0x80000000) | exponent << 23 | (any & 0x7E0000) | low;
    }
    default:
      return any;
  }
}

// The operands and the result of an operation, on the lanes L.
template <class L>
class Case {
 public:
  explicit Case(const Numbers& numbers) : numbers_(numbers) {}

  typename L::U32 words(int i) const { return L::U32::load(numbers_.words[i]); }
  typename L::U64 longs(int i) const {
    return join(L::U64::load(numbers_.words[i]), L::U64::load(numbers_.high[i]));
  }
  typename L::U64 blocks(int i) const { return L::blocks_at(numbers_.words[i]); }
  const uint32_t* memory(int i) const { return numbers_.words[i]; }
  // Never NaN.
  typename L::F32 reals(int i) const { return as_real(L::U32::load(Kept(numbers_.words[i]).words)); }
  // Lanes of the first words of blocks in turn with those of the second ones.
  typename L::F32 reals_of_blocks(int first, int second) const {
    const Kept a(numbers_.words[first]), b(numbers_.words[second]);
    return as_real(interleave(L::blocks_at(a.words), L::blocks_at(b.words)));
  }
  typename L::F64 doubles(int i) const {
    uint32_t low[most], high[most];
    for (int k = 0; k < most; ++k) {
      const uint32_t w = numbers_.high[i][k];
      const bool finite = (w & 0x7FF00000) != 0x7FF00000;
      low[k] = finite ? numbers_.words[i][k] : 0;
      high[k] = finite ? w : w & 0xFFF00000;
    }
    return as_real(join(L::U64::load(low), L::U64::load(high)));
  }

  void put(typename L::U32 x) { store(static_cast<uint32_t*>(room(4 * L::U32::lanes)), x); }
  void put(typename L::U64 x) { store(static_cast<double*>(room(8 * L::U64::lanes)), as_real(x)); }
  void put(typename L::F32 x) {
    float to[most];
    store(to, x);
    for (int i = 0; i < L::F32::lanes; ++i) put_real(to[i]);
  }
  void put(typename L::F64 x) {
    double to[most];
    store(to, x);
    for (int i = 0; i < L::F64::lanes; ++i) put_real(to[i]);
  }
  void put(typename L::M32 x) { *static_cast<uint64_t*>(room(8)) = lane_bits(x); }
  void put_chosen(typename L::M64 x) { put(select(x, typename L::U64(1u), typename L::U64(0u))); }
  // Only the low half counts.
  void put_low(typename L::U64 x) { put(x & typename L::U64(0xFFFFFFFFu)); }
  void* room(size_t bytes) {
    void* const there = result_ + size_;
    size_ += bytes;
    return there;
  }

  const char* result() const { return result_; }
  size_t size() const { return size_; }

 private:
  struct Kept {
    uint32_t words[most];
    explicit Kept(const uint32_t* from) {
      for (int i = 0; i < most; ++i)
        words[i] = (from[i] & 0x7FFFFFFF) > 0x7F800000 ? from[i] & 0xFF800000 : from[i];
    }
  };

  // All NaNs are one: which bits it has is the processor's own.
  template <class R>
  void put_real(R x) {
    *static_cast<R*>(room(sizeof(R))) = std::isnan(x) ? R(NAN) : x;
  }

  const Numbers& numbers_;
  size_t size_ = 0;
  alignas(64) char result_[8192] = {};
};

int operations = 0, answers = 0, wrong = 0;

template <class L, class F>
void check(const char* name, const F& f) {
  constexpr int times = 1000;
  ++operations;
  for (int time = 0; time < times; ++time) {
    Numbers numbers;
    for (auto* part : {&numbers.words, &numbers.high}) {
      for (auto& operand : *part) {
        for (uint32_t& w : operand) w = word();
      }
    }
    if (time % 2 == 0) std::memcpy(numbers.words[1], numbers.words[0], sizeof(numbers.words[0]) / 2);
    if (time % 4 == 0) std::memcpy(numbers.high[1], numbers.high[0], sizeof(numbers.high[0]) / 2);
    Case<L> vectors(numbers);
    Case<Portable<L::blocks>> portable(numbers);
    f(vectors);
    f(portable);
    if (vectors.size() != portable.size() ||
        std::memcmp(vectors.result(), portable.result(), vectors.size()) != 0) {
      std::printf("%s differs\n", name);
      ++wrong;
      return;
    }
  }
}

template <class C>
struct LanesOf;
template <class L>
struct LanesOf<Case<L>> {
  using type = L;
};

template <class T, class C>
void put_pairs(C& c) {
  // As the distributions do: the words of blocks, in the order of the blocks.
  if constexpr (sizeof(T) == 8) {
    const auto first = as_real(join(c.blocks(0), c.blocks(1))),
               second = as_real(join(c.blocks(2), c.blocks(0)));
    store_pairs<false>(static_cast<T*>(c.room(8 * 2 * first.lanes)), first, second);
  } else {
    const auto first = c.reals_of_blocks(0, 1), second = c.reals_of_blocks(2, 0);
    store_pairs<false>(static_cast<T*>(c.room(sizeof(T) * 2 * first.lanes)), first, second);
  }
}
template <class T, class C>
void put_zeros(C& c) {
  using L = typename LanesOf<C>::type;
  const uint64_t set = c.memory(1)[0] | static_cast<uint64_t>(c.memory(1)[1]) << 32;
  T* const to = static_cast<T*>(c.room(sizeof(T) * L::U32::lanes));
  std::memset(to, 0x5A, sizeof(T) * L::U32::lanes);
  store_zeros(to, L::mask_of([&](int lane) { return set >> lane; }));
}
template <class C, class M, class X>
void put_selected(C& c, M mask, X x) {
  uint32_t to[2 * most];
  const int count = store_selected(to, mask, x);
  std::memcpy(c.room(sizeof(to)), to, sizeof(uint32_t) * static_cast<size_t>(count));
  *static_cast<int*>(c.room(8)) = count;
}

// clang-format off
#define CHECK(...) check<L>(#__VA_ARGS__, [](auto& c) { \
    using K = typename LanesOf<std::remove_reference_t<decltype(c)>>::type; \
    static_assert(K::blocks == L::blocks); \
    __VA_ARGS__; })
// clang-format on

template <class L>
void check_words() {
  CHECK(c.put(c.words(0) + c.words(1)));
  CHECK(c.put(c.words(0) - c.words(1)));
  CHECK(c.put(c.words(0) * c.words(1)));
  CHECK(c.put(c.words(0) & c.words(1)));
  CHECK(c.put(c.words(0) | c.words(1)));
  CHECK(c.put(c.words(0) ^ c.words(1)));
  CHECK(c.put(min(c.words(0), c.words(1))));
  CHECK(c.put(multiply_high(c.words(0), c.words(1))));
  CHECK(c.put(swap_halves(c.words(0))));
  CHECK(c.put(shift_left<1>(c.words(0))); c.put(shift_left<16>(c.words(1)));
        c.put(shift_left<30>(c.words(2))));
  CHECK(c.put(shift_right<1>(c.words(0))); c.put(shift_right<8>(c.words(1)));
        c.put(shift_right<31>(c.words(2))));
  CHECK(c.put(shift_right(c.words(0), 1 + static_cast<int>(c.memory(1)[0] % 31))));
  CHECK(c.put(less(c.words(0), c.words(1))));
  CHECK(c.put(less_equal(c.words(0), c.words(1))));
  CHECK(c.put(equal(c.words(0), c.words(1))));
  CHECK(c.put(test_bit<0>(c.words(0))); c.put(test_bit<1>(c.words(0))); c.put(test_bit<31>(c.words(0))));
  CHECK(c.put(less(c.words(0), c.words(1)) & less(c.words(1), c.words(2))));
  CHECK(c.put(less(c.words(0), c.words(1)) | less(c.words(1), c.words(2))));
  CHECK(c.put(!less(c.words(0), c.words(1))));
  CHECK(c.put(select(less(c.words(0), c.words(1)), c.words(1), c.words(2))));
  CHECK(put_selected(c, less(c.words(0), c.words(1)), c.words(2)));
  CHECK(c.put(K::mask_of([&](int lane) { return c.memory(0)[0] * uint64_t{0x9E3779B97F4A7C15} >> lane; })));
}

template <class L>
void check_longs() {
  CHECK(c.put(c.longs(0)));
  CHECK(c.put(c.longs(0) + c.longs(1)));
  CHECK(c.put(c.longs(0) - c.longs(1)));
  CHECK(c.put(c.longs(0) & c.longs(1)));
  CHECK(c.put(c.longs(0) | c.longs(1)));
  CHECK(c.put(c.longs(0) ^ c.longs(1)));
  CHECK(c.put(xor3(c.longs(0), c.longs(1), c.longs(2))));
  CHECK(c.put(multiply_low(c.longs(0), c.longs(1))));
  CHECK(c.put(shift_left<1>(c.longs(0))); c.put(shift_left<32>(c.longs(1)));
        c.put(shift_left<62>(c.longs(2))));
  CHECK(c.put(shift_right<1>(c.longs(0))); c.put(shift_right<11>(c.longs(1)));
        c.put(shift_right<31>(c.longs(2))));
  CHECK(c.put(shift_right<32>(c.longs(0))); c.put(shift_right<33>(c.longs(1)));
        c.put(shift_right<52>(c.longs(2))));
  CHECK(c.put_chosen(test_bit<0>(c.longs(0))); c.put_chosen(test_bit<31>(c.longs(0))));
  CHECK(c.put_chosen(test_bit<32>(c.longs(0))); c.put_chosen(test_bit<63>(c.longs(0))));
  CHECK(c.put_chosen(test_bit<0>(c.longs(0)) & test_bit<1>(c.longs(1))));
  CHECK(c.put_chosen(test_bit<0>(c.longs(0)) | test_bit<1>(c.longs(1))));
  CHECK(c.put_chosen(!test_bit<0>(c.longs(0))));
  CHECK(c.put(select(test_bit<63>(c.longs(0)), c.longs(1), c.longs(2))));
  CHECK(put_selected(c, test_bit<0>(c.longs(0)), c.longs(1)));
  // Between the two kinds of lanes.
  CHECK(c.put(join(c.longs(0), c.longs(1))));
  CHECK(c.put(interleave(c.longs(0), c.longs(1))));
  CHECK(c.put_low(even(c.words(0))); c.put_low(odd(c.words(1))));
  CHECK(c.put_low(even(interleave(c.longs(0), c.longs(1))));
        c.put_low(odd(interleave(c.longs(0), c.longs(1)))));
}

template <class L>
void check_reals() {
  CHECK(c.put(c.reals(0)));
  CHECK(c.put(c.reals(0) + c.reals(1)));
  CHECK(c.put(c.reals(0) - c.reals(1)));
  CHECK(c.put(c.reals(0) * c.reals(1)));
  CHECK(c.put(c.reals(0) / c.reals(1)));
  CHECK(c.put(fma(c.reals(0), c.reals(1), c.reals(2))));
  CHECK(c.put(sqrt(c.reals(0))));
  CHECK(c.put(magnitude(c.reals(0))));
  CHECK(c.put(min(c.reals(0), c.reals(1))); c.put(min(c.reals(1), typename K::F32(0.0f))));
  CHECK(c.put(max(c.reals(0), c.reals(1))); c.put(max(c.reals(1), typename K::F32(-0.0f))));
  CHECK(c.put(less(c.reals(0), c.reals(1))));
  CHECK(c.put(less_equal(c.reals(0), c.reals(1))));
  CHECK(c.put(select(less(c.words(0), c.words(1)), c.reals(1), c.reals(2))));
  CHECK(c.put(as_bits(c.reals(0))));
  CHECK(c.put(signed_to_real(c.words(0))));
  CHECK(c.put(minus_two_log<K>(c.words(0))));
  CHECK(const auto t = turn<K>(c.words(0)); c.put(t.x); c.put(t.y); c.put(t.negative));

  CHECK(c.put(c.doubles(0)));
  CHECK(c.put(c.doubles(0) + c.doubles(1)));
  CHECK(c.put(c.doubles(0) - c.doubles(1)));
  CHECK(c.put(c.doubles(0) * c.doubles(1)));
  CHECK(c.put(c.doubles(0) / c.doubles(1)));
  CHECK(c.put(fma(c.doubles(0), c.doubles(1), c.doubles(2))));
  CHECK(c.put(sqrt(c.doubles(0))));
  CHECK(c.put(magnitude(c.doubles(0))));
  CHECK(c.put(min(c.doubles(0), c.doubles(1))); c.put(min(c.doubles(1), typename K::F64(0.0))));
  CHECK(c.put(max(c.doubles(0), c.doubles(1))); c.put(max(c.doubles(1), typename K::F64(-0.0))));
  CHECK(c.put_chosen(less(c.doubles(0), c.doubles(1))));
  CHECK(c.put_chosen(less_equal(c.doubles(0), c.doubles(1))));
  CHECK(c.put(select(test_bit<0>(c.longs(0)), c.doubles(1), c.doubles(2))));
  CHECK(c.put(as_bits(c.doubles(0))));
  CHECK(c.put(signed_to_real(c.longs(0))));
  CHECK(c.put(minus_two_log<K>(c.longs(0))));
  CHECK(const auto t = turn<K>(c.longs(0)); c.put(t.x); c.put(t.y); c.put(t.negative));
}

template <class L>
void check_memory() {
  CHECK(put_pairs<float>(c));
  CHECK(put_pairs<double>(c));
  CHECK(put_pairs<Half>(c));
  CHECK(put_pairs<BFloat16>(c));
  CHECK(put_zeros<float>(c));
  CHECK(put_zeros<double>(c));
  CHECK(put_zeros<Half>(c));
  CHECK(put_zeros<BFloat16>(c));
}

// Blocks may be in lanes of any order, as long as pairs are stored in the order of the blocks.
template <class L>
void check_blocks() {
  using U64 = typename L::U64;
  uint32_t numbers[most];
  for (uint32_t i = 0; i < most; ++i) numbers[i] = i;
  Case<L> c({});
  c.put(L::block_offsets());
  c.put(L::blocks_at(numbers));
  ++operations;
  if (std::memcmp(c.result(), c.result() + c.size() / 2, c.size() / 2) != 0) {
    std::printf("blocks_at and block_offsets differ\n");
    ++wrong;
  }
  float pairs[4 * L::blocks];
  const auto word = [](uint64_t i) {
    return signed_to_real(interleave(shift_left<2>(L::block_offsets()) + U64(i),
                                     shift_left<2>(L::block_offsets()) + U64(i + 2)));
  };
  store_pairs<false>(pairs, word(0), word(1));
  ++operations;
  for (int i = 0; i < 4 * L::blocks; ++i) {
    if (pairs[i] == static_cast<float>(i)) continue;
    std::printf("store_pairs puts word %d at %d\n", static_cast<int>(pairs[i]), i);
    ++wrong;
    break;
  }
}

template <class L>
void check_philox(const std::vector<uint32_t>& known) {
  using U64 = typename L::U64;
  for (size_t at = 0; at + 10 <= known.size(); at += 10) {
    const uint32_t* const k = &known[at];
    const auto words = philox4x32_10<L>(U64(k[0]), U64(k[1]), U64(k[2]), U64(k[3]),
                                        Key{k[4] | static_cast<uint64_t>(k[5]) << 32});
    ++answers;
    for (int i = 0; i < 4; ++i) {
      uint32_t lanes[2 * U64::lanes];
      store(lanes, interleave(words.w[i], words.w[i]));
      for (const uint32_t lane : lanes) {
        if (lane == k[6 + i]) continue;
        std::printf("Philox gives %08x in place of %08x\n", lane, k[6 + i]);
        ++wrong;
        break;
      }
    }
  }
}

template <class L>
void check_all(const std::vector<uint32_t>& known) {
  check_words<L>();
  check_longs<L>();
  check_reals<L>();
  check_memory<L>();
  check_blocks<L>();
  check_philox<L>(known);
}

}  // namespace

int main() {
  std::vector<uint32_t> known;
  for (uint32_t w; std::scanf("%x", &w) == 1;) known.push_back(w);
  const DefaultFloatingPoint guard;
  using namespace FASTINIT_TARGET;
  check_all<Lanes>(known);
  if (!std::is_same_v<LanesForFew, Lanes>) check_all<LanesForFew>(known);
  if (!std::is_same_v<LanesOf16, Lanes>) check_all<LanesOf16>(known);
  std::printf("%d operations, %d answers\n", operations, answers);
  return wrong == 0 ? 0 : 1;
}
