/* Networks of exact arithmetic (docs/exact-arithmetic.md) as rows of layers, on AMX with 8-bit integers.
 *
 *   integers of 11 bits --(1x1 or depthwise 3x3 convolution, or gate)--> float32, exact
 *                       --(+ sum, slope, limit, round)--> integers of 11 bits
 *
 * Matrix units multiply 8 bits. So an activation, and a weight, is 32 times its upper part plus its lower part, and a
 * sum of products is three sums of 32-bit integers: of upper parts, of both mixed products, of lower parts. None of it
 * rounds. exact_chain.py packs weights, plans tensors and checks; docs/decisions/0017-integers-on-amx.md says why and
 * what it gains.
 */

#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <string.h>

#include "amx.h"
#include "kernel_names.h"
#include "team.h"

/* Kinds of layers; exact_chain.py has the same numbers. */
enum { POINT, DEPTHWISE, GATE };
enum { PLAIN, AMX, KERNELS };
static const char *const KERNEL_NAMES[KERNELS] = {"plain", "amx"};

enum { DONE, OUT_OF_MEMORY };

/* A block: 16 pixels times 16 outputs, three kinds of sums each. */
enum { PIXELS = TILE_ROWS, COLUMNS = TILE_ROWS, SUMS = 3, BASE_BITS = 5, TAPS = 9 };

typedef struct {
  int32_t kind, source, gate, add, target; /* numbers of tensors; gate and add -1 for none */
  float low, high, slope;                  /* limits of the result; slope below zero, of a gate's second operand */
  const void *weights;                     /* POINT: tiles of int8; DEPTHWISE: (9, channels) float32 */
  const float *scale, *bias, *factor;      /* of each output; factor: of what is added, or of a gate's product */
} Layer;

typedef struct {
  int16_t *data; /* (height, width, channels) */
  int32_t channels, unused;
} Tensor;

typedef struct {
  const Layer *layers;
  const Tensor *tensors;
  int32_t count, kernel, height, width;
  atomic_int next_chunk, status;
  Team team;
} Run;

/* Where the upper part of a pixel's channel lies: in a tile for each 64 channels, with one of lower parts behind it. */
static inline size_t part_at(int pixel, int channel) {
  return (size_t)channel / ROW_BYTES * 2 * TILE_BYTES + pixel * ROW_BYTES + channel % ROW_BYTES;
}
enum { LOWER = TILE_BYTES };

/* ---- without AMX: for tests, and as the definition of what the other computes ---- */

static float sloped(float value, float slope) { return value > value * slope ? value : value * slope; }

/* Halves to even, as everywhere. */
static int16_t limited(const Layer *layer, float value) {
  value = value > layer->low ? value : layer->low;
  value = value < layer->high ? value : layer->high;
  return (int16_t)rintf(value);
}

static void plain_split(const int16_t *from, int pixels, int channels, int8_t *to) {
  for (int p = 0; p < pixels; p++)
    for (int c = 0; c < channels; c++) {
      const int value = *from++, whole = (value + (1 << (BASE_BITS - 1))) >> BASE_BITS;
      to[part_at(p, c)] = (int8_t)whole;
      to[part_at(p, c) + LOWER] = (int8_t)(value - whole * (1 << BASE_BITS));
    }
}

static void plain_point(const Run *run, const Layer *layer, int first, int pixels, const int8_t *parts) {
  const Tensor *into = run->tensors + layer->target, *more = layer->add < 0 ? NULL : run->tensors + layer->add;
  const int inputs = run->tensors[layer->source].channels, steps = (inputs + ROW_BYTES - 1) / ROW_BYTES;
  for (int p = 0; p < pixels; p++)
    for (int o = 0; o < into->channels; o++) {
      const int8_t *weights = (const int8_t *)layer->weights + (size_t)(o / COLUMNS) * steps * 2 * TILE_BYTES;
      int32_t total = 0;
      for (int k = 0; k < inputs; k++) {
        const int8_t *part = parts + part_at(p, k);
        const int8_t *weight = weights + k / ROW_BYTES * 2 * TILE_BYTES + k % ROW_BYTES / 4 * ROW_BYTES;
        weight += o % COLUMNS * 4 + k % 4;
        total += (part[0] * (1 << BASE_BITS) + part[LOWER]) * (weight[0] * (1 << BASE_BITS) + weight[LOWER]);
      }
      const size_t place = (size_t)(first + p) * into->channels + o;
      float value = (float)total * layer->scale[o] + layer->bias[o];
      if (more) value += (float)more->data[place] * layer->factor[o];
      into->data[place] = limited(layer, sloped(value, layer->slope));
    }
}

