/* The Python module, by the Limited API: one wheel serves every Python from 3.11 on. It checks sizes and alignment of
   the buffers, lets go of the interpreter's lock and calls the kernels of the build that fits the processor. */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "kernels.h"

static const struct kernels *chosen = &kernels_plain;

enum { MOST_BUFFERS = 6 };
struct buffers {
    Py_buffer view[MOST_BUFFERS];
    int count;
};

static void release(struct buffers *held) {
    while (held->count) PyBuffer_Release(&held->view[--held->count]);
}

/* The memory of an argument, of items of `item` bytes; NULL and an exception if it does not fit */
static void *hold(struct buffers *held, PyObject *object, int writable, size_t item, size_t *items) {
    Py_buffer *view = &held->view[held->count];
    if (PyObject_GetBuffer(object, view, writable ? PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE : PyBUF_C_CONTIGUOUS))
        return NULL;
    held->count++;
    const int of_kind = view->itemsize == 1 || (size_t)view->itemsize == item; /* objects of Python are of none */
    if (!of_kind || (size_t)view->len % item || (uintptr_t)view->buf % item) {
        PyErr_Format(PyExc_ValueError, "argument %d: whole, aligned items of %zu bytes expected", held->count, item);
        return NULL;
    }
    *items = (size_t)view->len / item;
    return view->len ? view->buf : (void *)"\0\0\0\0\0\0\0";
}

static PyObject *refused(struct buffers *held, const char *why) {
    release(held);
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, why);
    return NULL;
}

/* Whether whole == a * b; the product itself may be beyond what size_t holds */
static int is_product(size_t whole, size_t a, size_t b) {
    size_t product;
    return !__builtin_mul_overflow(a, b, &product) && product == whole;
}

static const struct block_kernel *find_block(const char *name) {
    for (const struct block_kernel *block = chosen->blocks; block->name; block++)
        if (!strcmp(block->name, name)) return block;
    return NULL;
}
static const struct float_kernel *find_float(const char *name) {
    for (const struct float_kernel *small = chosen->floats; small->name; small++)
        if (!strcmp(small->name, name)) return small;
    return NULL;
}
static const struct block_kernel *block_named(const char *name) {
    const struct block_kernel *block = find_block(name);
    if (!block) PyErr_Format(PyExc_ValueError, "no block is called '%s'", name);
    return block;
}
static const struct float_kernel *float_named(const char *name) {
    const struct float_kernel *small = find_float(name);
    if (!small) PyErr_Format(PyExc_ValueError, "no float is called '%s'", name);
    return small;
}
static int coding_named(const char *name, struct coding *found) {
    found->block = find_block(name);
    found->small = found->block ? NULL : float_named(name);
    if (!found->block && !found->small) return 0;
    found->values = found->block ? found->block->values : 1;
    found->size = found->block ? found->block->size : found->small->size;
    return 1;
}

/* The arguments of a call: a format for PyArg_ParseTuple, then where they go */
#define PARSE(...)                      \
    struct buffers held = {.count = 0}; \
    if (!PyArg_ParseTuple(arguments, __VA_ARGS__)) return NULL
#define RUN(call)                \
    Py_BEGIN_ALLOW_THREADS call; \
    Py_END_ALLOW_THREADS release(&held)

static PyObject *encode(PyObject *self, PyObject *arguments) {
    const char *name;
    PyObject *values, *importance, *out;
    size_t count, columns = 0, size;
    PARSE("sOOO", &name, &values, &importance, &out);
    const struct block_kernel *block = block_named(name);
    if (!block) return NULL;
    const float *x = hold(&held, values, 0, sizeof *x, &count), *weights = NULL;
    if (x && importance != Py_None && !(weights = hold(&held, importance, 0, sizeof *weights, &columns))) x = NULL;
    uint8_t *to = x ? hold(&held, out, 1, 1, &size) : NULL;
    if (!to || count % block->values || size != count / block->values * block->size)
        return refused(&held, "sizes do not fit");
    if (weights && (!columns || columns % block->values || count % columns))
        return refused(&held, "whole rows expected");
    RUN(block->encode(x, count, weights, columns, to));
    Py_RETURN_NONE;
}

