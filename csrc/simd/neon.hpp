// Sixteen float lanes and the byte dot product on Arm NEON with the dotprod extension. portable.hpp says what each
// means.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#define FLASHMOE_ISA neon

namespace flashmoe::neon {

constexpr int kVectors = 8;  // F that the registers hold

struct F { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };
struct B { uint8x16_t v[4]; };

template <class Op>
inline F quarters(const Op& op) { return {{op(0), op(1), op(2), op(3)}}; }
template <class Op>
inline I quarters_i(const Op& op) { return {{op(0), op(1), op(2), op(3)}}; }
template <class Op>
inline B quarters_b(const Op& op) { return {{op(0), op(1), op(2), op(3)}}; }

inline F zero() { return quarters([](int) { return vdupq_n_f32(0); }); }
inline F set1(float x) { return quarters([=](int) { return vdupq_n_f32(x); }); }
inline F load(const float* p) { return quarters([=](int i) { return vld1q_f32(p + 4 * i); }); }
inline F load_n(const float* p, int n) {
    float t[16] = {};
    __builtin_memcpy(t, p, static_cast<unsigned>(n) * 4);
    return load(t);
}
inline F load_bf16(const std::uint16_t* p) {
    return quarters([=](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}
inline F load_bf16_n(const std::uint16_t* p, int n) {
    std::uint16_t t[16] = {};
    __builtin_memcpy(t, p, static_cast<unsigned>(n) * 2);
    return load_bf16(t);
}
inline F load_f16(const std::uint16_t* p) {
    return quarters([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline F load_i8(const std::int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}
inline void store(float* p, const F& x) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline void store_n(float* p, const F& x, int n) {
    float t[16];
    store(t, x);
    __builtin_memcpy(p, t, static_cast<unsigned>(n) * 4);
}
inline void store_f16(std::uint16_t* p, const F& x) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}

inline F add(const F& a, const F& b) { return quarters([&](int i) { return vaddq_f32(a.v[i], b.v[i]); }); }
inline F sub(const F& a, const F& b) { return quarters([&](int i) { return vsubq_f32(a.v[i], b.v[i]); }); }
inline F mul(const F& a, const F& b) { return quarters([&](int i) { return vmulq_f32(a.v[i], b.v[i]); }); }
inline F div(const F& a, const F& b) { return quarters([&](int i) { return vdivq_f32(a.v[i], b.v[i]); }); }
inline F fma(const F& a, const F& b, const F& c) {
    return quarters([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F sqrt(const F& a) { return quarters([&](int i) { return vsqrtq_f32(a.v[i]); }); }
// Not vmaxq: it would spread a NaN of the first argument, which x86 does not.
inline float32x4_t greater(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline F max(const F& a, const F& b) { return quarters([&](int i) { return greater(a.v[i], b.v[i]); }); }
inline F min(const F& a, const F& b) {
    return quarters([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}

inline I zero_i() { return quarters_i([](int) { return vdupq_n_s32(0); }); }
inline I set1_i(std::int32_t x) { return quarters_i([=](int) { return vdupq_n_s32(x); }); }
inline I bits(const F& a) { return quarters_i([&](int i) { return vreinterpretq_s32_f32(a.v[i]); }); }
inline F from_bits(const I& a) { return quarters([&](int i) { return vreinterpretq_f32_s32(a.v[i]); }); }
inline F to_float(const I& a) { return quarters([&](int i) { return vcvtq_f32_s32(a.v[i]); }); }
inline I add(const I& a, const I& b) { return quarters_i([&](int i) { return vaddq_s32(a.v[i], b.v[i]); }); }
inline I sub(const I& a, const I& b) { return quarters_i([&](int i) { return vsubq_s32(a.v[i], b.v[i]); }); }
inline I both(const I& a, const I& b) { return quarters_i([&](int i) { return vandq_s32(a.v[i], b.v[i]); }); }
inline I max(const I& a, const I& b) { return quarters_i([&](int i) { return vmaxq_s32(a.v[i], b.v[i]); }); }
inline I min(const I& a, const I& b) { return quarters_i([&](int i) { return vminq_s32(a.v[i], b.v[i]); }); }
template <int Bits>
inline I shift_left(const I& a) { return quarters_i([&](int i) { return vshlq_n_s32(a.v[i], Bits); }); }
inline void store_i8(std::int8_t* p, const I& a) {
    const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

inline float sum(const F& x) {
    const float32x4_t b = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
    const float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}
inline float max_lane(const F& x) {
    const float32x4_t b = greater(greater(x.v[0], x.v[2]), greater(x.v[1], x.v[3]));
    float t[4];
    vst1q_f32(t, b);
    const float even = t[0] > t[2] ? t[0] : t[2], odd = t[1] > t[3] ? t[1] : t[3];
    return even > odd ? even : odd;
}
inline std::int32_t sum(const I& x) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[2]), vaddq_s32(x.v[1], x.v[3])));
}
inline std::int32_t max_lane(const I& x) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.v[0], x.v[2]), vmaxq_s32(x.v[1], x.v[3])));
}

inline B load_bytes(const void* p) {
    const auto* bytes = static_cast<const std::uint8_t*>(p);
    return quarters_b([=](int i) { return vld1q_u8(bytes + 16 * i); });
}
inline B load_bytes_n(const void* p, int n) {
    std::uint8_t t[64] = {};
    __builtin_memcpy(t, p, static_cast<unsigned>(n < 64 ? n : 64));
    return load_bytes(t);
}
template <int Bits, int J>
inline B field(const B& x) {
    if constexpr (Bits == 8) return x;
    else if constexpr (J == 0) return quarters_b([&](int i) { return vandq_u8(x.v[i], vdupq_n_u8((1 << Bits) - 1)); });
    else return quarters_b([&](int i) { return vandq_u8(vshrq_n_u8(x.v[i], Bits * J), vdupq_n_u8((1 << Bits) - 1)); });
}
// sdot wants signed codes: 8-bit ones are taken 128 lower and 128 * sum(x) is added, exact in integers.
template <int Bits>
inline I dot(const I& sum, const B& codes, const B& x) {
    return quarters_i([&](int i) {
        const int8x16_t values = vreinterpretq_s8_u8(x.v[i]);
        if constexpr (Bits < 8) {
            return vdotq_s32(sum.v[i], vreinterpretq_s8_u8(codes.v[i]), values);
        } else {
            const int8x16_t lowered = vreinterpretq_s8_u8(veorq_u8(codes.v[i], vdupq_n_u8(128)));
            const int32x4_t total = vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(1), values);
            return vaddq_s32(vdotq_s32(sum.v[i], lowered, values), vshlq_n_s32(total, 7));
        }
    });
}

template <int Bits>
inline float32x4_t load_codes_quarter(const std::uint8_t* p, int first) {
    std::uint32_t word = 0;
    __builtin_memcpy(&word, p + first * Bits / 8, Bits < 4 ? 1 : Bits / 2);
    const std::int32_t shifts[4] = {0, -Bits, -2 * Bits, -3 * Bits};
    const uint32x4_t codes = vshlq_u32(vdupq_n_u32(word), vld1q_s32(shifts));
    return vcvtq_f32_u32(vandq_u32(codes, vdupq_n_u32((1 << Bits) - 1)));
}
template <int Bits>
inline F load_codes(const std::uint8_t* p) {
    return quarters([=](int i) { return load_codes_quarter<Bits>(p, 4 * i); });
}

inline I quarter_sums(const I& a, const I& b, const I& c, const I& d) {
    return quarters_i([&](int i) { return vpaddq_s32(vpaddq_s32(a.v[i], b.v[i]), vpaddq_s32(c.v[i], d.v[i])); });
}
inline I quarter_pairs(const I& a, const I& b) {
    return {{vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3]),
             vaddq_s32(b.v[0], b.v[1]), vaddq_s32(b.v[2], b.v[3])}};
}
inline void transpose_four(int32x4_t& a, int32x4_t& b, int32x4_t& c, int32x4_t& d) {
    const int64x2_t ab = vreinterpretq_s64_s32(vtrn1q_s32(a, b)), ba = vreinterpretq_s64_s32(vtrn2q_s32(a, b));
    const int64x2_t cd = vreinterpretq_s64_s32(vtrn1q_s32(c, d)), dc = vreinterpretq_s64_s32(vtrn2q_s32(c, d));
    a = vreinterpretq_s32_s64(vtrn1q_s64(ab, cd));
    b = vreinterpretq_s32_s64(vtrn1q_s64(ba, dc));
    c = vreinterpretq_s32_s64(vtrn2q_s64(ab, cd));
    d = vreinterpretq_s32_s64(vtrn2q_s64(ba, dc));
}
template <int Bits>
inline I in_order(I x) {
    if constexpr (Bits == 4)
        return {{vzip1q_s32(x.v[0], x.v[1]), vzip2q_s32(x.v[0], x.v[1]), vzip1q_s32(x.v[2], x.v[3]),
                 vzip2q_s32(x.v[2], x.v[3])}};
    else if constexpr (Bits == 2) transpose_four(x.v[0], x.v[1], x.v[2], x.v[3]);
    return x;
}

template <class Row, class Put>
[[gnu::always_inline]] inline void transpose(const Row& row, const Put& put) {
    I m[16];
    for (int i = 0; i < 16; ++i) m[i] = row(i);
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 4; ++j) transpose_four(m[i].v[j], m[i + 1].v[j], m[i + 2].v[j], m[i + 3].v[j]);
    for (int i = 0; i < 16; ++i)
        put(i, I{{m[i % 4].v[i / 4], m[4 + i % 4].v[i / 4], m[8 + i % 4].v[i / 4], m[12 + i % 4].v[i / 4]}});
}
inline B bytes_of(const I& x) {
    return quarters_b([&](int i) { return vreinterpretq_u8_s32(x.v[i]); });
}
inline I words_of(const B& x) {
    return quarters_i([&](int i) { return vreinterpretq_s32_u8(x.v[i]); });
}
inline void store_bytes(void* p, const B& x) {
    for (int i = 0; i < 4; ++i) vst1q_u8(static_cast<std::uint8_t*>(p) + 16 * i, x.v[i]);
}
template <int Bits>
inline void store_fields(std::int8_t* p, const B& x) {
    auto* to = reinterpret_cast<std::uint8_t*>(p);
    uint8x16_t even[2], odd[2];
    for (int i = 0; i < 2; ++i) {
        even[i] = vuzp1q_u8(x.v[2 * i], x.v[2 * i + 1]);
        odd[i] = vuzp2q_u8(x.v[2 * i], x.v[2 * i + 1]);
    }
    if constexpr (Bits == 4) {
        for (int i = 0; i < 2; ++i) {
            vst1q_u8(to + 16 * i, even[i]);
            vst1q_u8(to + 64 + 16 * i, odd[i]);
        }
    } else {
        vst1q_u8(to, vuzp1q_u8(even[0], even[1]));
        vst1q_u8(to + 64, vuzp1q_u8(odd[0], odd[1]));
        vst1q_u8(to + 128, vuzp2q_u8(even[0], even[1]));
        vst1q_u8(to + 192, vuzp2q_u8(odd[0], odd[1]));
    }
}
inline B repeat_four(const void* p) {
    std::int32_t word;
    __builtin_memcpy(&word, p, 4);
    return bytes_of(set1_i(word));
}

}  // namespace flashmoe::neon
