// Switches callgrind's counting on and off from within the program that it runs. Without valgrind these do nothing.
#include <valgrind/callgrind.h>

void counting_starts(void) {
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
}

void counting_ends(const char* name) {
  CALLGRIND_DUMP_STATS_AT(name);
  CALLGRIND_STOP_INSTRUMENTATION;
}