static PyObject *decode(PyObject *self, PyObject *arguments) {
    const char *name;
    PyObject *blocks, *out;
    size_t size, count;
    PARSE("sOO", &name, &blocks, &out);
    const struct block_kernel *block = block_named(name);
    if (!block) return NULL;
    const uint8_t *from = hold(&held, blocks, 0, 1, &size);
    float *to = from ? hold(&held, out, 1, sizeof *to, &count) : NULL;
    if (!to || size % block->size || count != size / block->size * block->values)
        return refused(&held, "sizes do not fit");
    RUN(block->decode(from, count, to));
    Py_RETURN_NONE;
}

static PyObject *multiply(PyObject *self, PyObject *arguments) {
    const char *name;
    PyObject *blocks, *vector, *out;
    size_t size, columns, rows;
    PARSE("sOOO", &name, &blocks, &vector, &out);
    const struct block_kernel *block = block_named(name);
    if (!block) return NULL;
    const uint8_t *from = hold(&held, blocks, 0, 1, &size);
    const float *x = from ? hold(&held, vector, 0, sizeof *x, &columns) : NULL;
    float *to = x ? hold(&held, out, 1, sizeof *to, &rows) : NULL;
    if (!to || columns % block->values || size % block->size ||
        !is_product(size / block->size, rows, columns / block->values))
        return refused(&held, "sizes do not fit");
    RUN(block->multiply(from, rows, columns, x, to));
    Py_RETURN_NONE;
}

static PyObject *narrow(PyObject *self, PyObject *arguments) {
    const char *name;
    PyObject *values, *out;
    size_t count, codes;
    PARSE("sOO", &name, &values, &out);
    const struct float_kernel *small = float_named(name);
    if (!small) return NULL;
    const float *x = hold(&held, values, 0, sizeof *x, &count);
    void *to = x ? hold(&held, out, 1, small->size, &codes) : NULL;
    if (!to || count != codes) return refused(&held, "sizes do not fit");
    RUN(small->narrow(x, count, to));
    Py_RETURN_NONE;
}

static PyObject *widen(PyObject *self, PyObject *arguments) {
    const char *name;
    PyObject *data, *out;
    size_t count, codes;
    PARSE("sOO", &name, &data, &out);
    const struct float_kernel *small = float_named(name);
    if (!small) return NULL;
    const void *from = hold(&held, data, 0, small->size, &codes);
    float *to = from ? hold(&held, out, 1, sizeof *to, &count) : NULL;
    if (!to || count != codes) return refused(&held, "sizes do not fit");
    RUN(small->widen(from, count, to));
    Py_RETURN_NONE;
}

static PyObject *convert(PyObject *self, PyObject *arguments) {
    const char *names[2];
    PyObject *data, *out;
    struct coding source, target;
    size_t read, written;
    float limit;
    int finite, done;
    double found[3];
    PARSE("sOsOfp", &names[0], &data, &names[1], &out, &limit, &finite);
    if (!coding_named(names[0], &source) || !coding_named(names[1], &target)) return NULL;
    const uint8_t *from = hold(&held, data, 0, source.block ? 1 : source.size, &read);
    uint8_t *to = from ? hold(&held, out, 1, target.block ? 1 : target.size, &written) : NULL;
    const size_t count = source.block ? read / source.size * source.values : read;
    if (!to || (source.block && read % source.size) || count % target.values ||
        written != count / target.values * (target.block ? target.size : 1))
        return refused(&held, "sizes do not fit");
    RUN(done = chosen->convert(&source, from, count, &target, to, limit, finite, found));
    if (!done) Py_RETURN_NONE;
    return Py_BuildValue("ddd", found[0], found[1], found[2]);
}

static PyObject *scan(PyObject *self, PyObject *arguments) {
    PyObject *values;
    size_t count, first;
    float largest;
    PARSE("O", &values);
    const float *x = hold(&held, values, 0, sizeof *x, &count);
    if (!x) return refused(&held, "");
    RUN(largest = chosen->scan(x, count, &first));
    return Py_BuildValue("dn", (double)largest, first == count ? (Py_ssize_t)-1 : (Py_ssize_t)first);
}

static PyObject *statistics(PyObject *self, PyObject *arguments) {
    PyObject *values;
    size_t count, counts[3];
    float low, high;
    double around, sums[2];
    PARSE("Od", &values, &around);
    const float *x = hold(&held, values, 0, sizeof *x, &count);
    if (!x) return refused(&held, "");
    RUN(chosen->statistics(x, count, around, &low, &high, sums, counts));
    return Py_BuildValue("ddddnnn", (double)low, (double)high, sums[0], sums[1], (Py_ssize_t)counts[0],
                         (Py_ssize_t)counts[1], (Py_ssize_t)counts[2]);
}