static void plain_depthwise(const Run *run, const Layer *layer, int y) {
  const Tensor *from = run->tensors + layer->source;
  const int channels = from->channels, width = run->width;
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c++) {
      float value = layer->bias[c];
      for (int t = 0; t < TAPS; t++) {
        const int row = y + t / 3 - 1, column = x + t % 3 - 1;
        if (row < 0 || row >= run->height || column < 0 || column >= width) continue;
        value += (float)from->data[((size_t)row * width + column) * channels + c] *
                 ((const float *)layer->weights)[t * channels + c];
      }
      const size_t place = ((size_t)y * width + x) * channels + c;
      run->tensors[layer->target].data[place] = limited(layer, sloped(value, layer->slope));
    }
}

static void plain_gate(const Run *run, const Layer *layer, int first, int pixels) {
  const int channels = run->tensors[layer->target].channels;
  for (size_t i = (size_t)first * channels; i < (size_t)(first + pixels) * channels; i++) {
    const float gate = sloped(run->tensors[layer->gate].data[i], layer->slope);
    const float value = (float)run->tensors[layer->source].data[i] * gate * layer->factor[i % channels];
    run->tensors[layer->target].data[i] = limited(layer, value);
  }
}

/* ---- with AMX ---- */

#if HAS_X86
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,amx-tile,amx-int8")))
#define INLINE TARGET static inline __attribute__((always_inline))

INLINE __m512 amx_get(const int16_t *from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)from)));
}

INLINE __m512 amx_sloped(__m512 value, float slope) {
  return _mm512_max_ps(value, _mm512_mul_ps(value, _mm512_set1_ps(slope)));
}

INLINE void amx_put(const Layer *layer, __m512 value, int16_t *to) {
  value = _mm512_min_ps(_mm512_max_ps(value, _mm512_set1_ps(layer->low)), _mm512_set1_ps(layer->high));
  const __m512i whole = _mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(whole));
}

TARGET static void amx_split(const int16_t *from, int pixels, int channels, int8_t *to) {
  const __m512i half = _mm512_set1_epi16(1 << (BASE_BITS - 1));
  enum { AT_ONCE = 32 };
  for (int p = 0; p < pixels; p++, from += channels)
    for (int c = 0; c < channels; c += AT_ONCE) {
      const __mmask32 mask = channels - c < AT_ONCE ? (1u << (channels - c)) - 1 : ~0u;
      const __m512i values = _mm512_maskz_loadu_epi16(mask, from + c);
      const __m512i whole = _mm512_srai_epi16(_mm512_add_epi16(values, half), BASE_BITS);
      const __m512i rest = _mm512_sub_epi16(values, _mm512_slli_epi16(whole, BASE_BITS));
      _mm256_storeu_si256((__m256i *)(to + part_at(p, c)), _mm512_cvtepi16_epi8(whole));
      _mm256_storeu_si256((__m256i *)(to + part_at(p, c) + LOWER), _mm512_cvtepi16_epi8(rest));
    }
}

/* Sums of upper parts, mixed ones, lower parts; of 16 outputs. What the total holds fits into 32 bits, and so into a
 * float's; the parts may pass over them, and come back. */
