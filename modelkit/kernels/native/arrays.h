/* Loops over plain arrays: casts, the scan for what is no number, how far two arrays lie apart, groups of integers. */
#ifndef MODELKIT_ARRAYS_H
#define MODELKIT_ARRAYS_H

#include "floats.h"

#define CAST(name, type)                                                  \
    static void narrow_##name(const float *x, size_t count, void *out) {  \
        type *to = out;                                                   \
        for (size_t i = 0; i < count; i++) to[i] = to_##name(x[i]);       \
    }                                                                     \
    static void widen_##name(const void *in, size_t count, float *out) {  \
        const type *from = in;                                            \
        for (size_t i = 0; i < count; i++) out[i] = from_##name(from[i]); \
    }
static void narrow_f32(const float *x, size_t count, void *out) { memmove(out, x, count * sizeof *x); }
static void widen_f32(const void *in, size_t count, float *out) { memmove(out, in, count * sizeof *out); }
CAST(f16, uint16_t)
CAST(bf16, uint16_t)
CAST(f8_e4m3, uint8_t)
CAST(f8_e5m2, uint8_t)

/* The largest finite magnitude, and the place of the first NaN or infinity (`count` if there is none) */
static float scan(const float *x, size_t count, size_t *first) {
    const size_t SLAB = 4096;
    uint32_t largest = 0;
    *first = count;
    for (size_t i = 0; i < count; i += SLAB) {
        const size_t end = i + SLAB < count ? i + SLAB : count;
        int32_t most_here = 0;
        for (size_t k = i; k < end; k++) {
            const int32_t size = (int32_t)(bits_of(x[k]) & 0x7fffffff);
            most_here = size > most_here ? size : most_here;
        }
        if (most_here >= 0x7f800000) {
            most_here = 0;
            for (size_t k = i; k < end; k++) {
                const int32_t size = (int32_t)(bits_of(x[k]) & 0x7fffffff);
                if (size < 0x7f800000) most_here = size > most_here ? size : most_here;
                else if (*first == count) *first = k;
            }
        }
        largest = (uint32_t)most_here > largest ? (uint32_t)most_here : largest;
    }
    return float_of(largest);
}

/* low, high: of the finite values (INFINITY and -INFINITY if there are none). sums: of their distances from `around`, and
   of the squares of these. counts: zeros, NaN, infinities. */
static void statistics(const float *x, size_t count, double around, float *low, float *high, double *sums,
                       size_t *counts) {
    const size_t SLAB = 4096;
    f32x8 least_of = all(INFINITY), most_of_all = all(-INFINITY);
    f64x4 apart[2] = {{0}}, squares[2] = {{0}};
    counts[0] = counts[1] = counts[2] = 0;
    for (size_t i = 0; i < count; i += SLAB) {
        const size_t end = i + SLAB < count ? i + SLAB : count;
        i32x8 zeros = all_ints(0), nans = zeros, infinities = zeros; /* minus their number */
        for (size_t k = i; k < end; k += 8) {
            f32x8 value = all(INFINITY); /* fills the last vector, and is taken off again */
            memcpy(&value, x + k, sizeof *x * (end - k < 8 ? end - k : 8));
            const i32x8 finite = below(magnitude(value), all(INFINITY)), number = equal(value, value);
            zeros += equal(value, all(0));
            nans += ~number;
            infinities += number & ~finite;
            least_of = least(choose(finite, value, all(INFINITY)), least_of);
            most_of_all = most(choose(finite, value, all(-INFINITY)), most_of_all);
            f32x4 half[2];
            i32x4 mask[2];
            memcpy(half, &value, sizeof value);
            memcpy(mask, &finite, sizeof finite);
            for (int h = 0; h < 2; h++) {
                const u64x4 keep = (u64x4)__builtin_convertvector(mask[h], i64x4);
                const f64x4 wide = __builtin_convertvector(half[h], f64x4) - around;
                const f64x4 distance = (f64x4)((u64x4)wide & keep);
                apart[h] += distance;
                squares[h] += distance * distance;
            }
        }
        for (int k = 0; k < 8; k++) {
            counts[0] -= (size_t)(ptrdiff_t)zeros[k];
            counts[1] -= (size_t)(ptrdiff_t)nans[k];
            counts[2] -= (size_t)(ptrdiff_t)infinities[k];
        }
    }
    counts[2] -= (8 - count % 8) % 8;
    sums[0] = sums[1] = 0;
    for (int k = 0; k < 4; k++) {
        sums[0] += apart[0][k] + apart[1][k];
        sums[1] += squares[0][k] + squares[1][k];
    }
    *high = most_of(most_of_all);
    *low = -most_of(-least_of);
}

