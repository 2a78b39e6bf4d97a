// Sixteen float lanes and the byte dot product on AVX2 with FMA and F16C, and with AVX-VNNI where it is compiled for
// that. portable.hpp says what each means.
#pragma once

#include <immintrin.h>

#include <cstdint>

#ifndef FLASHMOE_ISA
#define FLASHMOE_ISA avx2
#endif

namespace flashmoe::FLASHMOE_ISA {

constexpr int kVectors = 8;  // F that the registers hold

struct F { __m256 a, b; };   // lanes 0 .. 7, 8 .. 15
struct I { __m256i a, b; };
struct B { __m256i a, b; };  // bytes 0 .. 31, 32 .. 63

inline __m256i load_half(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256 widen_bf16(const std::uint16_t* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline __m256 widen_f16(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __m256 widen_i8(const std::int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline F load_n(const float* p, int n) {
    float t[16] = {};
    __builtin_memcpy(t, p, static_cast<unsigned>(n) * 4);
    return load(t);
}
inline F load_bf16(const std::uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline F load_bf16_n(const std::uint16_t* p, int n) {
    std::uint16_t t[16] = {};
    __builtin_memcpy(t, p, static_cast<unsigned>(n) * 2);
    return load_bf16(t);
}
inline F load_f16(const std::uint16_t* p) { return {widen_f16(p), widen_f16(p + 8)}; }
inline F load_i8(const std::int8_t* p) { return {widen_i8(p), widen_i8(p + 8)}; }
inline void store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline void store_n(float* p, F x, int n) {
    float t[16];
    store(t, x);
    __builtin_memcpy(p, t, static_cast<unsigned>(n) * 4);
}
inline void store_f16(std::uint16_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F sqrt(F x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }

inline I zero_i() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I set1_i(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I bits(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline F from_bits(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I add(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I sub(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
inline I both(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline I max(I x, I y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
inline I min(I x, I y) { return {_mm256_min_epi32(x.a, y.a), _mm256_min_epi32(x.b, y.b)}; }
template <int Bits>
inline I shift_left(I x) { return {_mm256_slli_epi32(x.a, Bits), _mm256_slli_epi32(x.b, Bits)}; }
inline void store_i8(std::int8_t* p, I x) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline float sum(F x) {
    const __m256 a = _mm256_add_ps(x.a, x.b);
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float max_lane(F x) {
    const __m256 a = _mm256_max_ps(x.a, x.b);
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
inline std::int32_t sum(I x) {
    const __m256i a = _mm256_add_epi32(x.a, x.b);
    const __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i c = _mm_add_epi32(b, _mm_unpackhi_epi64(b, b));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 1)));
}
inline std::int32_t max_lane(I x) {
    const __m256i a = _mm256_max_epi32(x.a, x.b);
    const __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i c = _mm_max_epi32(b, _mm_unpackhi_epi64(b, b));
    return _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32(c, 1)));
}

inline B load_bytes(const void* p) { return {load_half(p), load_half(static_cast<const char*>(p) + 32)}; }
inline B load_bytes_n(const void* p, int n) {
    std::uint8_t t[64] = {};
    __builtin_memcpy(t, p, static_cast<unsigned>(n < 64 ? n : 64));
    return load_bytes(t);
}
template <int Bits, int J>
inline B field(B x) {
    if constexpr (Bits == 8) return x;
    const __m256i mask = _mm256_set1_epi8((1 << Bits) - 1);
    return {_mm256_and_si256(_mm256_srli_epi16(x.a, Bits * J), mask),
            _mm256_and_si256(_mm256_srli_epi16(x.b, Bits * J), mask)};
}
// maddubs adds two products in 16 bits and saturates: safe up to 7-bit codes (2 * 127 * 127 < 32768). For 8 bits the
// even and the odd bytes are widened first; both ways lane l gets bytes 4l .. 4l + 3.
template <int Bits>
inline __m256i dot_half(__m256i sum, __m256i codes, __m256i x) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, codes, x);
#else
    if constexpr (Bits < 8) {
        const __m256i pairs = _mm256_maddubs_epi16(codes, x);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    } else {
        const __m256i even = _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(255)),
                                               _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
        const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(x, 8));
        return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
    }
#endif
}
template <int Bits>
inline I dot(I sum, B codes, B x) {
    return {dot_half<Bits>(sum.a, codes.a, x.a), dot_half<Bits>(sum.b, codes.b, x.b)};
}

template <int Bits>
inline __m256 load_codes_half(const std::uint8_t* p) {
    if constexpr (Bits == 8) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    } else {
        std::int32_t word = 0;
        __builtin_memcpy(&word, p, Bits);
        const __m256i shifts = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(Bits));
        const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
        return _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32((1 << Bits) - 1)));
    }
}
template <int Bits>
inline F load_codes(const std::uint8_t* p) { return {load_codes_half<Bits>(p), load_codes_half<Bits>(p + Bits)}; }

inline __m256i quarter_sums_half(__m256i a, __m256i b, __m256i c, __m256i d) {
    return _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
}
inline I quarter_sums(I a, I b, I c, I d) {
    return {quarter_sums_half(a.a, b.a, c.a, d.a), quarter_sums_half(a.b, b.b, c.b, d.b)};
}
inline __m256i quarter_pairs_half(I x) {
    return _mm256_add_epi32(_mm256_permute2x128_si256(x.a, x.b, 0x20), _mm256_permute2x128_si256(x.a, x.b, 0x31));
}
inline I quarter_pairs(I a, I b) { return {quarter_pairs_half(a), quarter_pairs_half(b)}; }
template <int Bits>
inline I in_order(I x) {
    if constexpr (Bits == 8) {
        return x;
    } else if constexpr (Bits == 4) {
        const __m256i from = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        return {_mm256_permutevar8x32_epi32(x.a, from), _mm256_permutevar8x32_epi32(x.b, from)};
    } else {
        const __m256i even = _mm256_setr_epi32(0, 4, 0, 4, 1, 5, 1, 5), odd = _mm256_setr_epi32(2, 6, 2, 6, 3, 7, 3, 7);
        const auto picked = [&x](__m256i from) {
            return _mm256_blend_epi32(_mm256_permutevar8x32_epi32(x.a, from), _mm256_permutevar8x32_epi32(x.b, from),
                                      0xcc);
        };
        return {picked(even), picked(odd)};
    }
}

// The 8 x 8 of one half of eight vectors.
template <class Half>
inline void transpose_eight(const Half& half, __m256i (&to)[8]) {
    __m256i t[8];
    for (int i = 0; i < 8; i += 4) {
        const __m256i a = _mm256_unpacklo_epi32(half(i), half(i + 1)), b = _mm256_unpackhi_epi32(half(i), half(i + 1));
        const __m256i c = _mm256_unpacklo_epi32(half(i + 2), half(i + 3));
        const __m256i d = _mm256_unpackhi_epi32(half(i + 2), half(i + 3));
        t[i] = _mm256_unpacklo_epi64(a, c);
        t[i + 1] = _mm256_unpackhi_epi64(a, c);
        t[i + 2] = _mm256_unpacklo_epi64(b, d);
        t[i + 3] = _mm256_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; ++i) {
        to[i] = _mm256_permute2x128_si256(t[i], t[i + 4], 0x20);
        to[i + 4] = _mm256_permute2x128_si256(t[i], t[i + 4], 0x31);
    }
}
template <class Row, class Put>
[[gnu::always_inline]] inline void transpose(const Row& row, const Put& put) {
    I m[16];
    for (int i = 0; i < 16; ++i) m[i] = row(i);
    __m256i low[2][8], high[2][8];  // of lanes 0 .. 7 and of lanes 8 .. 15
    for (int k = 0; k < 2; ++k) {
        transpose_eight([&](int i) { return m[8 * k + i].a; }, low[k]);
        transpose_eight([&](int i) { return m[8 * k + i].b; }, high[k]);
    }
    for (int i = 0; i < 8; ++i) {
        put(i, I{low[0][i], low[1][i]});
        put(8 + i, I{high[0][i], high[1][i]});
    }
}
inline B bytes_of(I x) { return {x.a, x.b}; }
inline I words_of(B x) { return {x.a, x.b}; }
inline void store_bytes(void* p, B x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, x.b);
}
template <int Bits>
inline void store_fields(std::int8_t* p, B x) {
    if constexpr (Bits == 4) {
        const __m256i low = _mm256_set1_epi16(255);
        const __m256i even = _mm256_packus_epi16(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low));
        const __m256i odd = _mm256_packus_epi16(_mm256_srli_epi16(x.a, 8), _mm256_srli_epi16(x.b, 8));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(even, 0xd8));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 64), _mm256_permute4x64_epi64(odd, 0xd8));
    } else {
        const __m256i from = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        const __m256i words = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // two words of each field, fields in order
        const __m256i a = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x.a, from), words);
        const __m256i b = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x.b, from), words);
        const __m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);  // fields 0 and 2, 1 and 3
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(even));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 64), _mm256_castsi256_si128(odd));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 128), _mm256_extracti128_si256(even, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 192), _mm256_extracti128_si256(odd, 1));
    }
}
inline B repeat_four(const void* p) {
    std::int32_t word;
    __builtin_memcpy(&word, p, 4);
    const __m256i four = _mm256_set1_epi32(word);
    return {four, four};
}

}  // namespace flashmoe::FLASHMOE_ISA
