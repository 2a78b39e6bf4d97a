// Sixteen float lanes and the byte dot product on AVX-512 (F, BW, VL, DQ, VNNI). portable.hpp says what each means.
#pragma once

#include <immintrin.h>

#include <cstdint>

#ifndef FLASHMOE_ISA
#define FLASHMOE_ISA avx512
#endif

namespace flashmoe::FLASHMOE_ISA {

constexpr int kVectors = 32;  // F that the registers hold

using F = __m512;
struct I { __m512i v; };
struct B { __m512i v; };

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }
inline F widen_bf16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline F load_bf16(const std::uint16_t* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F load_bf16_n(const std::uint16_t* p, int n) { return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
inline F load_f16(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F load_i8(const std::int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline void store_n(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }
inline void store_f16(std::uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F sqrt(F a) { return _mm512_sqrt_ps(a); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }

inline I zero_i() { return {_mm512_setzero_si512()}; }
inline I set1_i(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I bits(F a) { return {_mm512_castps_si512(a)}; }
inline F from_bits(I a) { return _mm512_castsi512_ps(a.v); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a.v); }
inline I add(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I sub(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I both(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I max(I a, I b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline I min(I a, I b) { return {_mm512_min_epi32(a.v, b.v)}; }
template <int Bits>
inline I shift_left(I a) { return {_mm512_slli_epi32(a.v, Bits)}; }
inline void store_i8(std::int8_t* p, I a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

inline float sum(F x) {
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float max_lane(F x) {
    const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
inline std::int32_t sum(I x) { return _mm512_reduce_add_epi32(x.v); }
inline std::int32_t max_lane(I x) { return _mm512_reduce_max_epi32(x.v); }

inline B load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline B load_bytes_n(const void* p, int n) {
    return {_mm512_maskz_loadu_epi8(n >= 64 ? ~0ull : (1ull << n) - 1, p)};
}
template <int Bits, int J>
inline B field(B x) {
    if constexpr (Bits == 8) return x;
    else return {_mm512_and_si512(_mm512_srli_epi16(x.v, Bits * J), _mm512_set1_epi8((1 << Bits) - 1))};
}
template <int Bits>
inline I dot(I sum, B codes, B x) { return {_mm512_dpbusd_epi32(sum.v, codes.v, x.v)}; }

template <int Bits>
inline F load_codes(const std::uint8_t* p) {
    if constexpr (Bits == 8) {
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    } else if constexpr (Bits == 4) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
        const __m512i both = _mm512_cvtepu8_epi64(bytes);
        const __m512i pair = _mm512_or_si512(both, _mm512_slli_epi64(both, 28));
        return _mm512_cvtepi32_ps(_mm512_and_si512(pair, _mm512_set1_epi32(15)));
    } else {
        std::int32_t word;
        __builtin_memcpy(&word, p, 4);
        const __m512i shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        return _mm512_cvtepi32_ps(
            _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32(word), shifts), _mm512_set1_epi32(3)));
    }
}

inline I quarter_sums(I a, I b, I c, I d) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a.v, b.v), _mm512_unpackhi_epi32(a.v, b.v));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c.v, d.v), _mm512_unpackhi_epi32(c.v, d.v));
    return {_mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))};
}
inline I quarter_pairs(I a, I b) {
    return {_mm512_add_epi32(_mm512_shuffle_i32x4(a.v, b.v, 0x88), _mm512_shuffle_i32x4(a.v, b.v, 0xdd))};
}
template <int Bits>
inline I in_order(I x) {
    if constexpr (Bits == 8) return x;
    const __m512i from = Bits == 4 ? _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15)
                                   : _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return {_mm512_permutexvar_epi32(from, x.v)};
}

template <class Row, class Put>
[[gnu::always_inline]] inline void transpose(const Row& row, const Put& put) {
    __m512i t[4][4];
    for (int i = 0; i < 4; ++i) {  // 4 x 4 within each quarter
        const I r0 = row(4 * i), r1 = row(4 * i + 1), r2 = row(4 * i + 2), r3 = row(4 * i + 3);
        const __m512i a = _mm512_unpacklo_epi32(r0.v, r1.v), b = _mm512_unpackhi_epi32(r0.v, r1.v);
        const __m512i c = _mm512_unpacklo_epi32(r2.v, r3.v), d = _mm512_unpackhi_epi32(r2.v, r3.v);
        t[i][0] = _mm512_unpacklo_epi64(a, c);
        t[i][1] = _mm512_unpackhi_epi64(a, c);
        t[i][2] = _mm512_unpacklo_epi64(b, d);
        t[i][3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; ++i) {  // then the quarters
        const __m512i a = _mm512_shuffle_i32x4(t[0][i], t[1][i], 0x44), b = _mm512_shuffle_i32x4(t[0][i], t[1][i], 0xee);
        const __m512i c = _mm512_shuffle_i32x4(t[2][i], t[3][i], 0x44), d = _mm512_shuffle_i32x4(t[2][i], t[3][i], 0xee);
        put(i, I{_mm512_shuffle_i32x4(a, c, 0x88)});
        put(i + 4, I{_mm512_shuffle_i32x4(a, c, 0xdd)});
        put(i + 8, I{_mm512_shuffle_i32x4(b, d, 0x88)});
        put(i + 12, I{_mm512_shuffle_i32x4(b, d, 0xdd)});
    }
}
inline B bytes_of(I x) { return {x.v}; }
inline I words_of(B x) { return {x.v}; }
inline void store_bytes(void* p, B x) { _mm512_storeu_si512(p, x.v); }
template <int Bits>
inline void store_fields(std::int8_t* p, B x) {
    if constexpr (Bits == 4) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi16_epi8(x.v));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 64), _mm512_cvtepi16_epi8(_mm512_srli_epi16(x.v, 8)));
    } else {
        for (int field = 0; field < 4; ++field)
            _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 64 * field),
                             _mm512_cvtepi32_epi8(_mm512_srli_epi32(x.v, static_cast<unsigned>(8 * field))));
    }
}
inline B repeat_four(const void* p) {
    std::int32_t word;
    __builtin_memcpy(&word, p, 4);
    return {_mm512_set1_epi32(word)};
}

}  // namespace flashmoe::FLASHMOE_ISA
