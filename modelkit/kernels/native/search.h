/* How ggml finds scales, for sixteen sub-blocks at once.

   The lane layout. A search adds up weighted errors over the values of a sub-block, one after the other, and the
   order of float additions decides bits. So nothing is vectorised inside a sub-block. Instead lane k of a vector
   belongs to sub-block k, and x[l][h] holds value l of sub-blocks 8 h .. 8 h + 7: every lane performs exactly the
   scalar sequence of operations, eight at a time. Two vectors go hand in hand (h = 0, 1) because each addition
   waits for the one before; a third would not fit into the registers. Branches become choose(). Sixteen
   sub-blocks are one super-block of Q2_K, Q3_K and Q6_K, two of Q4_K and Q5_K, sixteen blocks of Q4_0 .. Q5_1.

   The numpy twins of these functions, with the same names, are in searches.py. */
#ifndef MODELKIT_SEARCH_H
#define MODELKIT_SEARCH_H

#include "floats.h"

enum { TOGETHER = 16, LONGEST = 32 };
#define EACH _Pragma("GCC unroll 2") for (int h = 0; h < 2; h++)
#define TINY 1e-15f

typedef f32x8 column[2]; /* value l of all sixteen */

struct line { /* value = scale * code - minimum; code = nearest(inverse * (x - origin)) */
    float scale[TOGETHER], minimum[TOGETHER], inverse[TOGETHER], origin[TOGETHER];
};
struct trial {
    float levels, start, step;
    int steps;
};

/* x[l][h] from sixteen runs of n values */
static NOINLINE void turn(const float *values, int n, column *x) {
    for (int l = 0; l < n; l += 8)
        EACH {
            f32x8 row[8];
            for (int k = 0; k < 8; k++) row[k] = load(values + n * (8 * h + k) + l);
            transpose(row);
            for (int k = 0; k < 8; k++) x[l + k][h] = row[k];
        }
}

/* Codes of one trial and the sums of its least squares. `reach`: how far the products go. */
enum reach { FAR, NEAR, INSIDE }; /* past 2^22, or NaN; below it; and none rounds to more than the highest code */
INLINE void fit_codes(const column *x, const column *w, int n, const f32x8 *inverse, const f32x8 *origin, float levels,
                      enum reach reach, column *codes, f32x8 *sum_l, f32x8 *sum_l2, f32x8 *sum_xl) {
    EACH
        sum_l[h] = sum_l2[h] = sum_xl[h] = all(0);
    for (int l = 0; l < n; l++)
        EACH {
            f32x8 product = inverse[h] * (x[l][h] - origin[h]);
            f32x8 code = most(reach == FAR ? floats(nearest_each(product)) : nearest_small(product), all(0));
            if (reach != INSIDE) code = least(code, all(levels));
            f32x8 weighted = w[l][h] * code;
            codes[l][h] = code;
            sum_l[h] += weighted;
            sum_l2[h] += weighted * code;
            sum_xl[h] += weighted * x[l][h];
        }
}
static NOINLINE void fit_codes_far(const column *x, const column *w, int n, const f32x8 *inverse, const f32x8 *origin,
                                   float levels, column *codes, f32x8 *sum_l, f32x8 *sum_l2, f32x8 *sum_xl) {
    fit_codes(x, w, n, inverse, origin, levels, FAR, codes, sum_l, sum_l2, sum_xl);
}

INLINE void errors(const column *x, const column *w, int n, const column *codes, const f32x8 *scale,
                   const f32x8 *minimum, int absolute, f32x8 *error) {
    EACH
        error[h] = all(0);
    for (int l = 0; l < n; l++)
        EACH {
            f32x8 apart = scale[h] * codes[l][h] + minimum[h] - x[l][h];
            error[h] += w[l][h] * (absolute ? magnitude(apart) : apart * apart);
        }
}

/* make_qkx2_quants, make_qkx3_quants: the weighted line that errs least among the trials. The minimum found so far
   bends the next trial. */
