// Functions built of lanes' fma, add and mul, so that every instruction set rounds them alike. Include after a lane header.
#pragma once

#define FLASHMOE_INLINE [[gnu::always_inline]] inline

namespace flashmoe::FLASHMOE_ISA {

// e^x to 1.5 ulp for x in [-87.3, 88.3]; held at the range's ends outside it, NaN stays NaN.
inline F exp(F x) {
    x = min(set1(88.3f), max(set1(-87.3f), x));
    // Adding 1.5 * 2^23 rounds x / ln 2 to an integer n in the low bits, without a conversion that could trap.
    const F magic = set1(0x1.8p23f);
    const F shifted = fma(x, set1(0x1.715476p0f), magic);
    const F n = sub(shifted, magic);
    const F r = fma(n, set1(-1.4286068202862268e-06f), fma(n, set1(-0.693145751953125f), x));  // n * ln 2 in two parts
    // (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2, fitted by reweighted least squares: 1e-9 of e^r.
    F p = set1(0x1.9f08960p-13f);
    p = fma(p, r, set1(0x1.6d8d080p-10f));
    p = fma(p, r, set1(0x1.1112700p-7f));
    p = fma(p, r, set1(0x1.55548e0p-5f));
    p = fma(p, r, set1(0x1.5555540p-3f));
    p = fma(p, r, set1(0.5f));
    p = fma(mul(r, r), p, add(r, set1(1.0f)));
    const I exponent = add(sub(bits(shifted), bits(magic)), set1_i(127));
    return mul(p, from_bits(shift_left<23>(exponent)));
}

inline F negate(F x) { return sub(zero(), x); }
inline F sigmoid(F x) { return div(set1(1.0f), add(set1(1.0f), exp(negate(x)))); }
inline F silu(F x) { return div(x, add(set1(1.0f), exp(negate(x)))); }

inline float from_bf16(std::uint16_t h) {
    const std::uint32_t bits = static_cast<std::uint32_t>(h) << 16;
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

// Towards the second-level cache: into the first it was slower than none (docs/measurements/performance.md). Inlined always, for
// GCC 12 takes a function that only prefetches to be without effect and deletes the calls that it has not inlined yet.
FLASHMOE_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// Calls step(offset, lanes) for n elements, 16 at a time; the last call may have fewer.
template <class Step>
inline void for_lanes(long n, const Step& step) {
    for (long i = 0; i < n; i += 16) step(i, n - i < 16 ? static_cast<int>(n - i) : 16);
}
inline F load_up_to(const float* p, int n) { return n == 16 ? load(p) : load_n(p, n); }
inline void store_up_to(float* p, F x, int n) {
    if (n == 16) store(p, x);
    else store_n(p, x, n);
}

}  // namespace flashmoe::FLASHMOE_ISA
