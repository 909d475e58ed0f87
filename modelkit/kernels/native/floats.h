/* Small floats: f16, bf16, f8_e4m3 (the `fn` variant), f8_e5m2. Rounded to nearest even.

   One rule for all but bf16: a small float is sign, E bits of exponent, M bits of mantissa.
   Wider:    its magnitude bits moved to the place of an f32's, times 2^(127 - bias): exact, subnormals too.
   Narrower: normal results by adding half a unit minus one plus the last kept bit; subnormal ones by adding a
             number whose own unit is the smallest subnormal, so that the processor rounds there. */
#ifndef MODELKIT_FLOATS_H
#define MODELKIT_FLOATS_H

#include "lanes.h"

INLINE uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
INLINE float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
INLINE uint16_t read16(const void *from) {
    uint16_t u;
    memcpy(&u, from, sizeof u);
    return u;
}
INLINE void write16(void *to, uint16_t u) { memcpy(to, &u, sizeof u); }

INLINE float widen_bits(uint32_t small, int exponent, int mantissa, uint32_t infinity, uint32_t canonical_nan) {
    const int total = exponent + mantissa, bias = (1 << (exponent - 1)) - 1;
    const uint32_t size = small & ((1u << total) - 1);
    uint32_t wide = bits_of(float_of(size << (23 - mantissa)) * float_of((uint32_t)(254 - bias) << 23));
    wide |= size >= infinity ? 0x7f800000u : 0;
    wide = size >= canonical_nan ? 0x7fc00000u : wide;
    return float_of(wide | (small >> total) << 31);
}

/* From `first_too_large` on, the bits of an f32, a value becomes `infinity`; a NaN becomes `nan`. */
INLINE uint32_t narrow_bits(float x, int exponent, int mantissa, uint32_t first_too_large, uint32_t infinity,
                            uint32_t nan) {
    const int bias = (1 << (exponent - 1)) - 1, drop = 23 - mantissa;
    const uint32_t u = bits_of(x), size = u & 0x7fffffff;
    const uint32_t smallest_normal = (uint32_t)(128 - bias) << 23, unit = (uint32_t)(151 - bias - mantissa) << 23;
    const uint32_t rounded = size - ((uint32_t)(127 - bias) << 23) + (1u << (drop - 1)) - 1 + ((size >> drop) & 1);
    uint32_t code = size < smallest_normal ? bits_of(float_of(size) + float_of(unit)) - unit : rounded >> drop;
    code = size >= first_too_large ? infinity : code;
    code = size > 0x7f800000 ? nan : code;
    return code | (u >> 31) << (exponent + mantissa);
}

/* numpy keeps of a NaN what fits into an f16; ml_dtypes makes every NaN the same one. So does this. */
INLINE uint32_t nan_of_f16(float x) {
    uint32_t kept = bits_of(x) >> 13 & 0x3ff;
    return 0x7c00 | (kept ? kept : 1);
}

INLINE float from_f16(uint16_t h) { return widen_bits(h, 5, 10, 0x7c00, ~0u); }
INLINE float from_f8_e5m2(uint8_t h) { return widen_bits(h, 5, 2, 0x7c, 0x7d); }
INLINE float from_f8_e4m3(uint8_t h) { return widen_bits(h, 4, 3, 0x7f, 0x7f); }
INLINE float from_bf16(uint16_t h) { return float_of((uint32_t)h << 16); }

INLINE uint16_t to_f16(float x) { return (uint16_t)narrow_bits(x, 5, 10, 0x477ff000, 0x7c00, nan_of_f16(x)); }
INLINE uint8_t to_f8_e5m2(float x) { return (uint8_t)narrow_bits(x, 5, 2, 0x47700000, 0x7c, 0x7e); }
INLINE uint8_t to_f8_e4m3(float x) { return (uint8_t)narrow_bits(x, 4, 3, 0x43e80001, 0x7f, 0x7f); }
INLINE uint16_t to_bf16(float x) {
    const uint32_t u = bits_of(x), rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? (u >> 31) << 15 | 0x7fc0 : rounded);
}

/* A single one: weights are small, so the scales of many blocks are subnormal. Multiplied as the subnormal f32 that
   `widen_bits` makes of it, each would take the processor a hundred times as long; whole numbers do not. */
INLINE float f16_at(const uint8_t *from) {
    const uint16_t h = read16(from);
    const float size = (float)(h & 0x3ff) * 0x1p-24f;
    return h & 0x7c00 ? from_f16(h) : h >> 15 ? -size : size;
}
INLINE void put_f16(uint8_t *to, float x) { write16(to, to_f16(x)); }

#endif
