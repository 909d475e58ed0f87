/* Integer codes of quantised layouts: in and out of words, words and nibbles turned from columns to rows, real values.
   Arithmetic is that of kernels/words.py, each value rounded once. */
#ifndef MODELKIT_WORDS_H
#define MODELKIT_WORDS_H

#include "lanes.h"

typedef uint32_t u32x8 __attribute__((vector_size(32)));
enum { WORD = 32 };

/* Eight dense codes fill `bits` bytes. Apart, each has a byte of its own: four of them go to each 32 bits, then two to
   each 16, then one to each 8. FIELDS is the mask of the low bits of every `wide` bits. */
#define FIELDS(bits, wide) ((((uint64_t)1 << (bits)) - 1) * (~(uint64_t)0 / (((uint64_t)1 << (wide)) - 1)))
INLINE uint64_t apart(uint64_t x, int bits) {
    x = (x & (((uint64_t)1 << 4 * bits) - 1)) | x >> 4 * bits << 32;
    x = (x & FIELDS(2 * bits, 32)) | (x << (16 - 2 * bits) & FIELDS(2 * bits, 32) << 16);
    return (x & FIELDS(bits, 16)) | (x << (8 - bits) & FIELDS(bits, 16) << 8);
}
INLINE uint64_t joined(uint64_t x, int bits) {
    x &= FIELDS(bits, 8);
    x = (x & FIELDS(bits, 16)) | (x >> (8 - bits) & FIELDS(bits, 16) << bits);
    x = (x & FIELDS(2 * bits, 32)) | (x >> (16 - 2 * bits) & FIELDS(2 * bits, 32) << 2 * bits);
    return (x & (((uint64_t)1 << 4 * bits) - 1)) | x >> 32 << 4 * bits;
}
INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* A row: `size` bytes hold `count` codes, and perhaps zeros behind them */
INLINE void unpack_row(const uint8_t *packed, size_t size, int bits, size_t count, uint8_t *codes) {
    size_t i = 0, at = 0;
    for (; i + 8 <= count && at + 8 <= size; i += 8, at += (size_t)bits) {
        uint64_t x;
        memcpy(&x, packed + at, 8);
        x = apart(x, bits);
        memcpy(codes + i, &x, 8);
    }
    for (; i < count; i += 8, at += (size_t)bits) {
        uint64_t x = 0;
        memcpy(&x, packed + at, smaller(size - at, (size_t)bits));
        x = apart(x, bits);
        memcpy(codes + i, &x, smaller(count - i, 8));
    }
}
INLINE void pack_row(const uint8_t *codes, size_t count, int bits, size_t size, uint8_t *packed) {
    size_t i = 0, at = 0;
    for (; i + 8 <= count && at + 8 <= size; i += 8, at += (size_t)bits) { /* what it writes too much comes next */
        uint64_t x;
        memcpy(&x, codes + i, 8);
        x = joined(x, bits);
        memcpy(packed + at, &x, 8);
    }
    for (; i < count; i += 8, at += (size_t)bits) {
        uint64_t x = 0;
        memcpy(&x, codes + i, smaller(count - i, 8));
        x = joined(x, bits);
        memcpy(packed + at, &x, smaller(size - at, (size_t)bits));
    }
    if (at < size) memset(packed + at, 0, size - at);
}

/* Rows without bytes hold no codes: nothing is to be done, however many there are.
   Four bits are what most models have: loops that compilers make vectors of */
static void unpack4(const uint8_t *packed, size_t pairs, uint8_t *out) {
    for (size_t i = 0; i < pairs; i++) {
        out[2 * i] = packed[i] & 15;
        out[2 * i + 1] = packed[i] >> 4;
    }
}
static void pack4(const uint8_t *codes, size_t pairs, uint8_t *out) {
    for (size_t i = 0; i < pairs; i++) out[i] = (uint8_t)((codes[2 * i] & 15) | codes[2 * i + 1] << 4);
}

static void unpack_bits(const uint8_t *packed, size_t rows, size_t size, int bits, size_t count, uint8_t *codes) {
    if (bits == 4 && count == 2 * size) {
        unpack4(packed, rows * size, codes);
        return;
    }
    for (size_t row = 0; size && row < rows; row++)
        unpack_row(packed + row * size, size, bits, count, codes + row * count);
}
static void pack_bits(const uint8_t *codes, size_t rows, size_t count, int bits, size_t size, uint8_t *packed) {
    if (bits == 4 && count == 2 * size) {
        pack4(codes, rows * size, packed);
        return;
    }
    for (size_t row = 0; size && row < rows; row++)
        pack_row(codes + row * count, count, bits, size, packed + row * size);
}

/* As compressed-tensors packed until May 2026: no code crosses a word, bits are left at its top */
static void unpack_padded(const uint32_t *words, size_t rows, size_t wide, int bits, size_t count, uint8_t *codes) {
    const size_t each = (size_t)(WORD / bits);
    for (size_t row = 0; wide && row < rows; row++, words += wide, codes += count)
        for (size_t i = 0; i < count; i += each) {
            uint32_t word = words[i / each];
            for (size_t k = i; k < smaller(i + each, count); k++, word >>= bits)
                codes[k] = (uint8_t)(word & ((1u << bits) - 1));
        }
}

/* out[column][row] = in[row][column]; both lie in wider matrices, `stride` and `high` words a row. Sixteen columns at a
   time: whole lines of the cache on the side that is read with the longer step. */
