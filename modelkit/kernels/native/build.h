/* Included once for each instruction set: everything is compiled anew, and ends in one table. */
#include "kernels.h"

#include "decode.h"
#include "arrays.h"
#include "convert.h"
#include "encode.h"
#include "words.h"

#define BLOCK(name, values, size) {#name, values, size, encode_##name, decode_##name, multiply_##name}
#define FLOAT(name, size) {#name, size, narrow_##name, widen_##name}
const struct kernels BUILD_TABLE = {
    BUILD_NAME,
    {BLOCK(q4_0, 32, 18), BLOCK(q4_1, 32, 20), BLOCK(q5_0, 32, 22), BLOCK(q5_1, 32, 24), BLOCK(q8_0, 32, 34),
     BLOCK(q2_k, 256, 84), BLOCK(q3_k, 256, 110), BLOCK(q4_k, 256, 144), BLOCK(q5_k, 256, 176), BLOCK(q6_k, 256, 210)},
    {FLOAT(f32, 4), FLOAT(f16, 2), FLOAT(bf16, 2), FLOAT(f8_e4m3, 1), FLOAT(f8_e5m2, 1)},
    convert,
    scan,
    statistics,
    difference,
    extremes,
    group_codes,
    group_values,
    multiply_groups,
    unpack_bits,
    pack_bits,
    unpack_padded,
    turn_words,
    from_awq,
    to_awq,
    code_values,
};
