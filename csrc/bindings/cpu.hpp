// The object behind Python's Cpu.
#pragma once

#include <chrono>

#include "bindings/handles.hpp"

namespace flashmoe::bindings {

struct CpuHandle {
    Cpu cpu;
    double busy_seconds = 0;

    CpuHandle(int threads, const Kernels& kernels) : cpu(threads, kernels) {}

    // Runs an operation without the GIL, one at a time. Throws Forked in a child forked since.
    template <class Operation>
    void run(const Operation& operation) {
        cpu.pool().check_process();
        const nb::gil_scoped_release released;
        const auto lock = cpu.lock();
        const auto begin = std::chrono::steady_clock::now();
        operation(cpu);
        busy_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
};

void bind_blocks(nb::module_& m, nb::class_<CpuHandle>& cpu);

}  // namespace flashmoe::bindings
