// The threads of a team wait for each other within their parallel region, for which Cython has no word.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fln_teams {

// Threads of the region that the calling thread is in, which may be fewer than were asked for.
inline int team_size() noexcept {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

// Until all of them are here. What each has written before is seen by the others afterwards.
inline void wait_for_team() noexcept {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

}  // namespace fln_teams