INLINE void amx_finish_points(const Run *run, const Layer *layer, int32_t sums[SUMS][PIXELS][COLUMNS], int first,
                              int pixels, int column) {
  const Tensor *into = run->tensors + layer->target, *more = layer->add < 0 ? NULL : run->tensors + layer->add;
  const __m512 scale = _mm512_loadu_ps(layer->scale + column), bias = _mm512_loadu_ps(layer->bias + column);
  const __m512 factor = more ? _mm512_loadu_ps(layer->factor + column) : bias;
  size_t place = (size_t)first * into->channels + column;
  for (int p = 0; p < pixels; p++, place += into->channels) {
    __m512i total = _mm512_slli_epi32(_mm512_load_si512(sums[0][p]), BASE_BITS);
    total = _mm512_slli_epi32(_mm512_add_epi32(total, _mm512_load_si512(sums[1][p])), BASE_BITS);
    total = _mm512_add_epi32(total, _mm512_load_si512(sums[2][p]));
    __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), scale, bias);
    if (more) value = _mm512_fmadd_ps(amx_get(more->data + place), factor, value);
    amx_put(layer, amx_sloped(value, layer->slope), into->data + place);
  }
}

TARGET static void amx_point(const Run *run, const Layer *layer, int first, int pixels, const int8_t *parts) {
  const int steps = (run->tensors[layer->source].channels + ROW_BYTES - 1) / ROW_BYTES;
  const int columns = run->tensors[layer->target].channels;
  const int8_t *weights = layer->weights;
  _Alignas(64) int32_t sums[SUMS][PIXELS][COLUMNS];
  for (int column = 0; column < columns; column += COLUMNS) {
    const int8_t *upper = parts;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    for (int k = 0; k < steps; k++, upper += 2 * TILE_BYTES, weights += 2 * TILE_BYTES) {
      _tile_loadd(4, weights, ROW_BYTES);
      _tile_loadd(5, upper, ROW_BYTES);
      _tile_loadd(6, weights + LOWER, ROW_BYTES);
      _tile_loadd(7, upper + LOWER, ROW_BYTES);
      _tile_dpbssd(0, 5, 4);
      _tile_dpbssd(1, 5, 6);
      _tile_dpbssd(2, 7, 6);
      _tile_dpbssd(1, 7, 4);
    }
    _tile_stored(0, sums[0], ROW_BYTES);
    _tile_stored(1, sums[1], ROW_BYTES);
    _tile_stored(2, sums[2], ROW_BYTES);
    amx_finish_points(run, layer, sums, first, pixels, column);
  }
}

TARGET static void amx_depthwise(const Run *run, const Layer *layer, int y) {
  const Tensor *from = run->tensors + layer->source;
  const int channels = from->channels, width = run->width;
  int16_t *to = run->tensors[layer->target].data + (size_t)y * width * channels;
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c += COLUMNS, to += COLUMNS) {
      __m512 value = _mm512_loadu_ps(layer->bias + c);
      for (int t = 0; t < TAPS; t++) {
        const int row = y + t / 3 - 1, column = x + t % 3 - 1;
        if (row < 0 || row >= run->height || column < 0 || column >= width) continue;
        const __m512 weight = _mm512_loadu_ps((const float *)layer->weights + t * channels + c);
        value = _mm512_fmadd_ps(amx_get(from->data + ((size_t)row * width + column) * channels + c), weight, value);
      }
      amx_put(layer, amx_sloped(value, layer->slope), to);
    }
}

TARGET static void amx_gate(const Run *run, const Layer *layer, int first, int pixels) {
  const int channels = run->tensors[layer->target].channels;
  size_t place = (size_t)first * channels;
  for (int p = 0; p < pixels; p++)
    for (int c = 0; c < channels; c += COLUMNS, place += COLUMNS) {
      const __m512 gate = amx_sloped(amx_get(run->tensors[layer->gate].data + place), layer->slope);
      const __m512 product = _mm512_mul_ps(amx_get(run->tensors[layer->source].data + place), gate);
      const __m512 value = _mm512_mul_ps(product, _mm512_loadu_ps(layer->factor + c));
      amx_put(layer, value, run->tensors[layer->target].data + place);
    }
}
#endif

/* ---- layers in turn, by a team ---- */

