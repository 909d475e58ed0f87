/* Blocks back to values, and times a vector. Every type first becomes signed codes with a scale and a minimum for each
   run of values: value = scale * (code - half) - minimum, rounded at the product and at the difference, as everywhere. */
#ifndef MODELKIT_DECODE_H
#define MODELKIT_DECODE_H

#include "floats.h"

struct run_of { /* up to 256 values; `each` says how many share a scale */
    int8_t code[256] __attribute__((aligned(64))); /* what is stored as 32 bytes is soon read by eights */
    float scale[16], minimum[16];
};

/* Eight codes at a time, as the bytes of a word */
INLINE uint64_t eight(const uint8_t *from) {
    uint64_t word;
    memcpy(&word, from, sizeof word);
    return word;
}
INLINE void put_eight(int8_t *to, uint64_t word) { memcpy(to, &word, sizeof word); }
#define EVERY(byte) ((byte) * 0x0101010101010101u)

INLINE void two_halves(const uint8_t *from, int8_t *code) { /* byte l: codes l and l + 16 */
    for (int k = 0; k < 2; k++) {
        put_eight(code + 8 * k, eight(from + 8 * k) & EVERY(15));
        put_eight(code + 8 * k + 16, eight(from + 8 * k) >> 4 & EVERY(15));
    }
}
INLINE void add_fifths(const uint8_t *from, int8_t *code) { /* bit l belongs to code l */
    for (int k = 0; k < 4; k++) {
        const uint64_t own_bit = EVERY((uint64_t)from[k]) & 0x8040201008040201u,
                       set = (own_bit + EVERY(127)) & EVERY(128);
        put_eight(code + 8 * k, eight((const uint8_t *)code + 8 * k) | set >> 3);
    }
}

INLINE void open_q8_0(const uint8_t *block, struct run_of *run) {
    memcpy(run->code, block + 2, 32);
    run->scale[0] = f16_at(block);
}
INLINE void open_q4_0(const uint8_t *block, struct run_of *run) {
    two_halves(block + 2, run->code);
    run->scale[0] = f16_at(block);
}
INLINE void open_q4_1(const uint8_t *block, struct run_of *run) {
    two_halves(block + 4, run->code);
    run->scale[0] = f16_at(block);
    run->minimum[0] = -f16_at(block + 2);
}
INLINE void open_q5_0(const uint8_t *block, struct run_of *run) {
    two_halves(block + 6, run->code);
    add_fifths(block + 2, run->code);
    run->scale[0] = f16_at(block);
}
INLINE void open_q5_1(const uint8_t *block, struct run_of *run) {
    two_halves(block + 8, run->code);
    add_fifths(block + 4, run->code);
    run->scale[0] = f16_at(block);
    run->minimum[0] = -f16_at(block + 2);
}

/* scale or minimum of eight or sixteen runs from bytes, `less` subtracted */
INLINE void spread(float *to, float d, uint64_t bytes, int less) {
    store(to, d * from_bytes((const int8_t *)&bytes, less));
}

/* 32 bytes at a time, as four words: a shift moves bits into the next byte, the mask takes them away */
INLINE u64x4 words(const void *from) {
    u64x4 w;
    memcpy(&w, from, sizeof w);
    return w;
}
INLINE void put_words(int8_t *to, u64x4 w) { memcpy(to, &w, sizeof w); }