INLINE void scale_and_minimum(const column *x, const column *w, int n, struct trial trial, int absolute,
                              struct line *fit) {
    column codes[LONGEST], low, high, least_of, sum_w, sum_x, inverse, scale, minimum, kept_inverse, kept_origin;
    column sum_l, sum_l2, sum_xl, best = {{0}};
    EACH {
        low[h] = high[h] = x[0][h];
        sum_w[h] = w[0][h];
        sum_x[h] = w[0][h] * x[0][h];
    }
    for (int l = 1; l < n; l++)
        EACH {
            low[h] = least(x[l][h], low[h]);
            high[h] = most(x[l][h], high[h]);
            sum_w[h] += w[l][h];
            sum_x[h] += w[l][h] * x[l][h];
        }
    EACH {
        least_of[h] = choose(below(all(0), low[h]), all(0), low[h]);
        inverse[h] = trial.levels / (high[h] - least_of[h]);
        scale[h] = 1.0f / inverse[h];
        kept_inverse[h] = inverse[h];
        kept_origin[h] = minimum[h] = least_of[h];
    }
    for (int number = -1; number <= trial.steps; number++) { /* trial -1 only sets the error to beat */
        i32x8 near = all_ints(-1), inside = near;
        EACH {
            if (number >= 0)
                inverse[h] = (trial.start + trial.step * (float)number + trial.levels) / (high[h] - minimum[h]);
            near &= below(magnitude((low[h] - minimum[h]) * inverse[h]), all(EXACT));
            near &= below(magnitude((high[h] - minimum[h]) * inverse[h]), all(EXACT));
            inside &= below((high[h] - minimum[h]) * inverse[h], all(trial.levels + 0.5f));
        }
        if (any(~near)) fit_codes_far(x, w, n, inverse, minimum, trial.levels, codes, sum_l, sum_l2, sum_xl);
        else if (any(~inside)) fit_codes(x, w, n, inverse, minimum, trial.levels, NEAR, codes, sum_l, sum_l2, sum_xl);
        else fit_codes(x, w, n, inverse, minimum, trial.levels, INSIDE, codes, sum_l, sum_l2, sum_xl);
        if (number < 0) {
            errors(x, w, n, codes, scale, minimum, absolute, best);
            continue;
        }
        column this_scale, this_minimum, error, determinant;
        EACH {
            determinant[h] = sum_w[h] * sum_l2[h] - sum_l[h] * sum_l[h];
            f32x8 offset = (sum_l2[h] * sum_x[h] - sum_l[h] * sum_xl[h]) / determinant[h];
            i32x8 above = below(all(0), offset);
            this_scale[h] = (sum_w[h] * sum_xl[h] - sum_x[h] * sum_l[h]) / determinant[h];
            if (any(above)) this_scale[h] = choose(above, sum_xl[h] / sum_l2[h], this_scale[h]);
            this_minimum[h] = choose(above, all(0), offset);
        }
        errors(x, w, n, codes, this_scale, this_minimum, absolute, error);
        EACH {
            i32x8 better = below(all(0), determinant[h]) & below(error[h], best[h]);
            best[h] = choose(better, error[h], best[h]);
            scale[h] = choose(better, this_scale[h], scale[h]);
            kept_inverse[h] = choose(better, inverse[h], kept_inverse[h]);
            kept_origin[h] = choose(better, minimum[h], kept_origin[h]);
            minimum[h] = choose(better, this_minimum[h], minimum[h]);
        }
    }
    EACH {
        i32x8 flat = equal(high[h], least_of[h]);
        store(fit->scale + 8 * h, choose(flat, all(0), scale[h]));
        store(fit->minimum + 8 * h, -choose(flat, least_of[h], minimum[h]));
        store(fit->inverse + 8 * h, choose(flat, all(0), kept_inverse[h]));
        store(fit->origin + 8 * h, kept_origin[h]);
    }
}

