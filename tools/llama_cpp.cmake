# Read by CMake at `project("llama.cpp")`. llama-cpp-python forces llama.cpp's library `common` on in CMake's cache;
# nothing here uses it. A plain variable hides the one in the cache.
set(LLAMA_BUILD_COMMON OFF)

# AMX: ggml sets a thread's tiles up once and takes for granted that they stay; on virtual machines they may not,
# and the next tile instruction kills the process (SIGILL). Drafts of one token a step gain nothing from it.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag("-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" PIPESD_KNOWS_AMX)
if(PIPESD_KNOWS_AMX)
  add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()