static PyObject *difference(PyObject *self, PyObject *arguments) {
    PyObject *before, *after;
    size_t count, other;
    double found[3];
    PARSE("OO", &before, &after);
    const float *was = hold(&held, before, 0, sizeof *was, &count);
    const float *now = was ? hold(&held, after, 0, sizeof *now, &other) : NULL;
    if (!now || count != other) return refused(&held, "sizes do not fit");
    RUN(chosen->difference(was, now, count, found));
    return Py_BuildValue("ddd", found[0], found[1], found[2]);
}

static PyObject *extremes(PyObject *self, PyObject *arguments) {
    PyObject *values, *lows, *highs;
    size_t count, groups, others;
    PARSE("OOO", &values, &lows, &highs);
    const float *x = hold(&held, values, 0, sizeof *x, &count);
    float *low = x ? hold(&held, lows, 1, sizeof *low, &groups) : NULL;
    float *high = low ? hold(&held, highs, 1, sizeof *high, &others) : NULL;
    if (!high || groups != others || (groups ? count % groups || !count : count))
        return refused(&held, "sizes do not fit");
    RUN(chosen->extremes(x, groups, groups ? count / groups : 0, low, high));
    Py_RETURN_NONE;
}

/* Codes, scales and zeros of groups, in this order from `held`; NULL where they do not fit each other */
static int8_t *hold_groups(struct buffers *held, PyObject *codes, PyObject *scales, PyObject *zeros, int writable,
                           size_t *count, size_t *groups, const float **scale, const int8_t **zero) {
    size_t others;
    int8_t *code = hold(held, codes, writable, 1, count);
    *scale = code ? hold(held, scales, 0, sizeof **scale, groups) : NULL;
    *zero = NULL;
    if (!*scale || (*groups ? *count % *groups || !*count : *count)) return NULL;
    if (zeros == Py_None) return code;
    *zero = hold(held, zeros, 0, 1, &others);
    return *zero && others == *groups ? code : NULL;
}

static PyObject *group_codes(PyObject *self, PyObject *arguments) {
    PyObject *values, *scales, *zeros, *codes;
    int lowest, highest;
    size_t count, coded, groups;
    const float *scale;
    const int8_t *zero;
    PARSE("OOOiiO", &values, &scales, &zeros, &lowest, &highest, &codes);
    int8_t *to = hold_groups(&held, codes, scales, zeros, 1, &coded, &groups, &scale, &zero);
    const float *x = to ? hold(&held, values, 0, sizeof *x, &count) : NULL;
    if (!x || count != coded) return refused(&held, "sizes do not fit");
    if (lowest < -128 || highest > 255 || lowest > highest) return refused(&held, "codes are bytes");
    RUN(chosen->group_codes(x, groups, groups ? count / groups : 0, scale, zero, lowest, highest, to));
    Py_RETURN_NONE;
}

static PyObject *group_values(PyObject *self, PyObject *arguments) {
    PyObject *codes, *scales, *zeros, *out;
    size_t count, coded, groups;
    const float *scale;
    const int8_t *zero;
    PARSE("OOOO", &codes, &scales, &zeros, &out);
    const int8_t *from = hold_groups(&held, codes, scales, zeros, 0, &coded, &groups, &scale, &zero);
    float *to = from ? hold(&held, out, 1, sizeof *to, &count) : NULL;
    if (!to || count != coded) return refused(&held, "sizes do not fit");
    RUN(chosen->group_values(from, groups, groups ? count / groups : 0, scale, zero, to));
    Py_RETURN_NONE;
}

static PyObject *multiply_groups(PyObject *self, PyObject *arguments) {
    PyObject *codes, *scales, *zeros, *vector, *out;
    size_t count, groups, columns, rows;
    const float *scale;
    const int8_t *zero;
    PARSE("OOOOO", &codes, &scales, &zeros, &vector, &out);
    const int8_t *from = hold_groups(&held, codes, scales, zeros, 0, &count, &groups, &scale, &zero);
    const float *x = from ? hold(&held, vector, 0, sizeof *x, &columns) : NULL;
    float *to = x ? hold(&held, out, 1, sizeof *to, &rows) : NULL;
    const size_t group = groups ? count / groups : 32;
    if (!to || !is_product(count, rows, columns) || group % 32 || columns % group)
        return refused(&held, "sizes do not fit");
    RUN(chosen->multiply_groups(from, rows, columns, group, scale, zero, x, to));
    Py_RETURN_NONE;
}

