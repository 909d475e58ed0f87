/* The K-types, and the classic types with importance: search scales, round them, find the codes anew.

   Byte tables: encodings/q2_k.py ... q6_k.py. Weights follow from the values alone (plain) or from the importance of
   the matrix' columns; `columns` is the length of its rows. */
#ifndef MODELKIT_ENCODE_H
#define MODELKIT_ENCODE_H

#include "classic.h"
#include "search.h"

enum { SUPER = 256 };
static const struct trial WEIGHTED_2 = {3, -0.9f, 0.05f, 36}, WEIGHTED_4 = {15, -0.9f, 0.05f, 36},
                          WEIGHTED_5 = {31, -0.9f, 0.05f, 36};

/* importance * sqrt(factor * mean square of the super-block + x^2) */
static NOINLINE void weigh_super(const float *x, const float *importance, float factor, float *w) {
    float squares = 0;
    for (int i = 0; i < SUPER; i++) squares += x[i] * x[i];
    const float spread = factor * squares / SUPER;
    for (int i = 0; i < SUPER; i += 8) store(w + i, load(importance + i) * root(spread + load(x + i) * load(x + i)));
}

/* Sums of the weights of each sub-block of `n` values, in order */
INLINE void sum_weights(const column *w, int n, float *sums) {
    column sum;
    EACH
        sum[h] = all(0);
    for (int l = 0; l < n; l++)
        EACH
            sum[h] += w[l][h];
    EACH
        store(sums + 8 * h, sum[h]);
}

/* The codes that rounded scales ask for; where a scale became 0, those of the search */
INLINE void line_codes(const float *x, int n, float scale, float minimum, const struct line *fit, int s, int top,
                       uint8_t *codes) {
    if (scale != 0)
        for (int l = 0; l < n; l++) codes[l] = (uint8_t)clamp(nearest((x[l] + minimum) / scale), 0, top);
    else
        for (int l = 0; l < n; l++)
            codes[l] =
                (uint8_t)(fit->inverse[s] == 0 ? 0 : clamp(nearest(fit->inverse[s] * (x[l] - fit->origin[s])), 0, top));
}
/* Eight codes of Q3_K or Q6_K, none beyond 2^22: cut and moved to 0 .. 2 half - 1. n is a multiple of 8. */
INLINE void put_signed(i32x8 code, int half, uint8_t *to) {
    const i32x8 whole = cut(within(floats(code), -(float)half, (float)(half - 1))) + half;
    const u8x8 bytes = __builtin_convertvector(whole, u8x8);
    memcpy(to, &bytes, sizeof bytes);
}
INLINE void signed_codes(const float *x, int n, float inverse, int half, uint8_t *codes) { /* those of the search */
    if (inverse == 0) memset(codes, 0, (size_t)n);
    else
        for (int l = 0; l < n; l += 8) put_signed(nearest_each(inverse * load(x + l)), half, codes + l);
}
INLINE void scaled_codes(const float *x, int n, float scale, int half, uint8_t *codes) {
    for (int l = 0; l < n; l += 8) put_signed(nearest_each(load(x + l) / scale), half, codes + l);
}

/* Codes 0 .. top of the scales or minimums of a super-block, and their unit */
INLINE float units(const float *values, int n, int top, uint8_t *codes) {
    float highest = 0;
    for (int i = 0; i < n; i++) highest = values[i] > highest ? values[i] : highest;
    const float inverse = highest > 0 ? (float)top / highest : 0;
    for (int i = 0; i < n; i++) codes[i] = (uint8_t)nearest(inverse * values[i]); /* a negative one wraps to a byte */
    return highest / (float)top;
}

/* 2-bit codes: byte l of each half holds values l, l + 32, l + 64, l + 96 */
INLINE void put_quarters(uint8_t *to, const uint8_t *codes) {
    for (int half = 0; half < 2; half++, to += 32, codes += 128)
        for (int l = 0; l < 32; l++)
            to[l] = (uint8_t)((codes[l] & 3) | (codes[l + 32] & 3) << 2 | (codes[l + 64] & 3) << 4 |
                              (codes[l + 96] & 3) << 6);
}

