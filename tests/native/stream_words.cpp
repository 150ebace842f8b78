// stream_words ORDER KEY: the stream's words on the standard output, without end. ORDER: see stream_words.h.
#include "stream_words.h"

#include <cstdio>

int main(int count, char** arguments) {
  if (count != 3) {
    std::fputs("stream_words index|keys|low KEY\n", stderr);
    return 2;
  }
  fastinit::StreamWords stream(arguments[1], std::stoull(arguments[2], nullptr, 0));
  for (;;) {
    const auto& words = stream.next();
    if (std::fwrite(words.data(), sizeof(words[0]), words.size(), stdout) != words.size()) return 0;
  }
}