/* Codes of a byte each and words that hold them, in this order, for some rows of both; sizes are those of a row */
static int hold_packed(struct buffers *held, PyObject *codes, PyObject *packed, int pack, size_t item, size_t rows,
                       uint8_t **code, void **word, size_t *count, size_t *size) {
    *code = hold(held, codes, !pack, 1, count);
    *word = *code ? hold(held, packed, pack, item, size) : NULL;
    if (!*word || !rows || *count % rows || *size % rows) return 0;
    *count /= rows;
    *size /= rows;
    return 1;
}

static PyObject *bits_of_codes(PyObject *arguments, int pack) {
    PyObject *in, *out;
    Py_ssize_t rows;
    int bits;
    uint8_t *code;
    void *word;
    size_t count, size;
    PARSE("OniO", &in, &rows, &bits, &out);
    if (!hold_packed(&held, pack ? in : out, pack ? out : in, pack, 1, rows > 0 ? (size_t)rows : 0, &code, &word,
                     &count, &size) ||
        bits < 1 || bits > 8 || size < (count * (size_t)bits + 7) / 8)
        return refused(&held, "sizes do not fit");
    RUN((pack ? chosen->pack_bits(code, (size_t)rows, count, bits, size, word)
              : chosen->unpack_bits(word, (size_t)rows, size, bits, count, code)));
    Py_RETURN_NONE;
}
static PyObject *pack_bits(PyObject *self, PyObject *arguments) { return bits_of_codes(arguments, 1); }
static PyObject *unpack_bits(PyObject *self, PyObject *arguments) { return bits_of_codes(arguments, 0); }

static PyObject *unpack_padded(PyObject *self, PyObject *arguments) {
    PyObject *in, *out;
    Py_ssize_t rows;
    int bits;
    uint8_t *code;
    void *word;
    size_t count, size;
    PARSE("OniO", &in, &rows, &bits, &out);
    if (!hold_packed(&held, out, in, 0, 4, rows > 0 ? (size_t)rows : 0, &code, &word, &count, &size) || bits < 1 ||
        bits > 8 || size * (size_t)(32 / bits) < count)
        return refused(&held, "sizes do not fit");
    RUN(chosen->unpack_padded(word, (size_t)rows, size, bits, count, code));
    Py_RETURN_NONE;
}

/* Words of `rows` rows, `columns` of them from `first` on, in a matrix of `stride` words a row; NULL where they are not
   all in it */
static uint32_t *hold_words(struct buffers *held, PyObject *object, int writable, Py_ssize_t stride, Py_ssize_t first,
                            size_t rows, size_t columns) {
    size_t count;
    uint32_t *words = hold(held, object, writable, sizeof *words, &count);
    if (!words || stride < 1 || first < 0 || (size_t)first + columns > (size_t)stride || rows > count / (size_t)stride)
        return NULL;
    return words + first;
}

/* turn_words(in, stride, first, out, stride, first, rows, columns): the other way round is the same with the sides
   exchanged */
static PyObject *turn_words(PyObject *self, PyObject *arguments) {
    PyObject *in, *out;
    Py_ssize_t stride, first, high, top, rows, columns;
    PARSE("OnnOnnnn", &in, &stride, &first, &out, &high, &top, &rows, &columns);
    const int whole = rows >= 0 && columns >= 0;
    const uint32_t *from =
        whole ? hold_words(&held, in, 0, stride, first, (size_t)rows, (size_t)columns) : NULL;
    uint32_t *to = from ? hold_words(&held, out, 1, high, top, (size_t)columns, (size_t)rows) : NULL;
    if (!to) return refused(&held, "sizes do not fit");
    RUN(chosen->turn_words(from, (size_t)stride, (size_t)rows, (size_t)columns, to, (size_t)high));
    Py_RETURN_NONE;
}