typedef struct {
  void (*split)(const int16_t *, int, int, int8_t *);
  void (*point)(const Run *, const Layer *, int, int, const int8_t *);
  void (*depthwise)(const Run *, const Layer *, int);
  void (*gate)(const Run *, const Layer *, int, int);
} Kernel;

static const Kernel CODE[KERNELS] = {
    {plain_split, plain_point, plain_depthwise, plain_gate},
#if HAS_X86
    {amx_split, amx_point, amx_depthwise, amx_gate},
#endif
};

static void compute(Run *run, const Layer *layer, Ring *ring) {
  const Kernel *code = &CODE[run->kernel];
  const int all = run->height * run->width;
  const int chunks = layer->kind == DEPTHWISE ? run->height : (all + PIXELS - 1) / PIXELS;
  const Tensor *from = run->tensors + layer->source;
  int8_t *parts = NULL;
  if (layer->kind == POINT) {
    const size_t bytes = (size_t)(from->channels + ROW_BYTES - 1) / ROW_BYTES * 2 * TILE_BYTES;
    parts = room_in(ring, bytes);
    if (!parts) {
      atomic_store(&run->status, OUT_OF_MEMORY);
      return;
    }
    memset(parts, 0, bytes); /* beyond the channels, and the last pixels */
  }
  for (int number; (number = atomic_fetch_add(&run->next_chunk, 1)) < chunks;) {
    const int first = number * PIXELS, pixels = all - first < PIXELS ? all - first : PIXELS;
    if (layer->kind == DEPTHWISE) {
      code->depthwise(run, layer, number);
    } else if (layer->kind == GATE) {
      code->gate(run, layer, first, pixels);
    } else {
      code->split(from->data + (size_t)first * from->channels, pixels, from->channels, parts);
      code->point(run, layer, first, pixels, parts);
    }
  }
}

static void start_layer(void *given, int number) {
  (void)number;
  Run *run = given;
  atomic_store(&run->next_chunk, 0);
}

static void *member(void *given) {
  Run *run = given;
  Ring ring = {0};
#if HAS_X86
  if (run->kernel == AMX) configure_tiles();
#endif
  for (int i = 0; i < run->count; i++) {
    meet(&run->team, start_layer, run, i);
    compute(run, run->layers + i, &ring);
  }
#if HAS_X86
  if (run->kernel == AMX) release_tiles();
#endif
  free(ring.data);
  return NULL;
}

/* ---- the module ---- */

static int is_here(int kernel) {
#if HAS_X86
  if (kernel == AMX) return has_amx(0);
#endif
  return kernel == PLAIN;
}

static PyObject *kernels(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return names_here(KERNEL_NAMES, KERNELS, is_here);
}

static PyObject *run(PyObject *module, PyObject *arguments) {
  (void)module;
  Py_buffer layers, tensors;
  int height, width, threads;
  const char *name;
  if (!PyArg_ParseTuple(arguments, "y*w*iiis", &layers, &tensors, &height, &width, &threads, &name)) return NULL;
  const Py_ssize_t count = layers.len / (Py_ssize_t)sizeof(Layer);
  const int kernel = kernel_named(name, threads, count, KERNEL_NAMES, KERNELS, is_here);
  if (kernel >= 0) {
    Run all = {.layers = layers.buf, .tensors = tensors.buf, .height = height, .width = width};
    all.kernel = kernel;
    all.count = (int32_t)count;
    Py_BEGIN_ALLOW_THREADS;
    run_team(&all.team, threads, member, &all);
    Py_END_ALLOW_THREADS;
    if (atomic_load(&all.status) == OUT_OF_MEMORY) PyErr_NoMemory();
  }
  PyBuffer_Release(&layers);
  PyBuffer_Release(&tensors);
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"kernels", kernels, METH_NOARGS, "Names of the kernels that this processor computes."},
    {"run", run, METH_VARARGS, "Compute layers in turn: run(layers, tensors, height, width, threads, kernel)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_exact_chain", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__exact_chain(void) { return PyModuleDef_Init(&MODULE); }
