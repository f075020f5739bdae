# The module fusedstep._cuda, and the only place that knows nvcc. FUSEDSTEP_CUDA=AUTO builds it where an nvcc works that
# is new enough: the one that CUDACXX or CMAKE_CUDA_COMPILER names, one of the system, or that of the toolkit's packages
# on PyPI in the Python environment that builds. It links CUDA's runtime statically, so that it needs a driver alone.

set(FUSEDSTEP_CUDA AUTO CACHE STRING "Build the module for arrays in CUDA memory: AUTO (where nvcc is found), ON, OFF")
set_property(CACHE FUSEDSTEP_CUDA PROPERTY STRINGS AUTO ON OFF)
set(FUSEDSTEP_CUDA_ARCHITECTURES "75-real;80-real;86-real;89-real;90-real;100-real;120" CACHE STRING
    "Targets, as CMAKE_CUDA_ARCHITECTURES has them")
set(FUSEDSTEP_HAVE_CUDA OFF)

set(pypi_toolkit nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl nvidia-cuda-runtime)
list(JOIN pypi_toolkit " " pypi_toolkit)

# Says why the module is not built. That is an error where it was asked for.
function(fusedstep_without_cuda why)
  if(FUSEDSTEP_CUDA STREQUAL "AUTO")
    message(STATUS "Without CUDA: ${why}")
  else()
    message(FATAL_ERROR "FUSEDSTEP_CUDA=${FUSEDSTEP_CUDA}: ${why}. It takes nvcc 12.8 or newer: install NVIDIA's CUDA "
                        "toolkit and let CUDACXX name its nvcc, or build with `pip install --no-build-isolation` in an "
                        "environment that has the packages ${pypi_toolkit}.")
  endif()
endfunction()

# Sets `nvcc` and, where it is not to be used, `why`.
function(fusedstep_find_nvcc)
  set(why "" PARENT_SCOPE)
  foreach(named ${CMAKE_CUDA_COMPILER} $ENV{CUDACXX})
    set(FUSEDSTEP_NVCC ${named} CACHE FILEPATH "nvcc")
  endforeach()
  execute_process(COMMAND ${Python_EXECUTABLE} -c "import importlib.util, pathlib
spec = importlib.util.find_spec('nvidia')
folders = [pathlib.Path(p) for p in spec.submodule_search_locations] if spec else []
print(*(str(nvcc.parent) for folder in folders for nvcc in sorted(folder.glob('cu*/bin/nvcc'))), sep=';')"
                  OUTPUT_VARIABLE packaged OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  find_program(FUSEDSTEP_NVCC nvcc PATHS $ENV{CUDA_PATH}/bin /usr/local/cuda/bin ${packaged})
  if(NOT FUSEDSTEP_NVCC)
    set(why "no nvcc was found" PARENT_SCOPE)
    return()
  endif()
  set(nvcc ${FUSEDSTEP_NVCC} PARENT_SCOPE)
  execute_process(COMMAND ${FUSEDSTEP_NVCC} --version OUTPUT_VARIABLE version ERROR_QUIET)
  if(NOT version MATCHES "release ([0-9]+\\.[0-9]+)")
    set(why "${FUSEDSTEP_NVCC} does not tell its version" PARENT_SCOPE)
  elseif(CMAKE_MATCH_1 VERSION_LESS 12.8)
    set(why "${FUSEDSTEP_NVCC} is of version ${CMAKE_MATCH_1}, older than 12.8" PARENT_SCOPE)
  endif()
endfunction()

if(FUSEDSTEP_CUDA STREQUAL "AUTO" AND FUSEDSTEP_SANITIZE)
  fusedstep_without_cuda("FUSEDSTEP_SANITIZE is for the CPU's code")
  return()
elseif(NOT FUSEDSTEP_CUDA)
  return()
endif()

fusedstep_find_nvcc()
if(why)
  fusedstep_without_cuda("${why}")
  return()
endif()

# Also a new nvcc may fail: with a C++ compiler that it does not know, say.
set(ENV{CUDACXX} ${nvcc})
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT DEFINED ENV{CUDAHOSTCXX})
  set(ENV{CUDAHOSTCXX} ${CMAKE_CXX_COMPILER})
endif()
# The packages' nvcc asks for libraries in lib64, and they are in lib.
get_filename_component(toolkit ${nvcc}/../.. ABSOLUTE)
if(NOT EXISTS ${toolkit}/lib64 AND EXISTS ${toolkit}/lib/libcudart_static.a)
  set(ENV{CUDAFLAGS} "$ENV{CUDAFLAGS} -L${toolkit}/lib")
endif()
set(CMAKE_CUDA_ARCHITECTURES ${FUSEDSTEP_CUDA_ARCHITECTURES})
if(FUSEDSTEP_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    fusedstep_without_cuda("${nvcc} fails with ${CMAKE_CXX_COMPILER}")
    return()
  endif()
endif()
enable_language(CUDA)

# What headers and Python do not come into is the same for every Python, and compiled once where there is a cache.
file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu)
add_library(cuda_kernels OBJECT ${cuda_sources})
set_target_properties(cuda_kernels PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF
                                              CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
target_include_directories(cuda_kernels PRIVATE csrc)
target_compile_definitions(cuda_kernels PRIVATE ISA=cuda)
# The promise of equal bits: no contraction. Registers that do not suffice are an error.
target_compile_options(cuda_kernels PRIVATE --fmad=false --expt-relaxed-constexpr "SHELL:-Xptxas -warn-spills"
                                            "SHELL:-Werror all-warnings" --compress-mode=size
                                            -Xcompiler=-Wall,-Wextra,-ffp-contract=off)

file(GLOB cuda_bindings CONFIGURE_DEPENDS csrc/python/cuda_*.cpp)
list(APPEND cuda_bindings csrc/python/device_array.cpp)
set_source_files_properties(${cuda_bindings} PROPERTIES UNITY_GROUP cuda)
pybind11_add_module(_cuda MODULE NO_EXTRAS csrc/python/arguments.cpp csrc/python/plan.cpp ${cuda_bindings}
                    $<TARGET_OBJECTS:cuda_kernels>)
set_target_properties(_cuda PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
set_target_properties(_cuda PROPERTIES LINKER_LANGUAGE CXX CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(_cuda PRIVATE fusedstep_options)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  target_link_options(_cuda PRIVATE -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL -Wl,--gc-sections)
endif()
install(TARGETS _cuda LIBRARY DESTINATION fusedstep)

list(JOIN CMAKE_CUDA_ARCHITECTURES " " targets)
message(STATUS "With CUDA: ${nvcc} ${CMAKE_CUDA_COMPILER_VERSION}, for ${targets}")
set(FUSEDSTEP_HAVE_CUDA ON)
