/* For x86-64 of 2013 and later. The pragmas raise the instruction set for this file only; fused multiply-add stays
   off, it would change the last bit of what ggml's quantisers decide by. Elsewhere this file is empty. */
#if defined(__x86_64__)
#define BUILD_AVX2 1
#define BUILD_TABLE kernels_avx2
#define BUILD_NAME "avx2"
#if defined(__clang__)
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#include "build.h"
#pragma clang attribute pop
#else
#pragma GCC target("avx2")
#pragma GCC optimize("O3") /* a tenth faster here, and twice the size: not worth it for plain.c */
#include "build.h"
#endif
#else
typedef int nothing_for_this_machine;
#endif
