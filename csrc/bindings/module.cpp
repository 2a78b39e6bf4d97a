// The Python module `flashmoe._native`: one bind_* function per part of the core.
#include <nanobind/nanobind.h>

#include "bindings/bind.hpp"

NB_MODULE(_native, m) {
    m.doc() = "Kernels and I/O of flashmoe; see _native.pyi for the signatures.";
    flashmoe::bind_weights(m);
    flashmoe::bind_states(m);
    flashmoe::bind_cpu(m);
    flashmoe::bind_reader(m);
    flashmoe::bind_quantise(m);
}
