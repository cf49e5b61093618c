/* Networks of exact arithmetic (docs/exact-arithmetic.md) as rows of layers, in integers.
 *
 *   integers of 11 bits --(1x1 or depthwise 3x3 convolution, or gate)--> float32, exact
 *                       --(+ sum, slope, limit, round)--> integers of 11 bits
 *
 * AVX2, and AVX-512 with VNNI, multiply 16 bits, twice as many an instruction as float32s. AMX multiplies 8: there an
 * activation, and a weight, is 32 times its upper part plus its lower part, and a sum of products is three sums of
 * 32-bit integers: of upper parts, of both mixed products, of lower parts. None of it rounds. exact_chain.py packs
 * weights, plans tensors and checks; docs/decisions/0017-integers-on-amx.md and 0018 say why and what it gains.
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
enum { PLAIN, AVX2, VNNI_512, AMX, KERNELS };
static const char *const KERNEL_NAMES[KERNELS] = {"plain", "avx2", "vnni", "amx"};

enum { DONE, OUT_OF_MEMORY };

/* A block of AMX: 16 pixels times 16 outputs, three kinds of sums each. */
enum { PIXELS = TILE_ROWS, COLUMNS = TILE_ROWS, SUMS = 3, BASE_BITS = 5, TAPS = 9 };

typedef struct {
  int32_t kind, source, gate, add, target; /* numbers of tensors; gate and add -1 for none */
  float low, high, slope;                  /* limits of the result; slope below zero, of a gate's second operand */
  /* POINT: (O / 16, I / 2, 16, 2) int16, or for AMX tiles of int8; DEPTHWISE: (9, channels) float32 */
  const void *weights;
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

/* ---- plain C: for tests, and as the definition of what the others compute ---- */

static float sloped(float value, float slope) { return value > value * slope ? value : value * slope; }

/* Halves to even, as everywhere. */
static int16_t limited(const Layer *layer, float value) {
  value = value > layer->low ? value : layer->low;
  value = value < layer->high ? value : layer->high;
  return (int16_t)rintf(value);
}

static void plain_point(const Run *run, const Layer *layer, int first, int pixels, int8_t *unused) {
  (void)unused;
  const Tensor *from = run->tensors + layer->source, *into = run->tensors + layer->target;
  const Tensor *more = layer->add < 0 ? NULL : run->tensors + layer->add;
  const int inputs = from->channels;
  for (int p = first; p < first + pixels; p++)
    for (int o = 0; o < into->channels; o++) {
      const int16_t *weights = (const int16_t *)layer->weights + (size_t)(o / COLUMNS) * inputs * COLUMNS;
      int32_t total = 0;
      for (int k = 0; k < inputs; k++)
        total += from->data[(size_t)p * inputs + k] * weights[(k / 2 * COLUMNS + o % COLUMNS) * 2 + k % 2];
      const size_t place = (size_t)p * into->channels + o;
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

/* ---- with AVX2 ---- */

#if HAS_X86
#define TARGET __attribute__((target("avx2,fma")))
#define INLINE TARGET static inline __attribute__((always_inline))

enum { LANES = 8 };

INLINE __m256 avx2_get(const int16_t *from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)from)));
}

INLINE __m256 avx2_sloped(__m256 value, float slope) {
  return _mm256_max_ps(value, _mm256_mul_ps(value, _mm256_set1_ps(slope)));
}

INLINE void avx2_put(const Layer *layer, __m256 value, int16_t *to) {
  value = _mm256_min_ps(_mm256_max_ps(value, _mm256_set1_ps(layer->low)), _mm256_set1_ps(layer->high));
  const __m256i whole = _mm256_cvtps_epi32(value); /* to the nearest, as a new thread rounds */
  const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storeu_si128((__m128i *)to, halves);
}

