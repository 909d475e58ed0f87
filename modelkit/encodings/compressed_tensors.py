"""compressed-tensors: int4, int8 and small floats as vLLM, SGLang and transformers load them.

O rows, I columns, G groups of a row (1: one scale for a row), b bits. The format is one of:

    pack-quantized    part                dtype  shape
                      weight_packed       i32    [O, ceil(I b / 32)]  codes from 0 along the row, the first in the
                                                                      lowest bits, without gaps
                      weight_scale        float  [O, G] or [1]
                      weight_shape        i64    [2]                  O, I
                      weight_zero_point   i32    [ceil(O b / 32), G]  asymmetric: zeros from 0, packed down the rows
    int-quantized     weight              i8     [O, I]               signed codes
                      weight_scale        float  [O, G] or [1]
                      weight_zero_point   i8     as the scale         asymmetric

value = (code - zero) * scale; without a zero point the zero is 2**(b - 1), the middle. Until May 2026 codes of 3,
5, 6 and 7 bits did not cross words (32 // b codes in each); such files are read, not written. So are those with
weight_g_idx, which says the group of every column.

Small floats, g columns to a scale:

    float-quantized       weight        e4m3  [O, I]       weight_scale  float  [1], [O, 1], or a block of 128 x 128
    mxfp8-quantized       weight        e4m3  [O, I]       weight_scale  u8     [O, I / 32]  2**(scale - 127)
    mxfp6-pack-quantized  weight_packed u8    [O, 3I / 4]  weight_scale  u8     [O, I / 32]  e2m3, six bits each
    mxfp4-pack-quantized  weight_packed u8    [O, I / 2]   weight_scale  u8     [O, I / 32]  e2m1, even column low
    nvfp4-pack-quantized  weight_packed u8    [O, I / 2]   weight_scale  e4m3   [O, I / 16]  e2m1
                          weight_global_scale f32 [1]      value = code * scale / global scale

`--to compressed-tensors` is 4 bits, symmetric, groups of 128, the one that every engine has a kernel for. Scales are in
the dtype of config.json, to which engines would round others: bf16 for a bf16 model, else f16 (which f32 holds).
Parameters of integers: format, bits, group (a number or row), scales (row, tensor), symmetric, scale (f16, bf16, f32),
method; of float-quantized: scales, block (128x128), scale. The other formats leave nothing to choose.
"""

from modelkit.encodings._ct_integers import Integers

encoding = Integers()
