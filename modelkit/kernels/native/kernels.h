/* What a build of the kernels offers: the module calls through this table, the build is chosen when it is imported. */
#ifndef MODELKIT_KERNELS_H
#define MODELKIT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

struct block_kernel {
    const char *name;
    size_t values, size; /* of a block */
    void (*encode)(const float *values, size_t count, const float *importance, size_t columns, uint8_t *out);
    void (*decode)(const uint8_t *blocks, size_t count, float *out);
    void (*multiply)(const uint8_t *blocks, size_t rows, size_t columns, const float *x, float *out);
};
struct float_kernel {
    const char *name;
    size_t size;
    void (*narrow)(const float *values, size_t count, void *out);
    void (*widen)(const void *in, size_t count, float *out);
};
struct coding { /* one of the two, and its numbers */
    const struct block_kernel *block;
    const struct float_kernel *small;
    size_t values, size;
};
struct kernels {
    const char *name;
    struct block_kernel blocks[11];
    struct float_kernel floats[6]; /* both end with a NULL name */
    int (*convert)(const struct coding *source, const uint8_t *from, size_t count, const struct coding *target,
                   uint8_t *to, float limit, int finite, double *found);
    float (*scan)(const float *x, size_t count, size_t *first);
    void (*statistics)(const float *x, size_t count, double around, float *low, float *high, double *sums, size_t *counts);
    void (*difference)(const float *was, const float *now, size_t count, double *out);
    void (*extremes)(const float *x, size_t groups, size_t group, float *low, float *high);
    void (*group_codes)(const float *x, size_t groups, size_t group, const float *scales, const int8_t *zeros,
                        int lowest, int highest, int8_t *out);
    void (*group_values)(const int8_t *codes, size_t groups, size_t group, const float *scales, const int8_t *zeros,
                         float *out);
    void (*multiply_groups)(const int8_t *codes, size_t rows, size_t columns, size_t group, const float *scales,
                            const int8_t *zeros, const float *x, float *out);
    void (*unpack_bits)(const uint8_t *packed, size_t rows, size_t size, int bits, size_t count, uint8_t *codes);
    void (*pack_bits)(const uint8_t *codes, size_t rows, size_t count, int bits, size_t size, uint8_t *packed);
    void (*unpack_padded)(const uint32_t *words, size_t rows, size_t wide, int bits, size_t count, uint8_t *codes);
    void (*turn_words)(const uint32_t *in, size_t stride, size_t rows, size_t columns, uint32_t *out, size_t high);
    void (*from_awq)(const uint32_t *awq, size_t stride, size_t n, size_t count, uint32_t *dense);
    void (*to_awq)(const uint32_t *dense, size_t n, size_t count, uint32_t *awq, size_t stride);
    void (*code_values)(const uint8_t *codes, size_t rows, size_t columns, size_t group, int middle,
                        const float *scales, const int16_t *zeros, const float *biases, float *out);
};
extern const struct kernels kernels_plain, kernels_avx2;

#endif
