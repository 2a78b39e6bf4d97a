// What Python holds of the CPU backend: weights that keep the arrays they look into, and states.
#pragma once

#include <memory>

#include "backend/delta_state.hpp"
#include "backend/kv_cache.hpp"
#include "bindings/arrays.hpp"

namespace flashmoe::bindings {

struct Matrix {
    Weight weight;
    nb::object owners;  // keeps the bytes that `weight` points to
};

}  // namespace flashmoe::bindings
