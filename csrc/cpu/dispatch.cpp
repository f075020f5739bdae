// Chooses the kernel table once, at import: the best instruction set that was built and that the machine has.
#include <cstring>

#include "core/table.h"

namespace fusedstep {

#define FUSEDSTEP_DECLARE(isa)     \
  namespace isa {                  \
  extern const Table kernel_table; \
  }
#ifdef FUSEDSTEP_HAVE_PORTABLE
FUSEDSTEP_DECLARE(portable)
#endif
#ifdef FUSEDSTEP_HAVE_NEON
FUSEDSTEP_DECLARE(neon)
#endif
#ifdef FUSEDSTEP_HAVE_WIDE
FUSEDSTEP_DECLARE(wide)
#endif
#ifdef FUSEDSTEP_HAVE_AVX2
FUSEDSTEP_DECLARE(avx2)
#endif
#ifdef FUSEDSTEP_HAVE_AVX512
FUSEDSTEP_DECLARE(avx512)
#endif

namespace {

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
#endif

struct Candidate {
  const Table* table;
  bool (*runs)();
};
// Best last.
const Candidate candidates[] = {
#ifdef FUSEDSTEP_HAVE_PORTABLE
    {&portable::kernel_table, [] { return true; }},
#endif
#ifdef FUSEDSTEP_HAVE_NEON
    {&neon::kernel_table, [] { return true; }},
#endif
#ifdef FUSEDSTEP_HAVE_WIDE
    {&wide::kernel_table, has_avx2},
#endif
#ifdef FUSEDSTEP_HAVE_AVX2
    {&avx2::kernel_table, has_avx2},
#endif
#ifdef FUSEDSTEP_HAVE_AVX512
    {&avx512::kernel_table, has_avx512},
#endif
};

const Table* chosen = nullptr;

}  // namespace

const Table& table() { return *chosen; }

std::vector<const char*> built_isas() {
  std::vector<const char*> names;
  for (const Candidate& candidate : candidates) names.push_back(candidate.table->isa);
  return names;
}

std::string choose_table(const char* forced) {
  bool built = false;
  for (const Candidate& candidate : candidates) {
    const bool wanted = !forced || std::strcmp(forced, candidate.table->isa) == 0;
    built = built || wanted;
    if (wanted && candidate.runs()) chosen = candidate.table;
  }
  if (chosen) return "";
  std::string names;
  for (const char* name : built_isas()) names += std::string(names.empty() ? "" : ", ") + name;
  return std::string("FUSEDSTEP_ISA=") + forced +
         (built ? ": this machine lacks that instruction set"
                : ": no such instruction set was built; there are " + names);
}

}  // namespace fusedstep