/* Q4_K and Q5_K, one super-block: scales, minimums and codes from the fit of its eight sub-blocks, `first` .. */
static NOINLINE void put_q45_k(const float *x, const struct line *fit, int first, const float *sums, int top,
                               uint8_t *out) {
    uint8_t scales[8], minimums[8], codes[SUPER];
    float d, dmin;
    if (sums) {
        d = positive_scale(fit->scale + first, sums, 8, 63, scales);
        dmin = positive_scale(fit->minimum + first, sums, 8, 63, minimums);
    } else {
        d = units(fit->scale + first, 8, 63, scales);
        dmin = units(fit->minimum + first, 8, 63, minimums);
        for (int j = 0; j < 8; j++) {
            scales[j] = scales[j] < 63 ? scales[j] : 63;
            minimums[j] = minimums[j] < 63 ? minimums[j] : 63;
        }
    }
    put_f16(out, d);
    put_f16(out + 2, dmin);
    for (int j = 0; j < 4; j++) {
        out[4 + j] = (uint8_t)(scales[j] | (scales[j + 4] >> 4) << 6);
        out[8 + j] = (uint8_t)(minimums[j] | (minimums[j + 4] >> 4) << 6);
        out[12 + j] = (uint8_t)((scales[j + 4] & 15) | (minimums[j + 4] & 15) << 4);
    }
    d = f16_at(out);
    dmin = f16_at(out + 2);
    for (int j = 0; j < 8; j++)
        line_codes(x + 32 * j, 32, d * scales[j], dmin * minimums[j], fit, first + j, top, codes + 32 * j);
    uint8_t *high = out + 16, *low = top == 31 ? out + 48 : out + 16;
    if (top == 31)
        for (int l = 0; l < 32; l++) {
            unsigned bits = 0;
            for (int j = 0; j < 8; j++) bits |= (unsigned)(codes[32 * j + l] >> 4) << j;
            high[l] = (uint8_t)bits;
        }
    for (int j = 0; j < 4; j++)
        for (int l = 0; l < 32; l++)
            low[32 * j + l] = (uint8_t)((codes[64 * j + l] & 15) | codes[64 * j + 32 + l] << 4);
}

INLINE void encode_q45_k(const float *values, size_t count, const float *importance, size_t columns, uint8_t *out,
                         int top) {
    const size_t size = top == 31 ? 176 : 144;
    const struct trial plain = top == 31 ? (struct trial){31, -0.5f, 0.1f, 15} : (struct trial){15, -1.0f, 0.1f, 20};
    for (size_t i = 0; i < count; i += 2 * SUPER) { /* two super-blocks are sixteen sub-blocks of 32 */
        const int blocks = count - i < 2 * SUPER ? 1 : 2;
        float run[2 * SUPER] = {0}, weights[2 * SUPER] = {0}, sums[TOGETHER];
        column x[32], w[32];
        struct line fit;
        memcpy(run, values + i, sizeof(float) * SUPER * (size_t)blocks);
        turn(run, 32, x);
        if (importance) {
            for (int b = 0; b < blocks; b++)
                weigh_super(run + SUPER * b, importance + (i + SUPER * (size_t)b) % columns, 2, weights + SUPER * b);
            turn(weights, 32, w);
            sum_weights(w, 32, sums);
        } else { /* root mean square of the sub-block, plus |x| */
            column squares;
            EACH
                squares[h] = all(0);
            for (int l = 0; l < 32; l++)
                EACH
                    squares[h] += x[l][h] * x[l][h];
            EACH
                squares[h] = root(squares[h] / 32);
            for (int l = 0; l < 32; l++)
                EACH
                    w[l][h] = squares[h] + magnitude(x[l][h]);
        }
        line_of_32(x, w, importance ? (top == 31 ? WEIGHTED_5 : WEIGHTED_4) : plain, &fit);
        for (int b = 0; b < blocks; b++, out += size)
            put_q45_k(run + SUPER * b, &fit, 8 * b, importance ? sums + 8 * b : NULL, top, out);
    }
}
static void encode_q4_k(const float *x, size_t n, const float *importance, size_t columns, uint8_t *out) {
    encode_q45_k(x, n, importance, columns, out, 15);
}
static void encode_q5_k(const float *x, size_t n, const float *importance, size_t columns, uint8_t *out) {
    encode_q45_k(x, n, importance, columns, out, 31);
}