INLINE u64x4 quarter_of(const uint8_t *from, int b) { /* values 32 b .. of 256: byte l of a half holds four of them */
    return words(from + 32 * (b / 4)) >> (2 * (b % 4)) & EVERY(3);
}
INLINE u64x4 bit_of(u64x4 bytes, int b, int place) { /* bit b of each byte, moved to `place` */
    return (b > place ? bytes >> (b - place) : bytes << (place - b)) & EVERY((uint64_t)1 << place);
}
INLINE void open_q2_k(const uint8_t *block, struct run_of *run) {
    const float d = f16_at(block + 80), dmin = f16_at(block + 82);
    for (int b = 0; b < 8; b++) put_words(run->code + 32 * b, quarter_of(block + 16, b));
    for (int s = 0; s < 16; s += 8) {
        spread(run->scale + s, d, eight(block + s) & EVERY(15), 0);
        spread(run->minimum + s, dmin, eight(block + s) >> 4 & EVERY(15), 0);
    }
}
INLINE void open_q3_k(const uint8_t *block, struct run_of *run) {
    const float d = f16_at(block + 108);
    const uint64_t low = eight(block + 96);
    uint32_t word;
    memcpy(&word, block + 104, sizeof word);
    const uint64_t top = word | (uint64_t)word << 32; /* two bits of scale s in byte s mod 4, at 2 (s / 4) */
    const uint64_t first = (top & 0x03030303u) | (top >> 2 & 0x0303030300000000u);
    const uint64_t second = (top >> 4 & 0x03030303u) | (top >> 6 & 0x0303030300000000u);
    const u64x4 third = words(block);
    for (int b = 0; b < 8; b++) put_words(run->code + 32 * b, quarter_of(block + 32, b) | bit_of(third, b, 2));
    spread(run->scale, d, (low & EVERY(15)) | first << 4, 32);
    spread(run->scale + 8, d, (low >> 4 & EVERY(15)) | second << 4, 32);
}
INLINE void open_q45_k(const uint8_t *block, struct run_of *run, int five) {
    const uint8_t *low = block + (five ? 48 : 16);
    uint32_t a, b, c;
    memcpy(&a, block + 4, sizeof a);
    memcpy(&b, block + 8, sizeof b);
    memcpy(&c, block + 12, sizeof c);
    const uint32_t scales = (c & 0x0f0f0f0f) | (a >> 6 & 0x03030303) << 4,
                   minimums = (c >> 4 & 0x0f0f0f0f) | (b >> 6 & 0x03030303) << 4;
    spread(run->scale, f16_at(block), (a & 0x3f3f3f3f) | (uint64_t)scales << 32, 0);
    spread(run->minimum, f16_at(block + 2), (b & 0x3f3f3f3f) | (uint64_t)minimums << 32, 0);
    const u64x4 high = five ? words(block + 16) : (u64x4){0};
    for (int b = 0; b < 8; b++)
        put_words(run->code + 32 * b, (words(low + 32 * (b / 2)) >> (4 * (b % 2)) & EVERY(15)) | bit_of(high, b, 4));
}
INLINE void open_q4_k(const uint8_t *block, struct run_of *run) { open_q45_k(block, run, 0); }
INLINE void open_q5_k(const uint8_t *block, struct run_of *run) { open_q45_k(block, run, 1); }
INLINE void open_q6_k(const uint8_t *block, struct run_of *run) {
    const float d = f16_at(block + 208);
    for (int half = 0; half < 2; half++)
        for (int quarter = 0; quarter < 4; quarter++) {
            const u64x4 low = words(block + 64 * half + 32 * (quarter & 1)) >> (quarter & 2 ? 4 : 0) & EVERY(15);
            const u64x4 high = words(block + 128 + 32 * half) >> (2 * quarter) & EVERY(3);
            put_words(run->code + 128 * half + 32 * quarter, low | high << 4);
        }
    spread(run->scale, d, eight(block + 192), 0);
    spread(run->scale + 8, d, eight(block + 200), 0);
}

/* The product adds up in 32 running sums, value i in sum i mod 32, one block after the other; then the upper half of the
   sums is added to the lower, and so on. Any build and machine gives the same bits, and numpy too. */
INLINE float fold(const f32x8 *sum) {
    const f32x8 eight = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    float s[8];
    memcpy(s, &eight, sizeof s);
    for (int width = 4; width; width /= 2)
        for (int k = 0; k < width; k++) s[k] += s[k + width];
    return s[0];
}

INLINE f32x8 eight_values(const struct run_of *run, size_t l, size_t each, int half, int lowered) {
    f32x8 value = run->scale[l / each] * from_bytes(run->code + l, half);
    return lowered ? value - run->minimum[l / each] : value;
}
#define DECODER(name, values, each, half, lowered, size)                                                         \
    static void decode_##name(const uint8_t *block, size_t count, float *out) {                                  \
        struct run_of run;                                                                                       \
        for (; count; count -= values, block += size, out += values) {                                           \
            open_##name(block, &run);                                                                            \
            for (size_t l = 0; l < values; l += 8) store(out + l, eight_values(&run, l, each, half, lowered));   \
        }                                                                                                        \
    }                                                                                                            \
    static void multiply_##name(const uint8_t *block, size_t rows, size_t columns, const float *x, float *out) { \
        struct run_of run;                                                                                       \
        for (size_t row = 0; row < rows; row++) {                                                                \
            f32x8 a = all(0), b = a, c = a, d = a;                                                               \
            for (size_t i = 0; i < columns; i += values, block += size) {                                        \
                open_##name(block, &run);                                                                        \
                for (size_t l = 0; l < values; l += 32) {                                                        \
                    a += eight_values(&run, l, each, half, lowered) * load(x + i + l);                           \
                    b += eight_values(&run, l + 8, each, half, lowered) * load(x + i + l + 8);                   \
                    c += eight_values(&run, l + 16, each, half, lowered) * load(x + i + l + 16);                 \
                    d += eight_values(&run, l + 24, each, half, lowered) * load(x + i + l + 24);                 \
                }                                                                                                \
            }                                                                                                    \
            out[row] = fold((f32x8[]){a, b, c, d});                                                              \
        }                                                                                                        \
    }
DECODER(q8_0, 32, 32, 0, 0, 34)
DECODER(q4_0, 32, 32, 8, 0, 18)
DECODER(q4_1, 32, 32, 0, 1, 20)
DECODER(q5_0, 32, 32, 16, 0, 22)
DECODER(q5_1, 32, 32, 0, 1, 24)
DECODER(q2_k, 256, 16, 0, 1, 84)
DECODER(q3_k, 256, 16, 4, 0, 110)
DECODER(q4_k, 256, 32, 0, 1, 144)
DECODER(q5_k, 256, 32, 0, 1, 176)
DECODER(q6_k, 256, 16, 32, 0, 210)

#endif