static void turn_words(const uint32_t *in, size_t stride, size_t rows, size_t columns, uint32_t *out, size_t high) {
    for (size_t column = 0; column < columns; column += 16)
        for (size_t row = 0; row < rows; row += 8)
            for (size_t c = column; c < smaller(column + 16, columns); c += 8) {
                const uint32_t *from = in + row * stride + c;
                uint32_t *to = out + c * high + row;
                if (rows - row >= 8 && columns - c >= 8) {
                    f32x8 tile[8];
                    for (size_t k = 0; k < 8; k++) memcpy(tile + k, from + k * stride, sizeof *tile);
                    transpose(tile);
                    for (size_t k = 0; k < 8; k++) memcpy(to + k * high, tile + k, sizeof *tile);
                } else {
                    for (size_t k = 0; k < smaller(8, columns - c); k++)
                        for (size_t l = 0; l < smaller(8, rows - row); l++) to[k * high + l] = from[l * stride + k];
                }
            }
}

/* Nibble k of word c goes to nibble c of word k, in each of eight lanes */
INLINE void exchange(u32x8 *one, u32x8 *other, int shift, uint32_t low) {
    const u32x8 moved = ((*one >> shift) ^ *other) & low;
    *other ^= moved;
    *one ^= moved << shift;
}
INLINE void turn_nibbles(u32x8 *word) {
    for (int k = 0; k < 8; k += 2) exchange(word + k, word + k + 1, 4, 0x0f0f0f0f);
    for (int k = 0; k < 8; k += 4)
        for (int l = k; l < k + 2; l++) exchange(word + l, word + l + 2, 8, 0x00ff00ff);
    for (int k = 0; k < 4; k++) exchange(word + k, word + k + 4, 16, 0x0000ffff);
}

/* AWQ's words [n][count], eight rows of a column in each, nibble k of row ORDER[k], and dense ones: [n / 8][8 count],
   eight columns of a row in each. `stride`: words between the columns of AWQ. */
static const uint8_t ORDER[8] = {0, 2, 4, 6, 1, 3, 5, 7};
static void from_awq(const uint32_t *awq, size_t stride, size_t n, size_t count, uint32_t *dense) {
    for (size_t i = 0; i < n; i += 8, awq += 8 * stride, dense += 8 * count)
        for (size_t b = 0; b < count; b += 8) {
            const size_t high = smaller(n - i, 8), wide = smaller(count - b, 8);
            u32x8 word[8] = {{0}};
            f32x8 row[8];
            if (high == 8 && wide == 8)
                for (size_t c = 0; c < 8; c++) memcpy(word + c, awq + c * stride + b, sizeof *word);
            else
                for (size_t c = 0; c < high; c++) memcpy(word + c, awq + c * stride + b, 4 * wide);
            turn_nibbles(word);
            for (int k = 0; k < 8; k++) row[ORDER[k]] = (f32x8)word[k];
            transpose(row);
            memcpy(dense + 8 * b, row, 32 * wide);
        }
}
static void to_awq(const uint32_t *dense, size_t n, size_t count, uint32_t *awq, size_t stride) {
    for (size_t i = 0; i < n; i += 8, awq += 8 * stride, dense += 8 * count)
        for (size_t b = 0; b < count; b += 8) {
            const size_t high = smaller(n - i, 8), wide = smaller(count - b, 8);
            u32x8 word[8];
            f32x8 row[8] = {{0}};
            memcpy(row, dense + 8 * b, 32 * wide);
            transpose(row);
            for (int k = 0; k < 8; k++) word[k] = (u32x8)row[ORDER[k]];
            turn_nibbles(word);
            if (high == 8 && wide == 8)
                for (size_t c = 0; c < 8; c++) memcpy(awq + c * stride + b, word + c, sizeof *word);
            else
                for (size_t c = 0; c < high; c++) memcpy(awq + c * stride + b, word + c, 4 * wide);
        }
}

INLINE f32x8 eight_codes(const uint8_t *from) {
#if defined(BUILD_AVX2)
    return floats((i32x8)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    u8x8 bytes;
    memcpy(&bytes, from, sizeof bytes);
    return floats(__builtin_convertvector(bytes, i32x8));
#endif
}
static void products_of_codes(const uint8_t *codes, size_t count, float scale, float zero, float *out) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) store(out + i, (eight_codes(codes + i) - zero) * scale);
    for (; i < count; i++) out[i] = ((float)codes[i] - zero) * scale;
}
static void sums_of_codes(const uint8_t *codes, size_t count, double scale, double bias, float *out) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        f32x4 half[2];
        const f32x8 whole = eight_codes(codes + i);
        memcpy(half, &whole, sizeof whole);
        for (int k = 0; k < 2; k++)
            half[k] = __builtin_convertvector(__builtin_convertvector(half[k], f64x4) * scale + bias, f32x4);
        memcpy(out + i, half, sizeof half);
    }
    for (; i < count; i++) out[i] = (float)((double)codes[i] * scale + bias);
}

/* (code - zero) * scale, or code * scale + bias in float64, rounded once to float32. The last group of a row may be
   short; without zeros every one is `middle`. */
static void code_values(const uint8_t *codes, size_t rows, size_t columns, size_t group, int middle, const float *scales,
                        const int16_t *zeros, const float *biases, float *out) {
    for (size_t row = 0; row < rows; row++)
        for (size_t first = 0; first < columns; first += group, scales++) {
            const size_t count = smaller(group, columns - first);
            if (biases) sums_of_codes(codes, count, *scales, *biases++, out);
            else products_of_codes(codes, count, *scales, (float)(zeros ? *zeros++ : middle), out);
            codes += count;
            out += count;
        }
}

#endif
