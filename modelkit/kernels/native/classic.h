/* Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 without importance: one pass over each 32 values. Byte tables: encodings/q8_0.py ...

   1/d comes from d before it is rounded to f16. Where d is so small that 1/d overflows the C original converts
   infinities to int, which is undefined; `steady` gives what its x86-64 build gives. */
#ifndef MODELKIT_CLASSIC_H
#define MODELKIT_CLASSIC_H

#include "floats.h"

INLINE float steady_inverse(float d) {
    float inverse = 1.0f / d;
    return fabsf(inverse) <= 3.4028234664e38f ? inverse : 0.0f;
}

/* 32 ints below 256 -> bytes, in order */
INLINE void to_bytes(const i32x8 *codes, uint8_t *bytes) {
#if defined(BUILD_AVX2)
    __m256i low = _mm256_packus_epi32((__m256i)codes[0], (__m256i)codes[1]);
    __m256i high = _mm256_packus_epi32((__m256i)codes[2], (__m256i)codes[3]);
    __m256i mixed = _mm256_packus_epi16(low, high); /* packs work in halves of 128 bits: put them in order */
    mixed = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    memcpy(bytes, &mixed, sizeof mixed);
#else
    int32_t flat[32];
    memcpy(flat, codes, sizeof flat);
    for (int l = 0; l < 32; l++) bytes[l] = (uint8_t)flat[l];
#endif
}

/* codes l and l + 16 share byte l */
INLINE void put_halves(uint8_t *to, const uint8_t *codes) {
    uint64_t eight[4];
    memcpy(eight, codes, sizeof eight);
    for (int k = 0; k < 2; k++) eight[k] = (eight[k] & 0x0f0f0f0f0f0f0f0fu) | (eight[k + 2] & 0x0f0f0f0f0f0f0f0fu) << 4;
    memcpy(to, eight, 16);
}

/* bit l of four bytes = the fifth bit of code l */
INLINE void put_fifths(uint8_t *to, const uint8_t *codes) {
    for (int k = 0; k < 4; k++) {
        uint64_t eight;
        memcpy(&eight, codes + 8 * k, sizeof eight);
        to[k] = (uint8_t)((eight >> 4 & 0x0101010101010101u) * 0x0102040810204080u >> 56);
    }
}

static void encode_q8_0(const float *x, size_t count, const float *importance, size_t columns, uint8_t *out) {
    (void)importance, (void)columns;
    for (; count; count -= 32, x += 32, out += 34) {
        f32x8 value[4];
        i32x8 codes[4];
        for (int k = 0; k < 4; k++) value[k] = load(x + 8 * k);
        f32x8 size =
            most(most(magnitude(value[0]), magnitude(value[1])), most(magnitude(value[2]), magnitude(value[3])));
        float d = most_of(size) / 127, inverse = steady_inverse(d);
        put_f16(out, d);
        for (int k = 0; k < 4; k++) { /* half away from zero: add almost a half with the value's sign, then cut */
            f32x8 scaled = value[k] * inverse;
            i32x8 half = ((i32x8)scaled & all_ints(INT32_MIN)) | (i32x8)all(0x1.fffffep-2f);
            codes[k] = cut(scaled + (f32x8)half) & 255;
        }
        to_bytes(codes, out + 2);
    }
}

/* Q4_0 and Q5_0: d from the value of largest magnitude, the first of equals, which becomes code 0 */
INLINE void encode_signed(const float *x, size_t count, uint8_t *out, int half, int size_of_block) {
    for (; count; count -= 32, x += 32, out += size_of_block) {
        f32x8 value[4];
        i32x8 codes[4];
        uint8_t bytes[32];
        for (int k = 0; k < 4; k++) value[k] = load(x + 8 * k);
        float high = most_of(most(most(value[0], value[1]), most(value[2], value[3])));
        float low = -most_of(most(most(-value[0], -value[1]), most(-value[2], -value[3])));
        float largest = high > -low ? high : low;
        if (high == -low) { /* +a and -a: which comes first? */
            largest = 0;
            for (int l = 31; l >= 0; l--) largest = fabsf(x[l]) == high && high > 0 ? x[l] : largest;
        }
        float d = largest / (float)-half, inverse = steady_inverse(d);
        const int lost = inverse == 0 && d != 0;
        put_f16(out, d);
        for (int k = 0; k < 4; k++) {
            i32x8 code = cut(least(value[k] * inverse + ((float)half + 0.5f), all((float)(2 * half - 1))));
            codes[k] = lost ? all_ints(0) : code;
        }
        to_bytes(codes, bytes);
        if (half == 16) put_fifths(out + 2, bytes);
        put_halves(out + (half == 16 ? 6 : 2), bytes);
    }
}
static void plain_q4_0(const float *x, size_t count, uint8_t *out) { encode_signed(x, count, out, 8, 18); }
static void plain_q5_0(const float *x, size_t count, uint8_t *out) { encode_signed(x, count, out, 16, 22); }

/* Q4_1 and Q5_1: d and m from the range */
INLINE void encode_range(const float *x, size_t count, uint8_t *out, int top, int size_of_block) {
    for (; count; count -= 32, x += 32, out += size_of_block) {
        f32x8 value[4];
        i32x8 codes[4];
        uint8_t bytes[32];
        for (int k = 0; k < 4; k++) value[k] = load(x + 8 * k);
        float high = most_of(most(most(value[0], value[1]), most(value[2], value[3])));
        float low = -most_of(most(most(-value[0], -value[1]), most(-value[2], -value[3])));
        if (low == 0) /* of 0 and -0 the one that comes first */
            for (int l = 31; l >= 0; l--) low = x[l] == 0 ? x[l] : low;
        float d = (high - low + 0.0f) / (float)top, inverse = steady_inverse(d);
        put_f16(out, d);
        put_f16(out + 2, low);
        for (int k = 0; k < 4; k++) {
            f32x8 scaled = (value[k] - low) * inverse + 0.5f;
            codes[k] = cut(top == 15 ? least(scaled, all(15)) : scaled); /* ggml does not clamp Q5_1 */
        }
        to_bytes(codes, bytes);
        if (top == 31) put_fifths(out + 4, bytes);
        put_halves(out + (top == 31 ? 8 : 4), bytes);
    }
}
static void plain_q4_1(const float *x, size_t count, uint8_t *out) { encode_range(x, count, out, 15, 20); }
static void plain_q5_1(const float *x, size_t count, uint8_t *out) { encode_range(x, count, out, 31, 24); }

#endif