/* (awq, stride, first, n, count, dense) */
static PyObject *awq_words(PyObject *arguments, int pack) {
    PyObject *awq, *dense;
    Py_ssize_t stride, first, n, count;
    size_t size = 0;
    PARSE("OnnnnO", &awq, &stride, &first, &n, &count, &dense);
    const int whole = n >= 0 && count >= 0;
    uint32_t *one = whole ? hold_words(&held, awq, pack, stride, first, (size_t)n, (size_t)count) : NULL;
    uint32_t *other = one ? hold(&held, dense, !pack, sizeof *other, &size) : NULL;
    if (!other || size != ((size_t)n + 7) / 8 * 8 * (size_t)count) return refused(&held, "sizes do not fit");
    RUN((pack ? chosen->to_awq(other, (size_t)n, (size_t)count, one, (size_t)stride)
              : chosen->from_awq(one, (size_t)stride, (size_t)n, (size_t)count, other)));
    Py_RETURN_NONE;
}
static PyObject *to_awq(PyObject *self, PyObject *arguments) { return awq_words(arguments, 1); }
static PyObject *from_awq(PyObject *self, PyObject *arguments) { return awq_words(arguments, 0); }

static PyObject *code_values(PyObject *self, PyObject *arguments) {
    PyObject *codes, *scales, *zeros, *biases, *out;
    Py_ssize_t columns, group;
    int middle;
    size_t count, figures, others, made;
    PARSE("OnniOOOO", &codes, &columns, &group, &middle, &scales, &zeros, &biases, &out);
    const uint8_t *code = hold(&held, codes, 0, 1, &count);
    const float *scale = code ? hold(&held, scales, 0, sizeof *scale, &figures) : NULL, *bias = NULL;
    const int16_t *zero = NULL;
    int fits = scale && columns > 0 && group > 0 && count % (size_t)columns == 0;
    const size_t rows = fits ? count / (size_t)columns : 0;
    fits = fits && figures == rows * (((size_t)columns - 1) / (size_t)group + 1);
    if (fits && zeros != Py_None)
        fits = (zero = hold(&held, zeros, 0, sizeof *zero, &others)) != NULL && others == figures;
    if (fits && biases != Py_None)
        fits = (bias = hold(&held, biases, 0, sizeof *bias, &others)) != NULL && others == figures;
    float *to = fits ? hold(&held, out, 1, sizeof *to, &made) : NULL;
    if (!to || made != count) return refused(&held, "sizes do not fit");
    RUN(chosen->code_values(code, rows, (size_t)columns, (size_t)group, middle, scale, zero, bias, to));
    Py_RETURN_NONE;
}

static const struct kernels *build_named(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && (!name || !strcmp(name, "avx2"))) return &kernels_avx2;
#endif
    return !name || !strcmp(name, "plain") ? &kernels_plain : NULL;
}

/* use(build): the name of the build in use; with a name, take that one from now on, for tests */
static PyObject *use(PyObject *self, PyObject *arguments) {
    const char *name = NULL;
    if (!PyArg_ParseTuple(arguments, "|s", &name)) return NULL;
    if (name) {
        const struct kernels *build = build_named(name);
        if (!build) return PyErr_Format(PyExc_ValueError, "there is no build '%s' for this processor", name);
        chosen = build;
    }
    return PyUnicode_FromString(chosen->name);
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS, NULL},
    {"decode", decode, METH_VARARGS, NULL},
    {"multiply", multiply, METH_VARARGS, NULL},
    {"narrow", narrow, METH_VARARGS, NULL},
    {"widen", widen, METH_VARARGS, NULL},
    {"convert", convert, METH_VARARGS, NULL},
    {"scan", scan, METH_VARARGS, NULL},
    {"statistics", statistics, METH_VARARGS, NULL},
    {"difference", difference, METH_VARARGS, NULL},
    {"extremes", extremes, METH_VARARGS, NULL},
    {"group_codes", group_codes, METH_VARARGS, NULL},
    {"group_values", group_values, METH_VARARGS, NULL},
    {"multiply_groups", multiply_groups, METH_VARARGS, NULL},
    {"unpack_bits", unpack_bits, METH_VARARGS, NULL},
    {"pack_bits", pack_bits, METH_VARARGS, NULL},
    {"unpack_padded", unpack_padded, METH_VARARGS, NULL},
    {"turn_words", turn_words, METH_VARARGS, NULL},
    {"from_awq", from_awq, METH_VARARGS, NULL},
    {"to_awq", to_awq, METH_VARARGS, NULL},
    {"code_values", code_values, METH_VARARGS, NULL},
    {"use", use, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT,
                                    "_native",
                                    "Kernels in C; see modelkit/kernels/__init__.py.",
                                    -1,
                                    methods,
                                    NULL,
                                    NULL,
                                    NULL,
                                    NULL};

PyMODINIT_FUNC PyInit__native(void) {
    chosen = build_named(NULL);
    return PyModule_Create(&module);
}
