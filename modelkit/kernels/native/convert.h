/* From one encoding into another in a single pass: a tile of values is read, looked at, written, read back and
   compared while it lies in the processor's first cache. Memory sees only the stored bytes of both sides. */
#ifndef MODELKIT_CONVERT_H
#define MODELKIT_CONVERT_H

#include "arrays.h"

enum { TILE = 4096 }; /* values, a multiple of all blocks; two arrays of 16 KiB */

static void read_tile(const struct coding *side, const uint8_t *from, size_t count, float *values) {
    if (side->block) side->block->decode(from, count, values);
    else side->small->widen(from, count, values);
}
static void write_tile(const struct coding *side, const float *values, size_t count, uint8_t *to) {
    if (side->block) side->block->encode(values, count, NULL, 0, to);
    else side->small->narrow(values, count, to);
}

/* found: what `difference` finds. Returns 0, and leaves the rest undone, at a value beyond `limit`, at a NaN or infinity
   where `finite`, or at a scale that has overflowed. */
static int convert(const struct coding *source, const uint8_t *from, size_t count, const struct coding *target,
                   uint8_t *to, float limit, int finite, double *found) {
    float before[TILE], after[TILE];
    found[0] = found[1] = found[2] = 0;
    for (size_t i = 0; i < count; i += TILE) {
        const size_t n = count - i < TILE ? count - i : TILE;
        size_t first;
        double apart[3];
        read_tile(source, from + i / source->values * source->size, n, before);
        if (scan(before, n, &first) > limit || (finite && first < n)) return 0;
        uint8_t *const place = to + i / target->values * target->size;
        write_tile(target, before, n, place);
        read_tile(target, place, n, after);
        difference(before, after, n, apart);
        if (!(apart[1] < (double)INFINITY)) return 0;
        found[0] = apart[0] > found[0] ? apart[0] : found[0];
        found[1] += apart[1];
        found[2] += apart[2];
    }
    return 1;
}

#endif
