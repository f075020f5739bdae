# The instruction sets and their compiler flags: the only place that names them. Each compiles csrc/cpu/kernels.cpp once
# for each scalar type, into a namespace of its own, and defines FUSEDSTEP_HAVE_<ISA> for the dispatcher.

set(FUSEDSTEP_KERNEL_OBJECTS "")
set(FUSEDSTEP_ISA_DEFINITIONS "")

string(REPLACE "," ";" wanted_isas "${FUSEDSTEP_ISAS}")

function(fusedstep_add_isa name vector_bytes)
  if(wanted_isas AND NOT name IN_LIST wanted_isas)
    return()
  endif()
  foreach(scalar float double)
    set(kernels kernels_${name}_${scalar})
    add_library(${kernels} OBJECT csrc/cpu/kernels.cpp csrc/cpu/loss_kernels.cpp)
    target_link_libraries(${kernels} PRIVATE fusedstep_options)
    target_compile_definitions(${kernels} PRIVATE ISA=${name} SCALAR=${scalar} FUSEDSTEP_VECTOR_BYTES=${vector_bytes})
    # -Wno-psabi: a vector that crosses a function boundary stays within its instruction set. Nothing unwinds through
    # kernels, and the tables for it would be a thirtieth of the wheel.
    target_compile_options(${kernels} PRIVATE -O3 -Wno-psabi -fno-exceptions -fno-asynchronous-unwind-tables ${ARGN})
    list(APPEND FUSEDSTEP_KERNEL_OBJECTS $<TARGET_OBJECTS:${kernels}>)
  endforeach()
  set(FUSEDSTEP_KERNEL_OBJECTS ${FUSEDSTEP_KERNEL_OBJECTS} PARENT_SCOPE)
  string(TOUPPER ${name} upper)
  set(FUSEDSTEP_ISA_DEFINITIONS ${FUSEDSTEP_ISA_DEFINITIONS} FUSEDSTEP_HAVE_${upper} PARENT_SCOPE)
endfunction()

if(CMAKE_OSX_ARCHITECTURES)
  set(target_arch ${CMAKE_OSX_ARCHITECTURES})
else()
  set(target_arch ${CMAKE_SYSTEM_PROCESSOR})
endif()

set(avx2_flags -mavx2 -mfma -mf16c)
if(target_arch MATCHES "^(x86_64|AMD64)$")
  # -O2: every processor of the last ten years takes another set, and at -O3 this one is the largest.
  fusedstep_add_isa(portable 16 -O2)
  fusedstep_add_isa(avx2 32 ${avx2_flags})
  # -Wno-…uninitialized: GCC 12 warns of its own intrinsics' deliberately undefined operands.
  fusedstep_add_isa(avx512 64 ${avx2_flags} -mavx512f -mavx512vl -mavx512dq -mavx512bw -mprefer-vector-width=512
                    -Wno-uninitialized -Wno-maybe-uninitialized)
  if("wide" IN_LIST wanted_isas)
    fusedstep_add_isa(wide 64 ${avx2_flags})
  endif()
elseif(target_arch MATCHES "^(aarch64|arm64)$")
  fusedstep_add_isa(neon 16)
else()
  fusedstep_add_isa(portable 16)
endif()
