# Read by CMake at `project("llama.cpp")`. llama-cpp-python forces llama.cpp's library `common` on in CMake's cache;
# nothing here uses it. A plain variable hides the one in the cache.
set(LLAMA_BUILD_COMMON OFF)
