// Chooses the kernel table once, at import: the best instruction set that was built and that the machine has.
#include <cstring>

#include "core/loss.h"
#include "core/table.h"

namespace fusedstep {

#define FUSEDSTEP_DECLARE(isa)                                                 \
  namespace isa {                                                              \
  extern const Table table_of_float;                                           \
  extern const Table table_of_double;                                          \
  constexpr const Table* tables[] = {&table_of_float, &table_of_double};       \
  extern const LossTable losses_of_float;                                      \
  extern const LossTable losses_of_double;                                     \
  constexpr const LossTable* losses[] = {&losses_of_float, &losses_of_double}; \
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
  const Table* const* tables;      // by Dtype
  const LossTable* const* losses;  // likewise
  bool (*runs)();
};
// Best last.
const Candidate candidates[] = {
#ifdef FUSEDSTEP_HAVE_PORTABLE
    {portable::tables, portable::losses, [] { return true; }},
#endif
#ifdef FUSEDSTEP_HAVE_NEON
    {neon::tables, neon::losses, [] { return true; }},
#endif
#ifdef FUSEDSTEP_HAVE_WIDE
    {wide::tables, wide::losses, has_avx2},
#endif
#ifdef FUSEDSTEP_HAVE_AVX2
    {avx2::tables, avx2::losses, has_avx2},
#endif
#ifdef FUSEDSTEP_HAVE_AVX512
    {avx512::tables, avx512::losses, has_avx512},
#endif
};

const Candidate* chosen = nullptr;

}  // namespace

const Table& table(Dtype dtype) { return *chosen->tables[int(dtype)]; }
const LossTable& loss_table(Dtype dtype) { return *chosen->losses[int(dtype)]; }

std::vector<const char*> built_isas() {
  std::vector<const char*> names;
  for (const Candidate& candidate : candidates) names.push_back(candidate.tables[0]->isa);
  return names;
}

std::string choose_table(const char* forced) {
  bool built = false;
  for (const Candidate& candidate : candidates) {
    const bool wanted = !forced || std::strcmp(forced, candidate.tables[0]->isa) == 0;
    built = built || wanted;
    if (wanted && candidate.runs()) chosen = &candidate;
  }
  if (chosen) return "";
  std::string names;
  for (const char* name : built_isas()) names += std::string(names.empty() ? "" : ", ") + name;
  return std::string("FUSEDSTEP_ISA=") + forced +
         (built ? ": this machine lacks that instruction set"
                : ": no such instruction set was built; there are " + names);
}

}  // namespace fusedstep
