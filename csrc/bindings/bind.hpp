// What each part of the core adds to the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace flashmoe {

void bind_weights(nanobind::module_& m);
void bind_states(nanobind::module_& m);
void bind_cpu(nanobind::module_& m);
void bind_reader(nanobind::module_& m);
void bind_quantise(nanobind::module_& m);

}  // namespace flashmoe
