#!/bin/sh
# The comparison on a machine without network: installs both engines from what was carried there, once, and runs it.
#     benchmarks/vs_llama_cpp/offline.sh CARRIED DIR [options]      from the repository's root, as root
# CARRIED: wheels of gguf, diskcache and llama-cpp-python, the last built for that machine's instruction sets, but
# without AMX: there its repacked weights can end in a segmentation fault (llama.cpp issue 20824). Build it with
#     CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON ..." pip wheel --no-deps
# and link libstdc++ statically if the machine's is another. DIR is for models and what was installed.
# Needs there: a C++ compiler, CMake, Ninja, scikit-build-core, nanobind, and what flashmoe itself depends on.
set -eu
carried=$1 directory=$2
shift 2
mkdir -p "$directory"
site=$(realpath "$directory")/site
install() { python3 -m pip install -q --no-index --no-deps --no-build-isolation --target "$site" "$@"; }
if [ ! -e "$site/complete" ]; then
    install "$carried"/*.whl
    install .
    touch "$site/complete"
fi
PYTHONPATH=$site:. exec python3 -m benchmarks.vs_llama_cpp "$directory" --peer "$(command -v python3)" "$@"
