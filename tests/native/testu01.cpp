// testu01 SmallCrush|Crush ORDER KEY: a battery of TestU01 on the stream's words, and its p-values as lines "p-value NUMBER NAME VALUE".
//
// P. L'Ecuyer, R. Simard: "TestU01: a C library for empirical testing of random number generators", ACM Trans. Math.
// Softw. 33 (2007). The names of headers and libraries are those of Debian's package libtestu01-0-dev.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "stream_words.h"

extern "C" {
#include <testu01/bbattery.h>
#include <testu01/swrite.h>
#include <testu01/unif01.h>
}

namespace {

std::unique_ptr<fastinit::StreamWords> stream;

unsigned int next_word() {
  static const std::vector<uint32_t>* words = &stream->next();
  static size_t used = 0;
  if (used == words->size()) {
    words = &stream->next();
    used = 0;
  }
  return (*words)[used++];
}

}  // namespace

int main(int count, char** arguments) {
  const std::string battery = count == 4 ? arguments[1] : "";
  if (battery != "SmallCrush" && battery != "Crush") {
    std::fputs("testu01 SmallCrush|Crush index|keys|low KEY\n", stderr);
    return 2;
  }
  stream = std::make_unique<fastinit::StreamWords>(arguments[2], std::stoull(arguments[3], nullptr, 0));
  swrite_Basic = 0;  // only the summary
  unif01_Gen* generator = unif01_CreateExternGenBits(arguments[2], next_word);
  if (battery == "Crush") {
    bbattery_Crush(generator);
  } else {
    bbattery_SmallCrush(generator);
  }
  for (int i = 0; i < bbattery_NTests; ++i) {
    // A negative number stands for a test that was not done.
    if (bbattery_pVal[i] >= 0)
      std::printf("p-value %d %s %.17g\n", i, bbattery_TestNames[i], bbattery_pVal[i]);
  }
  unif01_DeleteExternGenBits(generator);
}