static void encode_q2_k(const float *values, size_t count, const float *importance, size_t columns, uint8_t *out) {
    for (size_t i = 0; i < count; i += SUPER, values += SUPER, out += 84) {
        float weights[SUPER], sums[TOGETHER], d, dmin;
        uint8_t scales[TOGETHER], minimums[TOGETHER], codes[SUPER];
        column x[16], w[16];
        struct line fit;
        turn(values, 16, x);
        if (importance) {
            weigh_super(values, importance + i % columns, 1, weights);
            turn(weights, 16, w);
            sum_weights(w, 16, sums);
            line_of_16(x, w, WEIGHTED_2, &fit);
            d = positive_scale(fit.scale, sums, TOGETHER, 15, scales);
            dmin = positive_scale(fit.minimum, sums, TOGETHER, 15, minimums);
        } else {
            for (int l = 0; l < 16; l++)
                EACH
                    w[l][h] = magnitude(x[l][h]);
            absolute_line_of_16(x, w, (struct trial){3, -0.5f, 0.1f, 15}, &fit);
            d = units(fit.scale, TOGETHER, 15, scales);
            dmin = units(fit.minimum, TOGETHER, 15, minimums);
        }
        for (int s = 0; s < TOGETHER; s++) out[s] = (uint8_t)(scales[s] | minimums[s] << 4);
        put_f16(out + 80, d);
        put_f16(out + 82, dmin);
        d = f16_at(out + 80);
        dmin = f16_at(out + 82);
        for (int s = 0; s < TOGETHER; s++)
            line_codes(values + 16 * s, 16, d * (float)(out[s] & 15), dmin * (float)(out[s] >> 4), &fit, s, 3,
                       codes + 16 * s);
        put_quarters(out + 16, codes);
    }
}

static void encode_q3_k(const float *values, size_t count, const float *importance, size_t columns, uint8_t *out) {
    for (size_t i = 0; i < count; i += SUPER, values += SUPER, out += 110) {
        float scale[TOGETHER], d = 0;
        uint8_t scales[TOGETHER] = {0}, codes[SUPER];
        column x[16];
        turn(values, 16, x);
        if (importance) {
            float weights[SUPER], sums[TOGETHER];
            column w[16], of_scales[16] = {{{0}}}, of_sums[16] = {{{0}}};
            struct signed_fit fit, unit;
            weigh_super(values, importance + i % columns, 2, weights);
            turn(weights, 16, w);
            sum_weights(w, 16, sums);
            signed_of_16(x, w, 4, &fit);
            for (int s = 0; s < TOGETHER; s++) {
                signed_codes(values + 16 * s, 16, fit.inverse[s], 4, codes + 16 * s);
                of_scales[s][0][0] = fit.scale[s]; /* one lane of another search: the scale of the scales */
                of_sums[s][0][0] = sums[s];
            }
            signed_of_16(of_scales, of_sums, 32, &unit);
            signed_codes(fit.scale, TOGETHER, unit.inverse[0], 32, scales);
            d = unit.scale[0];
        } else {
            int8_t searched[16][TOGETHER];
            float largest = 0, size = 0;
            refined_scale(x, 16, 4, scale, searched);
            for (int s = 0; s < TOGETHER; s++) {
                for (int l = 0; l < 16; l++) codes[16 * s + l] = (uint8_t)searched[l][s];
                largest = fabsf(scale[s]) > size ? scale[s] : largest;
                size = fabsf(scale[s]) > size ? fabsf(scale[s]) : size;
            }
            if (largest != 0) {
                const float inverse = -32.0f / largest;
                for (int s = 0; s < TOGETHER; s++)
                    scales[s] = (uint8_t)(clamp(nearest(inverse * scale[s]), -32, 31) + 32);
                d = 1 / inverse;
            }
        }
        put_f16(out + 108, d);
        d = f16_at(out + 108);
        for (int s = 0; s < TOGETHER; s++) {
            const float rounded = d * (float)(scales[s] - 32);
            if (rounded != 0) scaled_codes(values + 16 * s, 16, rounded, 4, codes + 16 * s);
        }
        for (int l = 0; l < 32; l++) {
            unsigned bits = 0;
            for (int b = 0; b < 8; b++) bits |= (unsigned)(codes[32 * b + l] >> 2) << b;
            out[l] = (uint8_t)bits;
        }
        put_quarters(out + 32, codes);
        for (int s = 0; s < 8; s++) out[96 + s] = (uint8_t)((scales[s] & 15) | (scales[s + 8] & 15) << 4);
        for (int s = 0; s < 4; s++)
            out[104 + s] = (uint8_t)(scales[s] >> 4 | (scales[s + 4] >> 4) << 2 | (scales[s + 8] >> 4) << 4 |
                                     (scales[s + 12] >> 4) << 6);
    }
}