/* So many pixels times 16 outputs. Pairs of products of 16 bits add up within 32, as the whole sum does. */
INLINE void avx2_block(const Run *run, const Layer *layer, int first, int column, const int pixels) {
  enum { MOST = 6 };
  const Tensor *from = run->tensors + layer->source, *into = run->tensors + layer->target;
  const Tensor *more = layer->add < 0 ? NULL : run->tensors + layer->add;
  const int inputs = from->channels;
  const int16_t *data = from->data + (size_t)first * inputs;
  const __m256i *weights = (const __m256i *)((const int16_t *)layer->weights + (size_t)column * inputs);
  __m256i low[MOST], high[MOST];
#pragma GCC unroll 6
  for (int p = 0; p < pixels; p++) low[p] = high[p] = _mm256_setzero_si256();
  for (int k = 0; k < inputs; k += 2, weights += 2) {
    const __m256i left = _mm256_load_si256(weights), right = _mm256_load_si256(weights + 1);
#pragma GCC unroll 6
    for (int p = 0; p < pixels; p++) {
      __m256i pair, product;
      /* Written out, as compilers multiply for all pixels before they add, and have no registers for that. */
      __asm__("vpbroadcastd %4, %2\n\t"
              "vpmaddwd %5, %2, %3\n\t"
              "vpaddd %3, %0, %0\n\t"
              "vpmaddwd %6, %2, %2\n\t"
              "vpaddd %2, %1, %1"
              : "+x"(low[p]), "+x"(high[p]), "=&x"(pair), "=&x"(product)
              : "m"(*(const int16_t(*)[2])(data + (size_t)p * inputs + k)), "x"(left), "x"(right));
    }
  }
#pragma GCC unroll 6
  for (int p = 0; p < pixels; p++) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      const int o = column + half * LANES;
      const size_t place = (size_t)(first + p) * into->channels + o;
      const __m256 total = _mm256_cvtepi32_ps(half ? high[p] : low[p]);
      __m256 value = _mm256_fmadd_ps(total, _mm256_loadu_ps(layer->scale + o), _mm256_loadu_ps(layer->bias + o));
      if (more) value = _mm256_fmadd_ps(avx2_get(more->data + place), _mm256_loadu_ps(layer->factor + o), value);
      avx2_put(layer, avx2_sloped(value, layer->slope), into->data + place);
    }
  }
}

TARGET static void avx2_point(const Run *run, const Layer *layer, int first, int pixels, int8_t *unused) {
  (void)unused;
  const int columns = run->tensors[layer->target].channels;
  /* Weights of 16 outputs stay in the first cache for all pixels. */
  for (int column = 0; column < columns; column += COLUMNS) {
    int p = 0;
    for (; p + 6 <= pixels; p += 6) avx2_block(run, layer, first + p, column, 6);
    for (; p + 2 <= pixels; p += 2) avx2_block(run, layer, first + p, column, 2);
    if (p < pixels) avx2_block(run, layer, first + p, column, 1);
  }
}

TARGET static void avx2_depthwise(const Run *run, const Layer *layer, int y) {
  const Tensor *from = run->tensors + layer->source;
  const int channels = from->channels, width = run->width;
  int16_t *to = run->tensors[layer->target].data + (size_t)y * width * channels;
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c += LANES, to += LANES) {
      __m256 value = _mm256_loadu_ps(layer->bias + c);
      for (int t = 0; t < TAPS; t++) {
        const int row = y + t / 3 - 1, column = x + t % 3 - 1;
        if (row < 0 || row >= run->height || column < 0 || column >= width) continue;
        const __m256 weight = _mm256_loadu_ps((const float *)layer->weights + t * channels + c);
        value = _mm256_fmadd_ps(avx2_get(from->data + ((size_t)row * width + column) * channels + c), weight, value);
      }
      avx2_put(layer, avx2_sloped(value, layer->slope), to);
    }
}