/* out: the largest |now - was|, the sum of its squares, the sum of squares of `was`, where `was` is finite */
static void difference(const float *was, const float *now, size_t count, double *out) {
    f64x4 apart_squares[2] = {{0}}, squares[2] = {{0}};
    float largest = 0;
    size_t i = 0;
    f32x8 largest_of = all(0);
    for (; i + 8 <= count; i += 8) {
        f32x8 a = load(was + i), b = load(now + i);
        i32x8 finite = below(magnitude(a), all(INFINITY));
        a = choose(finite, a, all(0));
        f32x8 apart = choose(finite, b - a, all(0));
        largest_of = most(magnitude(apart), largest_of);
        f32x4 half[4];
        memcpy(half, &apart, sizeof apart);
        memcpy(half + 2, &a, sizeof a);
        for (int k = 0; k < 2; k++) {
            f64x4 wide = __builtin_convertvector(half[k], f64x4), value = __builtin_convertvector(half[k + 2], f64x4);
            apart_squares[k] += wide * wide;
            squares[k] += value * value;
        }
    }
    out[1] = out[2] = 0;
    for (int k = 0; k < 4; k++) {
        out[1] += apart_squares[0][k] + apart_squares[1][k];
        out[2] += squares[0][k] + squares[1][k];
    }
    largest = most_of(largest_of);
    for (; i < count; i++) {
        if ((bits_of(was[i]) & 0x7fffffff) >= 0x7f800000) continue;
        const float apart = now[i] - was[i];
        largest = fabsf(apart) > largest ? fabsf(apart) : largest;
        out[1] += (double)apart * apart;
        out[2] += (double)was[i] * was[i];
    }
    out[0] = largest;
}

/* The smallest and largest value of each group */
static void extremes(const float *x, size_t groups, size_t group, float *low, float *high) {
    for (size_t g = 0; g < groups; g++, x += group) {
        float l = x[0], h = x[0];
        size_t i = 0;
        if (group % 8 == 0) {
            f32x8 lows = load(x), highs = lows;
            for (; i < group; i += 8) {
                lows = least(load(x + i), lows);
                highs = most(load(x + i), highs);
            }
            l = -most_of(-lows);
            h = most_of(highs);
        }
        for (; i < group; i++) {
            l = x[i] < l ? x[i] : l;
            h = x[i] > h ? x[i] : h;
        }
        low[g] = l;
        high[g] = h;
    }
}

/* code = x / scale + zero, rounded half to even before the zero is added, cut to lowest .. highest.
   A group whose scale is 0 gets its zero. */
static void group_codes(const float *x, size_t groups, size_t group, const float *scales, const int8_t *zeros,
                        int lowest, int highest, int8_t *out) {
    for (size_t g = 0; g < groups; g++, x += group, out += group) {
        const int zero = zeros ? zeros[g] : 0;
        const float scale = scales[g] != 0 ? scales[g] : INFINITY, low = (float)(lowest - zero),
                    high = (float)(highest - zero);
        for (size_t i = 0; i < group; i++) {
            float q = x[i] / scale;
            q = q < low ? low : q > high ? high : q; /* clipping first changes nothing: low and high are whole */
            out[i] = (int8_t)(nearest(q) + zero);
        }
    }
}

/* value = (code - zero) * scale */
static void group_values(const int8_t *codes, size_t groups, size_t group, const float *scales, const int8_t *zeros,
                         float *out) {
    for (size_t g = 0; g < groups; g++, codes += group, out += group) {
        const float scale = scales[g];
        const int zero = zeros ? zeros[g] : 0;
        for (size_t i = 0; i < group; i++) out[i] = (float)(codes[i] - zero) * scale;
    }
}

/* Rows of groups times a vector, added up like the products of blocks; a group is a multiple of 32 */
static void multiply_groups(const int8_t *codes, size_t rows, size_t columns, size_t group, const float *scales,
                            const int8_t *zeros, const float *x, float *out) {
    for (size_t row = 0; row < rows; row++) {
        f32x8 sum[4] = {all(0), all(0), all(0), all(0)};
        for (size_t i = 0; i < columns; i += group, scales++) {
            const f32x8 scale = all(*scales), zero = all(zeros ? (float)*zeros++ : 0.0f);
            for (size_t l = i; l < i + group; l += 32, codes += 32)
                for (int k = 0; k < 4; k++)
                    sum[k] += (from_bytes(codes + 8 * k, 0) - zero) * scale * load(x + l + 8 * k);
        }
        out[row] = fold(sum);
    }
}

#endif