static void encode_q6_k(const float *values, size_t count, const float *importance, size_t columns, uint8_t *out) {
    for (size_t i = 0; i < count; i += SUPER, values += SUPER, out += 210) {
        uint8_t codes[SUPER];
        int8_t *scales = (int8_t *)out + 192;
        float largest = 0, size = 0;
        column x[16], w[16];
        struct signed_fit fit;
        turn(values, 16, x);
        if (importance) turn(importance + i % columns, 16, w);
        else
            for (int l = 0; l < 16; l++)
                EACH
                    w[l][h] = x[l][h] * x[l][h];
        signed_of_16(x, w, 32, &fit);
        for (int s = 0; s < TOGETHER; s++) {
            largest = fabsf(fit.scale[s]) > size ? fit.scale[s] : largest;
            size = fabsf(fit.scale[s]) > size ? fabsf(fit.scale[s]) : size;
        }
        memset(out, 0, 210);
        if (size < TINY) continue;
        const float inverse = -128.0f / largest;
        put_f16(out + 208, 1 / inverse);
        const float d = f16_at(out + 208);
        for (int s = 0; s < TOGETHER; s++) {
            const int code = nearest(inverse * fit.scale[s]);
            scales[s] = (int8_t)(code < 127 ? code : 127);
            const float rounded = d * (float)scales[s];
            if (rounded != 0) scaled_codes(values + 16 * s, 16, rounded, 32, codes + 16 * s);
            else signed_codes(values + 16 * s, 16, fit.inverse[s], 32, codes + 16 * s);
        }
        const uint8_t *code = codes;
        for (uint8_t *low = out, *high = out + 128; low < out + 128; low += 64, high += 32, code += 128)
            for (int l = 0; l < 32; l++) {
                low[l] = (uint8_t)((code[l] & 15) | code[l + 64] << 4);
                low[l + 32] = (uint8_t)((code[l + 32] & 15) | code[l + 96] << 4);
                high[l] = (uint8_t)(code[l] >> 4 | (code[l + 32] >> 4) << 2 | (code[l + 64] >> 4) << 4 |
                                    (code[l + 96] >> 4) << 6);
            }
    }
}

/* The classic types with importance: sixteen blocks of a row at a time. The spread is that of the whole row. */
static NOINLINE void encode_weighted(const float *values, size_t count, const float *importance, size_t columns,
                                     uint8_t *out, int half, int top, size_t size) {
    for (size_t row = 0; row < count; row += columns, values += columns) {
        float squares = 0;
        for (size_t i = 0; i < columns; i++) squares += values[i] * values[i];
        const float spread = squares / (float)columns;
        for (size_t i = 0; i < columns; i += 32 * TOGETHER) {
            const size_t rest = columns - i < 32 * TOGETHER ? columns - i : 32 * TOGETHER;
            float run[32 * TOGETHER] = {0}, weights[32 * TOGETHER] = {0};
            column x[32], w[32];
            struct line fit;
            struct signed_fit through_zero;
            memcpy(run, values + i, sizeof(float) * rest);
            for (size_t l = 0; l < rest; l += 8)
                store(weights + l, load(importance + i + l) * root(spread + load(run + l) * load(run + l)));
            turn(run, 32, x);
            turn(weights, 32, w);
            if (half) signed_of_32(x, w, half, &through_zero);
            else line_of_32(x, w, top == 31 ? WEIGHTED_5 : WEIGHTED_4, &fit);
            for (size_t s = 0; s < rest / 32; s++, out += size) {
                uint8_t codes[32];
                if (half) signed_codes(run + 32 * s, 32, through_zero.inverse[s], half, codes);
                else line_codes(run + 32 * s, 32, 0, 0, &fit, (int)s, top, codes);
                uint8_t *to = out;
                put_f16(to, half ? through_zero.scale[s] : fit.scale[s]), to += 2;
                if (!half) put_f16(to, -fit.minimum[s]), to += 2;
                if (half == 16 || top == 31) put_fifths(to, codes), to += 4;
                put_halves(to, codes);
            }
        }
    }
}
#define CLASSIC(name, half, top, size)                                                                           \
    static void encode_##name(const float *x, size_t n, const float *importance, size_t columns, uint8_t *out) { \
        if (importance) encode_weighted(x, n, importance, columns, out, half, top, size);                        \
        else plain_##name(x, n, out);                                                                            \
    }
CLASSIC(q4_0, 8, 0, 18)
CLASSIC(q4_1, 0, 15, 20)
CLASSIC(q5_0, 16, 0, 22)
CLASSIC(q5_1, 0, 31, 24)

#endif
