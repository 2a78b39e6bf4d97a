// Tiles of AMX-INT8 (x86). The operating system must have granted them to the process (kernels/dispatch.cpp).
//
// Assembly of its own: GCC 12's intrinsics do not tell the compiler which memory they read, so that it may put a store
// behind the tile load that needs it.
#pragma once

#include <cstdint>

namespace flashmoe::FLASHMOE_ISA {

// Tiles 0 .. 3 hold dots [16 rows of activations][16 rows of weights] as int32, of two tiles of activations (6, 7) with two
// of weights (4, 5). Configures the thread's tiles for its lifetime.
class AmxTiles {
public:
    AmxTiles() {
        struct alignas(64) {
            std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        static_assert(sizeof config == 64);
        asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
    }
    ~AmxTiles() { asm volatile("tilerelease" : : : "memory"); }
    AmxTiles(const AmxTiles&) = delete;
    AmxTiles& operator=(const AmxTiles&) = delete;

    // [16 fours of columns][16 rows of weights][4], codes unsigned.
    template <int W>
    void weights(const void* codes) {
        load<4 + W>(codes);
    }

    // 16 rows of 64 signed codes.
    template <int X>
    void activations(const void* codes) {
        load<6 + X>(codes);
    }

    // The dots of activations X with weights W.
    template <int X, int W>
    void multiply() {
        asm volatile("tilezero %%tmm%c0\n\ttdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(2 * W + X), "i"(6 + X), "i"(4 + W));
    }

    template <int X, int W>
    void store(std::int32_t* dots) {
        asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(2 * W + X), "r"(dots), "r"(64L) : "memory");
    }

private:
    template <int N>
    void load(const void* from) {
        asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(N), "r"(from), "r"(64L) : "memory");
    }
};

}  // namespace flashmoe::FLASHMOE_ISA
