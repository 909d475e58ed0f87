/* Eight floats side by side, on the vector types of GCC and Clang.

   Arithmetic is written with operators. Only what has none, or what the compilers take apart lane by lane on machines
   whose vectors are shorter, is spelled out; the twins do the same to the bit. A comparison gives -1 or 0 in each
   lane, 0 for NaN; least and most return their second operand where either is NaN, as SSE does. */
#ifndef MODELKIT_LANES_H
#define MODELKIT_LANES_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "needs the vector extensions of GCC or Clang on a little-endian machine: numpy takes over without"
#endif
#if defined(BUILD_AVX2)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef uint64_t u64x4 __attribute__((vector_size(32)));
typedef int64_t i64x4 __attribute__((vector_size(32)));
typedef double f64x4 __attribute__((vector_size(32)));
typedef int8_t i8x8 __attribute__((vector_size(8)));
typedef uint8_t u8x8 __attribute__((vector_size(8)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

INLINE f32x8 all(float x) { return (f32x8){x, x, x, x, x, x, x, x}; }
INLINE i32x8 all_ints(int32_t x) { return (i32x8){x, x, x, x, x, x, x, x}; }
INLINE f32x8 load(const float *from) {
    f32x8 x;
    memcpy(&x, from, sizeof x);
    return x;
}
INLINE void store(float *to, f32x8 x) { memcpy(to, &x, sizeof x); }
INLINE f32x8 magnitude(f32x8 x) { return (f32x8)((i32x8)x & all_ints(0x7fffffff)); }
INLINE f32x8 floats(i32x8 x) { return __builtin_convertvector(x, f32x8); }
INLINE i32x8 cut(f32x8 x) { return __builtin_convertvector(x, i32x8); } /* towards zero; x within the range of int */

#if defined(BUILD_AVX2)
INLINE f32x8 least(f32x8 a, f32x8 b) { return (f32x8)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE f32x8 most(f32x8 a, f32x8 b) { return (f32x8)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE f32x8 choose(i32x8 mask, f32x8 a, f32x8 b) {
    return (f32x8)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
}
INLINE f32x8 root(f32x8 x) { return (f32x8)_mm256_sqrt_ps((__m256)x); }
INLINE i32x8 below(f32x8 a, f32x8 b) { return a < b; }
INLINE i32x8 equal(f32x8 a, f32x8 b) { return a == b; }
INLINE int any(i32x8 mask) { return _mm256_movemask_ps((__m256)mask) != 0; }
INLINE f32x8 from_bytes(const int8_t *from, int less) {
    return floats((i32x8)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)) - less);
}
#else
INLINE f32x8 choose(i32x8 mask, f32x8 a, f32x8 b) { return (f32x8)(((i32x8)a & mask) | ((i32x8)b & ~mask)); }
#define IN_HALVES(result, name, operation)                                            \
    INLINE result name(f32x8 a, f32x8 b) {                                            \
        f32x4 x[2], y[2];                                                             \
        result both;                                                                  \
        memcpy(x, &a, sizeof x), memcpy(y, &b, sizeof y);                             \
        for (int k = 0; k < 2; k++) memcpy((char *)&both + 16 * k, &(operation), 16); \
        return both;                                                                  \
    }
#define HALF(type, expression) (type[]){expression}[0]
IN_HALVES(i32x8, below, HALF(i32x4, x[k] < y[k]))
IN_HALVES(i32x8, equal, HALF(i32x4, x[k] == y[k]))
#if defined(__SSE2__)
#include <emmintrin.h>
IN_HALVES(f32x8, least, HALF(f32x4, (f32x4)_mm_min_ps((__m128)x[k], (__m128)y[k])))
IN_HALVES(f32x8, most, HALF(f32x4, (f32x4)_mm_max_ps((__m128)x[k], (__m128)y[k])))
IN_HALVES(f32x8, root_of_first, HALF(f32x4, (f32x4)_mm_sqrt_ps((__m128)x[k])))
INLINE f32x8 root(f32x8 x) { return root_of_first(x, x); }
#else
INLINE f32x8 least(f32x8 a, f32x8 b) { return choose(below(a, b), a, b); }
INLINE f32x8 most(f32x8 a, f32x8 b) { return choose(below(b, a), a, b); }
INLINE f32x8 root(f32x8 x) {
    for (int k = 0; k < 8; k++) x[k] = sqrtf(x[k]);
    return x;
}
#endif
INLINE int any(i32x8 mask) {
    uint64_t bits[4];
    memcpy(bits, &mask, sizeof bits);
    return (bits[0] | bits[1] | bits[2] | bits[3]) != 0;
}
INLINE f32x8 from_bytes(const int8_t *from, int less) {
    i8x8 bytes;
    memcpy(&bytes, from, sizeof bytes);
    return floats(__builtin_convertvector(bytes, i32x8) - less);
}
#endif

/* Rows become columns: lane k of row r goes to lane r of row k */
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
INLINE void transpose(f32x8 *row) {
    f32x8 two[8], four[8];
    for (int r = 0; r < 8; r += 2) {
        two[r] = PICK(row[r], row[r + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        two[r + 1] = PICK(row[r], row[r + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int r = 0; r < 8; r += 4)
        for (int k = 0; k < 2; k++) {
            four[r + 2 * k] = PICK(two[r + k], two[r + 2 + k], 0, 1, 8, 9, 4, 5, 12, 13);
            four[r + 2 * k + 1] = PICK(two[r + k], two[r + 2 + k], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int r = 0; r < 4; r++) {
        row[r] = PICK(four[r], four[r + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        row[r + 4] = PICK(four[r], four[r + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

INLINE float most_of(f32x8 x) { /* of the eight; none is NaN */
    float m[8];
    memcpy(m, &x, sizeof m);
    for (int k = 0; k < 4; k++) m[k] = m[k] > m[k + 4] ? m[k] : m[k + 4];
    for (int k = 0; k < 2; k++) m[k] = m[k] > m[k + 2] ? m[k] : m[k + 2];
    return m[0] > m[1] ? m[0] : m[1];
}

/* Adding 1.5 * 2^23 leaves the nearest integer, half to even, in the low bits of a float: ggml's nearest_int.
   Beyond 2^22, and for NaN, other bits are left; they decide bytes of ggml, so they are the same here. */
#define MAGIC 12582912.0f
#define EXACT 4194304.0f
INLINE int32_t nearest(float x) {
    float moved = x + MAGIC;
    int32_t bits;
    memcpy(&bits, &moved, sizeof bits);
    return (bits & 0x7fffff) - 0x400000;
}
INLINE i32x8 nearest_each(f32x8 x) { return ((i32x8)(x + MAGIC) & all_ints(0x7fffff)) - all_ints(0x400000); }
#if defined(BUILD_AVX2)
INLINE f32x8 nearest_small(f32x8 x) {
    return (f32x8)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
INLINE f32x8 nearest_small(f32x8 x) { return (x + MAGIC) - MAGIC; } /* the same as a float, below 2^22 */
#endif
INLINE f32x8 within(f32x8 x, float low, float high) { return least(most(x, all(low)), all(high)); }
INLINE int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

#endif
