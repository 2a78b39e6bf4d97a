// Sixteen float lanes and the byte dot product in plain C++: the meaning that the other headers here must match bit
// for bit. Kernels are written once against these names and compiled for each instruction set.
//
// F: 16 floats, I: 16 int32, B: 64 bytes. `_n` forms touch only the first n elements and read the rest as zero.
// max and min return their second argument when either is NaN, as x86 does. fma rounds once. Sums fold lanes 8 apart,
// then 4, 2 and 1. Nothing from the standard library may be called here: an inline function compiled for one
// instruction set could be linked into code for another.
#pragma once

#include <cstdint>

#define FLASHMOE_ISA portable

namespace flashmoe::portable {

constexpr int kVectors = 8;  // F that the registers hold

struct F { float v[16]; };
struct I { std::int32_t v[16]; };
struct B { std::uint8_t v[64]; };

template <class To, class From>
inline To bit_copy(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
template <class Op>
inline F lanes(const Op& op) {
    F r;
    for (int l = 0; l < 16; ++l) r.v[l] = op(l);
    return r;
}
template <class Op>
inline I lanes_i(const Op& op) {
    I r;
    for (int l = 0; l < 16; ++l) r.v[l] = op(l);
    return r;
}
inline float bf16_to_float(std::uint16_t h) { return bit_copy<float>(static_cast<std::uint32_t>(h) << 16); }
inline float f16_to_float(std::uint16_t h) {
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
    const std::uint32_t exponent = h >> 10 & 31u, fraction = h & 1023u;
    if (exponent == 31) return bit_copy<float>(sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0u));
    if (exponent == 0) {
        const float value = static_cast<float>(fraction) * 0x1p-24f;
        return bit_copy<float>(sign | bit_copy<std::uint32_t>(value));
    }
    return bit_copy<float>(sign | (exponent + 112) << 23 | fraction << 13);
}
inline std::uint16_t float_to_f16(float x) {
    const std::uint32_t u = bit_copy<std::uint32_t>(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 1023u));
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {  // below the smallest normal half: let float addition round to its last place
        const float shifted = bit_copy<float>(magnitude) + 0.5f;
        return static_cast<std::uint16_t>(sign | (bit_copy<std::uint32_t>(shifted) - 0x3f000000u));
    }
    const std::uint32_t odd = magnitude >> 13 & 1u;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

inline F zero() { return lanes([](int) { return 0.0f; }); }
inline F set1(float x) { return lanes([=](int) { return x; }); }
inline F load(const float* p) { return lanes([=](int l) { return p[l]; }); }
inline F load_n(const float* p, int n) { return lanes([=](int l) { return l < n ? p[l] : 0.0f; }); }
inline F load_bf16(const std::uint16_t* p) { return lanes([=](int l) { return bf16_to_float(p[l]); }); }
inline F load_bf16_n(const std::uint16_t* p, int n) {
    return lanes([=](int l) { return l < n ? bf16_to_float(p[l]) : 0.0f; });
}
inline F load_f16(const std::uint16_t* p) { return lanes([=](int l) { return f16_to_float(p[l]); }); }
inline F load_i8(const std::int8_t* p) { return lanes([=](int l) { return static_cast<float>(p[l]); }); }
inline void store_n(float* p, const F& x, int n) {
    for (int l = 0; l < n; ++l) p[l] = x.v[l];
}
inline void store(float* p, const F& x) { store_n(p, x, 16); }
inline void store_f16(std::uint16_t* p, const F& x) {
    for (int l = 0; l < 16; ++l) p[l] = float_to_f16(x.v[l]);
}

inline F add(const F& a, const F& b) { return lanes([&](int l) { return a.v[l] + b.v[l]; }); }
inline F sub(const F& a, const F& b) { return lanes([&](int l) { return a.v[l] - b.v[l]; }); }
inline F mul(const F& a, const F& b) { return lanes([&](int l) { return a.v[l] * b.v[l]; }); }
inline F div(const F& a, const F& b) { return lanes([&](int l) { return a.v[l] / b.v[l]; }); }
inline F fma(const F& a, const F& b, const F& c) {
    return lanes([&](int l) { return __builtin_fmaf(a.v[l], b.v[l], c.v[l]); });
}
inline F sqrt(const F& a) { return lanes([&](int l) { return __builtin_sqrtf(a.v[l]); }); }
inline F max(const F& a, const F& b) { return lanes([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; }); }
inline F min(const F& a, const F& b) { return lanes([&](int l) { return a.v[l] < b.v[l] ? a.v[l] : b.v[l]; }); }

inline I zero_i() { return lanes_i([](int) { return 0; }); }
inline I set1_i(std::int32_t x) { return lanes_i([=](int) { return x; }); }
inline I bits(const F& a) { return lanes_i([&](int l) { return bit_copy<std::int32_t>(a.v[l]); }); }
inline F from_bits(const I& a) { return lanes([&](int l) { return bit_copy<float>(a.v[l]); }); }
inline F to_float(const I& a) { return lanes([&](int l) { return static_cast<float>(a.v[l]); }); }
// Integer arithmetic wraps, hence the detour over unsigned.
inline std::int32_t wrap(std::uint32_t x) { return static_cast<std::int32_t>(x); }
inline std::uint32_t raw(std::int32_t x) { return static_cast<std::uint32_t>(x); }
inline I add(const I& a, const I& b) { return lanes_i([&](int l) { return wrap(raw(a.v[l]) + raw(b.v[l])); }); }
inline I sub(const I& a, const I& b) { return lanes_i([&](int l) { return wrap(raw(a.v[l]) - raw(b.v[l])); }); }
inline I both(const I& a, const I& b) { return lanes_i([&](int l) { return a.v[l] & b.v[l]; }); }
inline I max(const I& a, const I& b) { return lanes_i([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; }); }
inline I min(const I& a, const I& b) { return lanes_i([&](int l) { return a.v[l] < b.v[l] ? a.v[l] : b.v[l]; }); }
template <int Bits>
inline I shift_left(const I& a) { return lanes_i([&](int l) { return wrap(raw(a.v[l]) << Bits); }); }
// Lanes must fit in a signed byte.
inline void store_i8(std::int8_t* p, const I& a) {
    for (int l = 0; l < 16; ++l) p[l] = static_cast<std::int8_t>(a.v[l]);
}

template <class T, class Lane, class Op>
inline Lane fold(T x, const Op& op) {
    for (int half = 8; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) x.v[l] = op(x.v[l], x.v[l + half]);
    return x.v[0];
}
inline float sum(const F& x) { return fold<F, float>(x, [](float a, float b) { return a + b; }); }
inline float max_lane(const F& x) { return fold<F, float>(x, [](float a, float b) { return a > b ? a : b; }); }
inline std::int32_t sum(const I& x) {
    return fold<I, std::int32_t>(x, [](std::int32_t a, std::int32_t b) { return wrap(raw(a) + raw(b)); });
}
inline std::int32_t max_lane(const I& x) {
    return fold<I, std::int32_t>(x, [](std::int32_t a, std::int32_t b) { return a > b ? a : b; });
}

inline B load_bytes_n(const void* p, int n) {
    B r{};
    __builtin_memcpy(r.v, p, static_cast<unsigned>(n < 64 ? n : 64));
    return r;
}
inline B load_bytes(const void* p) { return load_bytes_n(p, 64); }
// Bits J * Bits ... of every byte: the J-th of its 8 / Bits codes.
template <int Bits, int J>
inline B field(const B& x) {
    B r;
    for (int i = 0; i < 64; ++i) r.v[i] = static_cast<std::uint8_t>(x.v[i] >> (Bits * J) & ((1 << Bits) - 1));
    return r;
}
// sum[l] + the products of bytes 4l .. 4l + 3, codes unsigned and of `Bits` bits, x signed.
template <int Bits>
inline I dot(const I& sum, const B& codes, const B& x) {
    return lanes_i([&](int l) {
        std::int32_t s = sum.v[l];
        for (int i = 4 * l; i < 4 * l + 4; ++i) s += codes.v[i] * static_cast<std::int8_t>(x.v[i]);
        return s;
    });
}
// Sixteen consecutive codes in order, from 2 * Bits bytes.
template <int Bits>
inline F load_codes(const std::uint8_t* p) {
    return lanes([=](int l) {
        return static_cast<float>(p[l * Bits / 8] >> (l * Bits % 8) & ((1 << Bits) - 1));
    });
}
// Sums over the groups of several dots, in steps. First four of them a quarter (lanes 4q .. 4q + 3) at a time: lane
// 4q + i gets the sum of quarter q of the i-th.
inline I quarter_sums(const I& a, const I& b, const I& c, const I& d) {
    const I* from[] = {&a, &b, &c, &d};
    return lanes_i([&](int l) {
        const std::int32_t* quarter = from[l % 4]->v + l / 4 * 4;
        return wrap(raw(quarter[0]) + raw(quarter[1]) + raw(quarter[2]) + raw(quarter[3]));
    });
}
// Then quarters two by two: a's 0 + 1 and 2 + 3, b's 0 + 1 and 2 + 3.
inline I quarter_pairs(const I& a, const I& b) {
    return lanes_i([&](int l) {
        const std::int32_t* from = (l < 8 ? a : b).v + l % 8 / 4 * 8 + l % 4;
        return wrap(raw(from[0]) + raw(from[4]));
    });
}
// Then into the order of the groups, which `Bits` has scrambled.
template <int Bits>
inline I in_order(const I& x) {
    if constexpr (Bits == 8) return x;
    else if constexpr (Bits == 4) return lanes_i([&](int l) { return x.v[l / 8 * 8 + l % 2 * 4 + l % 8 / 2]; });
    else return lanes_i([&](int l) { return x.v[l % 4 * 4 + l / 4]; });
}

// put(l, lane l of row(0) .. row(15)) for all 16 lanes.
template <class Row, class Put>
inline void transpose(const Row& row, const Put& put) {
    I m[16];
    for (int i = 0; i < 16; ++i) m[i] = row(i);
    for (int l = 0; l < 16; ++l) put(l, lanes_i([&](int i) { return m[i].v[l]; }));
}
inline B bytes_of(const I& x) { return bit_copy<B>(x); }
inline I words_of(const B& x) { return bit_copy<I>(x); }
inline void store_bytes(void* p, const B& x) { __builtin_memcpy(p, x.v, 64); }
// Byte i goes to field i % (8 / Bits); fields lie 64 bytes apart.
template <int Bits>
inline void store_fields(std::int8_t* p, const B& x) {
    constexpr int fields = 8 / Bits;
    for (int i = 0; i < 64; ++i) p[i % fields * 64 + i / fields] = static_cast<std::int8_t>(x.v[i]);
}
// Sixteen times the same four bytes.
inline B repeat_four(const void* p) {
    std::int32_t word;
    __builtin_memcpy(&word, p, 4);
    return bit_copy<B>(set1_i(word));
}

}  // namespace flashmoe::portable
