#!/bin/sh
# The comparison on a machine without network: builds both engines from what was carried there, once, and runs it.
#     benchmarks/vs_llama_cpp/offline.sh CARRIED DIR [options]      from the repository's root, as root
# CARRIED: the wheels of gguf and diskcache and the source of llama-cpp-python, as `pip download --no-deps` brings them
# (docs, models, tools and GPU backends of vendor/llama.cpp may be left out). DIR is for models and what was built.
# CMAKE_ARGS, if set, are those of llama.cpp instead of GGML_NATIVE=ON: with AMX its repacked weights end in a segmentation
# fault (llama.cpp issue 20824, seen on a Xeon), so name the instruction sets without it there.
# Needs there: a C++ compiler, CMake, Ninja, scikit-build-core, nanobind, and what flashmoe itself depends on.
set -eu
carried=$1 directory=$2
shift 2
mkdir -p "$directory"
site=$(realpath "$directory")/site
install() { python3 -m pip install -q --no-index --no-deps --no-build-isolation --target "$site" "$@"; }
if [ ! -e "$site/complete" ]; then
    install "$carried"/*.whl
    CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=ON} -DLLAVA_BUILD=OFF" install "$carried"/llama_cpp_python-*.tar.gz
    install .
    touch "$site/complete"
fi
PYTHONPATH=$site:. exec python3 -m benchmarks.vs_llama_cpp "$directory" --peer "$(command -v python3)" "$@"