/* The compiled searches: one for each length, so that the many encoders share them. */
static NOINLINE void line_of_32(const column *x, const column *w, struct trial trial, struct line *fit) {
    scale_and_minimum(x, w, 32, trial, 0, fit);
}
static NOINLINE void line_of_16(const column *x, const column *w, struct trial trial, struct line *fit) {
    scale_and_minimum(x, w, 16, trial, 0, fit);
}
static NOINLINE void absolute_line_of_16(const column *x, const column *w, struct trial trial, struct line *fit) {
    scale_and_minimum(x, w, 16, trial, 1, fit);
}

struct signed_fit { /* value = scale * (code - half); code = half + nearest(inverse * x); no inverse: code 0 */
    float scale[TOGETHER], inverse[TOGETHER];
};

/* make_qx_quants: the scale through zero that errs least among nineteen around -half / (the largest value) */
INLINE void signed_scale(const column *x, const column *w, int n, int half, struct signed_fit *fit) {
    column size, largest, wx[LONGEST], inverse, along, square, scale = {{0}}, best = {{0}}, kept = {{0}};
    EACH
        size[h] = largest[h] = all(0);
    for (int l = 0; l < n; l++)
        EACH {
            f32x8 a = magnitude(x[l][h]);
            largest[h] = choose(below(size[h], a), x[l][h], largest[h]);
            size[h] = most(a, size[h]);
            wx[l][h] = w[l][h] * x[l][h];
        }
    for (int number = -10; number <= 9; number++) { /* -10 stands for 0, which comes first and is not tried again */
        if (number == 0) continue;
        const float top = number == -10 ? -(float)half : -((float)half + 0.1f * (float)number);
        EACH {
            inverse[h] = top / largest[h];
            along[h] = square[h] = all(0);
        }
        for (int l = 0; l < n; l++)
            EACH {
                f32x8 code = within(nearest_small(inverse[h] * x[l][h]), -(float)half, (float)(half - 1));
                along[h] += wx[l][h] * code;
                square[h] += w[l][h] * code * code;
            }
        EACH {
            f32x8 this_scale = along[h] / square[h];
            if (number == -10) {
                scale[h] = choose(equal(square[h], all(0)), all(0), this_scale);
                best[h] = scale[h] * along[h];
                kept[h] = inverse[h];
                continue;
            }
            i32x8 better = below(all(0), square[h]) & below(best[h] * square[h], along[h] * along[h]);
            scale[h] = choose(better, this_scale, scale[h]);
            best[h] = choose(better, this_scale * along[h], best[h]);
            kept[h] = choose(better, inverse[h], kept[h]);
        }
    }
    EACH {
        i32x8 dead = below(size[h], all(TINY));
        store(fit->scale + 8 * h, choose(dead, all(0), scale[h]));
        store(fit->inverse + 8 * h, choose(dead, all(0), kept[h]));
    }
}

static NOINLINE void signed_of_16(const column *x, const column *w, int half, struct signed_fit *fit) {
    signed_scale(x, w, 16, half, fit);
}
static NOINLINE void signed_of_32(const column *x, const column *w, int half, struct signed_fit *fit) {
    signed_scale(x, w, 32, half, fit);
}

/* make_q3_quants: five rounds in which each code may move in turn; weights are x^2. codes are 0 .. 2 half - 1,
   [value of the sub-block][sub-block]. */
