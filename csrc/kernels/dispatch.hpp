// The choice among the instruction sets that this build has and this processor can run.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace flashmoe {

// Best first; "portable" is always the last.
std::vector<const Kernels*> available_kernels();

// By name, or the best for "". Throws std::invalid_argument that lists the names.
const Kernels& find_kernels(const std::string& name);

}  // namespace flashmoe
