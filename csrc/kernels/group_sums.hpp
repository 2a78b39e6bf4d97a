// The 16 sums of a product of many rows, and how they become one (kernels/affine.hpp has the arithmetic). Groups are
// taken in an order in which a sum is folded into another as soon as both are complete, so that five of the 16 are kept
// at a time. Include after a lane header.
#pragma once

#include "kernels/types.hpp"

namespace flashmoe::FLASHMOE_ISA {

constexpr Index kSums = 16;
constexpr int kSlots = 5;  // sums that wait for others, and the one that is being made

// What becomes of a sum once its last group is in: it is kept in its slot, or added to the slot before it. Where both
// lack the sums that would come first, for want of groups, zero is added in their place.
enum class Then { keep, fold, fold_lacking };

// The sums of a block of rows, so many floats a slot.
template <Index Floats>
struct SumSlots {
    alignas(64) float slots[kSlots][Floats];
    bool lacks[kSlots];

    // How the slot may be added to the one before it when it is put, if it may.
    Then folding(int slot) const {
        if (lacks[slot - 1] != lacks[slot]) return Then::keep;
        return lacks[slot] ? Then::fold_lacking : Then::fold;
    }

    // Adds a slot to the one before it.
    void fold(int slot) {
        complete(slot - 1);
        complete(slot);
        float *to = slots[slot - 1], *from = slots[slot];
        for (Index i = 0; i < Floats; i += 16) store(to + i, add(load(to + i), load(from + i)));
    }

    void complete(int slot) {
        if (!lacks[slot]) return;
        lacks[slot] = false;
        for (Index i = 0; i < Floats; i += 16) store(slots[slot] + i, add(load(slots[slot] + i), zero()));
    }
};

// Where a sum of `slots` that lie `apart` floats from each other goes.
template <Then After>
FLASHMOE_INLINE void put_sum(float* slot, Index apart, F sum) {
    if constexpr (After == Then::keep) return store(slot, sum);
    F before = load(slot - apart);
    if constexpr (After == Then::fold_lacking) before = add(before, zero()), sum = add(sum, zero());
    store(slot - apart, add(before, sum));
}

// The sums of 16 lanes, `apart` floats from each other and as many as there are groups, folded into one.
inline F folded(const float* sums, Index apart, Index groups) {
    const auto get = [&](Index g) { return g < groups ? load(sums + g * apart) : zero(); };
    F folded[kSums / 2];
    for (Index g = 0; g < kSums / 2; ++g) folded[g] = add(get(g), get(g + kSums / 2));
    for (Index half = kSums / 4; half > 0; half /= 2)
        for (Index g = 0; g < half; ++g) folded[g] = add(folded[g], folded[g + half]);
    return folded[0];
}

// Calls body with its arguments as constants.
template <class Body>
FLASHMOE_INLINE void by_kind(bool first, Then after, const Body& body) {
    if (first) {
        if (after == Then::keep) body.template operator()<true, Then::keep>();
        else if (after == Then::fold) body.template operator()<true, Then::fold>();
        else body.template operator()<true, Then::fold_lacking>();
    } else if (after == Then::keep) body.template operator()<false, Then::keep>();
    else body.template operator()<false, Then::fold>();  // what has two groups lacks nothing
}

// Calls add(group, sums, first, after) for all groups, which adds a group's dots to `sums` or, as the first, begins them,
// and puts them. Then the first slot has the product.
template <Index Floats, class Add>
FLASHMOE_INLINE void sum_groups(SumSlots<Floats>& sums, Index groups, const Add& add) {
    constexpr Index kOrder[kSums] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};
    int slot = 0;
    for (const Index sum : kOrder) {
        if (sum >= groups) continue;
        // The sums apart from this one, the farthest first: it is added to those that came before.
        Index apart = kSums / 2;
        sums.lacks[slot] = false;
        for (; apart > 0 && !(sum & apart) && sum + apart >= groups; apart /= 2) sums.lacks[slot] = true;
        Then after = (sum & apart) ? sums.folding(slot) : Then::keep;
        for (Index g = sum; g < groups; g += kSums)
            add(g, sums.slots[slot], g == sum, g + kSums < groups ? Then::keep : after);
        if (after != Then::keep) {
            sums.lacks[--slot] = false;
            apart /= 2;
        }
        for (Index left = sum & (apart * 2 - 1); apart > 0; apart /= 2) {
            if (left & apart) {
                sums.fold(slot);
                --slot;
            } else if ((left & (apart - 1)) + apart < groups) break;
            else sums.lacks[slot] = true;
        }
        ++slot;
    }
    sums.complete(0);
}

}  // namespace flashmoe::FLASHMOE_ISA