TARGET static void avx2_gate(const Run *run, const Layer *layer, int first, int pixels) {
  const int channels = run->tensors[layer->target].channels;
  size_t place = (size_t)first * channels;
  for (int p = 0; p < pixels; p++)
    for (int c = 0; c < channels; c += LANES, place += LANES) {
      const __m256 gate = avx2_sloped(avx2_get(run->tensors[layer->gate].data + place), layer->slope);
      const __m256 product = _mm256_mul_ps(avx2_get(run->tensors[layer->source].data + place), gate);
      const __m256 value = _mm256_mul_ps(product, _mm256_loadu_ps(layer->factor + c));
      avx2_put(layer, value, run->tensors[layer->target].data + place);
    }
}
#undef INLINE
#undef TARGET

/* ---- with AVX-512: VNNI multiplies 16 bits and sums up at once ---- */

#define WIDE "avx512f,avx512bw,avx512vl,avx512dq,fma"
#define TARGET __attribute__((target(WIDE)))
#define VNNI __attribute__((target(WIDE ",avx512vnni")))
#define INLINE TARGET static inline __attribute__((always_inline))

INLINE __m512 avx512_get(const int16_t *from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)from)));
}

INLINE __m512 avx512_sloped(__m512 value, float slope) {
  return _mm512_max_ps(value, _mm512_mul_ps(value, _mm512_set1_ps(slope)));
}

INLINE void avx512_put(const Layer *layer, __m512 value, int16_t *to) {
  value = _mm512_min_ps(_mm512_max_ps(value, _mm512_set1_ps(layer->low)), _mm512_set1_ps(layer->high));
  const __m512i whole = _mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(whole));
}

TARGET static void avx512_depthwise(const Run *run, const Layer *layer, int y) {
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
        value = _mm512_fmadd_ps(avx512_get(from->data + ((size_t)row * width + column) * channels + c), weight, value);
      }
      avx512_put(layer, avx512_sloped(value, layer->slope), to);
    }
}

TARGET static void avx512_gate(const Run *run, const Layer *layer, int first, int pixels) {
  const int channels = run->tensors[layer->target].channels;
  size_t place = (size_t)first * channels;
  for (int p = 0; p < pixels; p++)
    for (int c = 0; c < channels; c += COLUMNS, place += COLUMNS) {
      const __m512 gate = avx512_sloped(avx512_get(run->tensors[layer->gate].data + place), layer->slope);
      const __m512 product = _mm512_mul_ps(avx512_get(run->tensors[layer->source].data + place), gate);
      const __m512 value = _mm512_mul_ps(product, _mm512_loadu_ps(layer->factor + c));
      avx512_put(layer, value, run->tensors[layer->target].data + place);
    }
}

/* So many pixels times 16 outputs; written out for the same reason as `avx2_block`. */
VNNI static inline __attribute__((always_inline)) void vnni_block(const Run *run, const Layer *layer, int first,
                                                                  int column, const int pixels) {
  enum { MOST = 12 };
  const Tensor *from = run->tensors + layer->source, *into = run->tensors + layer->target;
  const Tensor *more = layer->add < 0 ? NULL : run->tensors + layer->add;
  const int inputs = from->channels;
  const int16_t *data = from->data + (size_t)first * inputs;
  const int16_t *weights = (const int16_t *)layer->weights + (size_t)column * inputs;
  __m512i sums[MOST];
#pragma GCC unroll 12
  for (int p = 0; p < pixels; p++) sums[p] = _mm512_setzero_si512();
  for (int k = 0; k < inputs; k += 2, weights += 2 * COLUMNS) {
    const __m512i row = _mm512_load_si512(weights);
#pragma GCC unroll 12
    for (int p = 0; p < pixels; p++)
      __asm__("vpdpwssd %1%{1to16%}, %2, %0"
              : "+v"(sums[p])
              : "m"(*(const int16_t(*)[2])(data + (size_t)p * inputs + k)), "v"(row));
  }
  const __m512 scale = _mm512_loadu_ps(layer->scale + column), bias = _mm512_loadu_ps(layer->bias + column);
#pragma GCC unroll 12
  for (int p = 0; p < pixels; p++) {
    const size_t place = (size_t)(first + p) * into->channels + column;
    __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[p]), scale, bias);
    if (more) value = _mm512_fmadd_ps(avx512_get(more->data + place), _mm512_loadu_ps(layer->factor + column), value);
    avx512_put(layer, avx512_sloped(value, layer->slope), into->data + place);
  }
}