INLINE void refined_scale(const column *x, int n, int half, float *scale, int8_t codes[][TOGETHER]) {
    column code[LONGEST], along, square, largest, size;
    EACH
        size[h] = largest[h] = along[h] = square[h] = all(0);
    for (int l = 0; l < n; l++)
        EACH {
            f32x8 a = magnitude(x[l][h]);
            largest[h] = choose(below(size[h], a), x[l][h], largest[h]);
            size[h] = most(a, size[h]);
        }
    for (int l = 0; l < n; l++)
        EACH {
            f32x8 value = x[l][h], w = value * value;
            code[l][h] =
                within(floats(nearest_each(-(float)half / largest[h] * value)), -(float)half, (float)(half - 1));
            along[h] += w * value * code[l][h];
            square[h] += w * code[l][h] * code[l][h];
        }
    for (int round = 0; round < 5; round++) {
        i32x8 moved = all_ints(0);
        for (int l = 0; l < n; l++)
            EACH {
                f32x8 value = x[l][h], w = value * value, wx = w * value, old = code[l][h];
                f32x8 less = along[h] - wx * old, fewer = square[h] - w * old * old;
                f32x8 now = within(floats(nearest_each(value * fewer / less)), -(float)half, (float)(half - 1));
                f32x8 new_along = less + wx * now, new_square = fewer + w * now * now;
                i32x8 better = below(all(0), less) & ~equal(now, old) & below(all(0), new_square);
                better &= below(along[h] * along[h] * new_square, new_along * new_along * square[h]);
                code[l][h] = choose(better, now, old);
                along[h] = choose(better, new_along, along[h]);
                square[h] = choose(better, new_square, square[h]);
                moved |= better;
            }
        if (!any(moved)) break; /* no lane would move again */
    }
    EACH {
        i32x8 dead = below(size[h], all(TINY));
        store(scale + 8 * h, choose(below(all(0), square[h]) & ~dead, along[h] / square[h], all(0)));
        for (int l = 0; l < n; l++) {
            i32x8 whole = (cut(code[l][h]) + half) & ~dead;
            for (int k = 0; k < 8; k++) codes[l][8 * h + k] = (int8_t)whole[k];
        }
    }
}

/* make_qp_quants: the scale and codes of `n` scales or minimums. A negative one leaves a code that wraps to a byte. */
static float positive_scale(const float *x, const float *w, int n, int levels, uint8_t *codes) {
    float highest = 0;
    for (int i = 0; i < n; i++) highest = highest > x[i] ? highest : x[i];
    if (highest < TINY) {
        memset(codes, 0, (size_t)n);
        return 0;
    }
    float inverse = (float)levels / highest, best = 0;
    for (int i = 0; i < n; i++) {
        float apart = x[i] - 1 / inverse * (uint8_t)nearest(inverse * x[i]);
        best += w[i] * apart * apart;
    }
    for (int number = -4; number <= 4; number++) {
        if (number == 0) continue;
        float tried = (0.1f * (float)number + (float)levels) / highest, error = 0;
        for (int i = 0; i < n; i++) {
            int code = nearest(tried * x[i]);
            float apart = x[i] - 1 / tried * (float)(code < levels ? code : levels);
            error += w[i] * apart * apart;
        }
        if (error < best) {
            best = error;
            inverse = tried;
        }
    }
    float along = 0, square = 0;
    for (int i = 0; i < n; i++) {
        int code = nearest(inverse * x[i]);
        code = code < levels ? code : levels;
        codes[i] = (uint8_t)code;
        along += w[i] * x[i] * (float)code;
        square += w[i] * (float)code * (float)code;
    }
    for (int round = 0, moved = 1; round < 5 && moved; round++) {
        moved = 0;
        for (int i = 0; i < n; i++) {
            float less = along - w[i] * x[i] * codes[i], fewer = square - w[i] * codes[i] * codes[i];
            if (!(less > 0 && fewer > 0)) continue;
            int code = nearest(x[i] * fewer / less);
            code = code < levels ? code : levels;
            if (code == codes[i]) continue;
            float new_along = less + w[i] * x[i] * (float)code, new_square = fewer + w[i] * (float)code * (float)code;
            if (new_along * new_along * square > along * along * new_square) {
                codes[i] = (uint8_t)code;
                along = new_along;
                square = new_square;
                moved = 1;
            }
        }
    }
    return square > 0 ? along / square : 0;
}

#endif