VNNI static void vnni_point(const Run *run, const Layer *layer, int first, int pixels, int8_t *unused) {
  (void)unused;
  const int columns = run->tensors[layer->target].channels;
  for (int column = 0; column < columns; column += COLUMNS) {
    int p = 0;
    for (; p + 12 <= pixels; p += 12) vnni_block(run, layer, first + p, column, 12);
    for (; p + 4 <= pixels; p += 4) vnni_block(run, layer, first + p, column, 4);
    for (; p < pixels; p++) vnni_block(run, layer, first + p, column, 1);
  }
}

#undef INLINE
#undef TARGET

/* ---- with AMX ---- */

#define TARGET __attribute__((target(WIDE ",amx-tile,amx-int8")))
#define INLINE TARGET static inline __attribute__((always_inline))

/* Where the upper part of a pixel's channel lies: in a tile for each 64 channels, with one of lower parts behind it. */
static inline size_t part_at(int pixel, int channel) {
  return (size_t)channel / ROW_BYTES * 2 * TILE_BYTES + pixel * ROW_BYTES + channel % ROW_BYTES;
}
enum { LOWER = TILE_BYTES };

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
    if (more) value = _mm512_fmadd_ps(avx512_get(more->data + place), factor, value);
    avx512_put(layer, avx512_sloped(value, layer->slope), into->data + place);
  }
}

TARGET static void amx_point(const Run *run, const Layer *layer, int first, int pixels, int8_t *parts) {
  const Tensor *from = run->tensors + layer->source;
  const int steps = (from->channels + ROW_BYTES - 1) / ROW_BYTES;
  amx_split(from->data + (size_t)first * from->channels, pixels, from->channels, parts);
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
#endif

/* ---- layers in turn, by a team ---- */

typedef struct {
  int pixels; /* of a chunk */
  void (*point)(const Run *, const Layer *, int, int, int8_t *);
  void (*depthwise)(const Run *, const Layer *, int);
  void (*gate)(const Run *, const Layer *, int, int);
} Kernel;

static const Kernel CODE[KERNELS] = {
    {PIXELS, plain_point, plain_depthwise, plain_gate},
#if HAS_X86
    {24, avx2_point, avx2_depthwise, avx2_gate},
    {24, vnni_point, avx512_depthwise, avx512_gate},
    {PIXELS, amx_point, avx512_depthwise, avx512_gate},
#endif
};

static void compute(Run *run, const Layer *layer, Ring *ring) {
  const Kernel *code = &CODE[run->kernel];
  const int all = run->height * run->width;
  const int most = code->pixels, chunks = layer->kind == DEPTHWISE ? run->height : (all + most - 1) / most;
  const Tensor *from = run->tensors + layer->source;
  int8_t *parts = NULL;
  if (layer->kind == POINT && run->kernel == AMX) {
    const size_t bytes = (size_t)(from->channels + ROW_BYTES - 1) / ROW_BYTES * 2 * TILE_BYTES;
    parts = room_in(ring, bytes);
    if (!parts) {
      atomic_store(&run->status, OUT_OF_MEMORY);
      return;
    }
    memset(parts, 0, bytes); /* beyond the channels, and the last pixels */
  }
  for (int number; (number = atomic_fetch_add(&run->next_chunk, 1)) < chunks;) {
    const int first = number * most, pixels = all - first < most ? all - first : most;
    if (layer->kind == DEPTHWISE) {
      code->depthwise(run, layer, number);
    } else if (layer->kind == GATE) {
      code->gate(run, layer, first, pixels);
    } else {
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
  if (kernel == AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (kernel == VNNI_512)
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
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
