/* Convolutions in a row, with GroupNorm, swish, sums and residuals inside them, on AMX; in float32: conv_chain_f32.h.
 *
 *   tensor i --(x factor + offset, swish)--> rows of a ring --(tiles)--> sums of products
 *            --(+ bias, + residual)--> tensor j, and for each channel the sums that its own GroupNorm wants
 *
 * An activation is read once and written once for each convolution. What is no multiplication of tiles, normalising the
 * next row and finishing the last block, is done between the tile instructions, which leave most of a core idle.
 * conv_chain.py packs weights, plans tensors and checks; docs/decisions/0013-amx-chain.md says why and what it gains.
 */

#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <string.h>

#include "amx.h"
#include "kernel_names.h"
#include "team.h"

/* Kinds of convolutions; conv_chain.py has the same numbers. */
enum { DENSE, DOWN, UP, POINT, FIRST };

/* What is multiplied, of which rings and weights consist; not what lies in tensors. */
enum { F16, BF16, U8 };

/* A block: 32 pixels of a row times 32 columns (output channels), four tiles of 16 x 16 sums of products. */
enum { PIXELS = 32, COLUMNS = 32, LANES = TILE_ROWS };
enum { GATHERED = 32 }; /* values of a pixel with its neighbours, of an image */

enum { PLAIN_F16, PLAIN_BF16, AVX2_F32, AVX512_F32, AMX_F16, AMX_BF16, KERNELS };
static const char *const KERNEL_NAMES[KERNELS] = {"plain f16",  "plain bf16", "avx2 f32",
                                                  "avx512 f32", "amx f16",    "amx bf16"};

enum { MOST_TAPS = 9, MOST_PHASES = 4 };
enum { CHUNKS = 32 }; /* of rows, at most: conv_chain.py gives a tensor so many sums */

enum { DONE, OUT_OF_RANGE, OUT_OF_MEMORY };

#define BYTES_OF(number) ((number) == U8 ? 1 : 2)

typedef struct {
  int32_t kind, source, target, residual; /* numbers of tensors; residual -1 for none */
  int32_t groups, swish;                  /* of what stands before; groups 0 for no GroupNorm */
  int32_t columns, eight_bits;            /* of the packed weights: output channels, up to a multiple of 16 */
  int32_t side;                           /* in float32: outputs of a tile of Winograd's along each axis; 0 for none */
  double epsilon;
  float codes, zero;                      /* in eight bits: a value is round(value * codes) + zero, from 0 to 255 */
  const void *weights;
  const float *bias, *scale, *shift, *unit; /* unit: in eight bits, what one stands for in the sum of a column */
} Layer;

typedef struct {
  void *data;   /* (height, width, channels) float16; float32 for kernels in it, and of fewer than 16 channels */
  double *sums; /* (chunks, channels, 2): of values and of their squares; NULL where nothing asks for them */
  int32_t height, width, channels, chunks; /* chunks 0: nobody added up yet */
} Tensor;

typedef struct {
  const Layer *layers;
  Tensor *tensors;
  int32_t count, kernel;
  float *factor, *offset; /* of the layer at work, for each channel of its source */
  uint16_t *halves;       /* in eight bits: a mean of each channel, then factors of what is beyond it, then offsets */
  float codes, zero;      /* likewise */
  atomic_int next_chunk, status;
  Team team;
} Run;

/* Sums of products of one block, which wait for bias, residual and their place. */
typedef struct {
  const int32_t *products; /* bits of float32 but in eight bits */
  const float *bias, *unit;
  const uint16_t *residual;
  uint16_t *to;
  float *sums;
  size_t step;
  int32_t pixel, pixels, columns;
} Pending;

/* A row on its way into the ring. */
typedef struct {
  const uint16_t *from;
  uint8_t *to;
  int32_t left, channel; /* vectors of LANES; channel of the next one */
} Cursor;

static Cursor cursor_at(const Tensor *from, int row, uint8_t *to) {
  const size_t values = (size_t)from->width * from->channels;
  return (Cursor){(const uint16_t *)from->data + row * values, to, (int32_t)(values / LANES), 0};
}

/* A row of an image, each pixel with its neighbours: (width, GATHERED), the last of them zero. */
static void gather(const Tensor *image, int row, float *to) {
  const int width = image->width, n = image->channels;
  memset(to, 0, (size_t)width * GATHERED * sizeof(float));
  for (int down = 0; down < 3; down++) {
    const int y = row + down - 1;
    if (y < 0 || y >= image->height) continue;
    const float *line = (const float *)image->data + (size_t)y * width * n;
    for (int x = 0; x < width; x++) {
      const int first = x > 0 ? x - 1 : 0, end = x + 2 < width ? x + 2 : width;
      float *place = to + (size_t)x * GATHERED + (down * 3 + first - (x - 1)) * n;
      memcpy(place, line + (size_t)first * n, (size_t)(end - first) * n * sizeof(float));
    }
  }
}

/* ---- without AMX: for tests, and as the definition of what the others compute ---- */

static float widened(uint16_t bits, int number) {
  if (number == F16) {
    _Float16 value;
    memcpy(&value, &bits, sizeof value);
    return (float)value;
  }
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

static uint16_t narrowed(float value, int number) {
  uint16_t bits;
  if (number == F16) {
    _Float16 narrow = (_Float16)value;
    memcpy(&bits, &narrow, sizeof bits);
    return bits;
  }
  uint32_t wide;
  memcpy(&wide, &value, sizeof wide);
  return (uint16_t)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}

static void plain_put(const Run *run, float value, uint8_t *to, size_t index, int number) {
  if (number == U8) {
    const float code = value * run->codes + run->zero;
    to[index] = code > 255 ? 255 : code > 0 ? (uint8_t)nearbyintf(code) : 0;
  } else {
    const uint16_t bits = narrowed(value, number);
    memcpy(to + 2 * index, &bits, sizeof bits);
  }
}

static inline void plain_normalise(const Run *run, Cursor *w, int channels, int is_swish, int number) {
  for (int i = 0; i < LANES; i++) {
    float v = widened(w->from[i], F16) * run->factor[w->channel + i] + run->offset[w->channel + i];
    plain_put(run, is_swish ? v / (1 + expf(-v)) : v, w->to, i, number);
  }
  w->from += LANES;
  w->to += LANES * BYTES_OF(number);
  w->left--;
  w->channel = w->channel + LANES == channels ? 0 : w->channel + LANES;
}

static void plain_add_row(const uint16_t *row, int width, int channels, float *sums) {
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c++) {
      const float v = widened(row[(size_t)x * channels + c], F16);
      sums[c] += v;
      sums[channels + c] += v * v;
    }
}

static inline void plain_narrow(const Run *run, const float *from, uint8_t *to, size_t count, int number) {
  for (size_t i = 0; i < count; i++) plain_put(run, from[i], to, i, number);
}

static inline void plain_copy(const Run *run, const uint16_t *from, uint8_t *to, size_t count, int number) {
  for (size_t i = 0; i < count; i++) plain_put(run, widened(from[i], F16), to, i, number);
}

/* Of a pixel and a column, with bias. */
static float value_of(const Pending *w, int pixel, int column, int number) {
  const int32_t bits = w->products[pixel * COLUMNS + column];
  float sum;
  memcpy(&sum, &bits, sizeof sum);
  return (number == U8 ? (float)bits * w->unit[column] : sum) + w->bias[column];
}

static inline void plain_finish(Pending *w, int number) {
  const int p = w->pixel++;
  for (int c = 0; c < w->columns; c++) {
    float v = value_of(w, p, c, number);
    if (w->residual) v += widened(w->residual[p * w->step + c], F16);
    w->to[p * w->step + c] = narrowed(v, F16);
    w->sums[c] += v;
    w->sums[COLUMNS + c] += v * v;
  }
}

/* A tile of weights has a row for as many input channels as four bytes hold, and 16 columns. */
static inline float plain_product(const uint8_t *a, const uint8_t *tile, int column, int number) {
  float sum = 0;
  for (int k = 0; k < ROW_BYTES; k += BYTES_OF(number)) {
    const uint8_t *weight = tile + k / 4 * ROW_BYTES + column * 4 + k % 4;
    if (number == U8) {
      sum += (float)(a[k] * (int8_t)*weight); /* of 64 products: exact */
    } else {
      uint16_t left, right;
      memcpy(&left, a + k, sizeof left);
      memcpy(&right, weight, sizeof right);
      sum += widened(left, number) * widened(right, number);
    }
  }
  return sum;
}

static inline void plain_multiply(const Run *run, const uint8_t *const *taps, int count, int steps, int channels,
                                  size_t ahead, size_t stride, const uint8_t *b, int rows, int columns,
                                  int32_t *products, Pending *pending, Cursor *cursor, int is_swish, int number) {
  while (pending->pixel < pending->pixels) plain_finish(pending, number);
  while (cursor->left) plain_normalise(run, cursor, channels, is_swish, number);
  for (int p = 0; p < rows * LANES; p++)
    for (int c = 0; c < columns * LANES; c++) {
      int32_t whole = 0;
      float sum = 0;
      for (int t = 0; t < count; t++)
        for (int k = 0; k < steps; k++) {
          /* Tiles of the two halves of the columns lie in turn. */
          const size_t tile = ((size_t)t * steps + k) * columns + c / LANES;
          const float product =
              plain_product(taps[t] + ahead + p * stride + k * ROW_BYTES, b + tile * TILE_BYTES, c % LANES, number);
          if (number == U8)
            whole += (int32_t)product;
          else
            sum += product;
        }
      if (number == U8)
        products[p * COLUMNS + c] = whole;
      else
        memcpy(products + p * COLUMNS + c, &sum, sizeof sum);
    }
}

#define WALK walk_plain
#define TARGET
#define NUMBER (layer->eight_bits ? U8 : run->kernel == PLAIN_F16 ? F16 : BF16)
#define OP(name) plain_##name
#include "conv_chain_walk.h"
#undef WALK
#undef TARGET
#undef NUMBER
#undef OP

/* ---- with AMX ---- */

#if HAS_X86
#define TARGET                                                                                                 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512fp16,fma,f16c,amx-tile,amx-bf16," \
                        "amx-int8")))
#define INLINE TARGET static inline __attribute__((always_inline))

INLINE __m512 amx_swish(__m512 x) {
  /* x / (1 + 2^(-x log2 e)); the power of the fraction by a polynomial with an error of 5e-6 on [-1/2, 1/2], the
   * reciprocal with one of 2^-14: both below half of float16's last digit. */
  const __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
  const __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(power, whole);
  __m512 p = _mm512_set1_ps(9.67028e-3f);
  p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(5.59236e-2f));
  p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(2.40224e-1f));
  p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(6.931328e-1f));
  p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(1.0f));
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(_mm512_scalef_ps(p, whole), one)));
}

INLINE __m512 amx_get(const uint16_t *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }

INLINE void amx_put(const Run *run, uint8_t *to, __m512 v, const int number) {
  if (number == U8) {
    const __m512 code = _mm512_fmadd_ps(v, _mm512_set1_ps(run->codes), _mm512_set1_ps(run->zero));
    const __m512i whole = _mm512_cvtps_epu32(_mm512_max_ps(code, _mm512_setzero_ps()));
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(whole));
  } else {
    const __m256i bits = number == F16 ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT) : (__m256i)_mm512_cvtneps_pbh(v);
    _mm256_storeu_si256((__m256i *)to, bits);
  }
}

/* In float16, whose error is a tenth of a code's: half as many instructions for twice as many values.
 * The power of the fraction by a polynomial with an error of 1e-4. */
INLINE __m512h amx_half_swish(__m512h x) {
  const __m512h power = _mm512_mul_ph(x, _mm512_set1_ph(-1.4427f));
  const __m512h whole = _mm512_roundscale_ph(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512h part = _mm512_sub_ph(power, whole), one = _mm512_set1_ph(1);
  __m512h p = _mm512_fmadd_ph(_mm512_set1_ph(0.0558f), part, _mm512_set1_ph(0.2402f));
  p = _mm512_fmadd_ph(p, part, _mm512_set1_ph(0.6931f));
  p = _mm512_fmadd_ph(p, part, one);
  return _mm512_mul_ph(x, _mm512_rcp_ph(_mm512_add_ph(_mm512_scalef_ph(p, whole), one)));
}

/* As amx_normalise, of twice as many values. Less its mean first: float16 holds the rest of a large one. */
INLINE void amx_codes(const Run *run, Cursor *w, int channels, int is_swish) {
  const uint16_t *halves = run->halves + w->channel;
  const __m512h mean = _mm512_loadu_ph(halves), factor = _mm512_loadu_ph(halves + channels);
  const __m512h offset = _mm512_loadu_ph(halves + 2 * channels);
  __m512h v = _mm512_fmadd_ph(_mm512_sub_ph(_mm512_loadu_ph(w->from), mean), factor, offset);
  if (is_swish) v = amx_half_swish(v);
  v = _mm512_fmadd_ph(v, _mm512_set1_ph((_Float16)run->codes), _mm512_set1_ph((_Float16)run->zero));
  const __m512i whole = _mm512_cvtph_epu16(_mm512_max_ph(v, _mm512_setzero_ph()));
  _mm256_storeu_si256((__m256i *)w->to, _mm512_cvtusepi16_epi8(whole));
  w->from += 2 * LANES;
  w->to += 2 * LANES;
  w->left -= 2;
  w->channel = w->channel + 2 * LANES == channels ? 0 : w->channel + 2 * LANES;
}

INLINE void amx_normalise(const Run *run, Cursor *w, int channels, int is_swish, const int number) {
  if (number == U8) {
    amx_codes(run, w, channels, is_swish);
    return;
  }
  const __m512 factor = _mm512_load_ps(run->factor + w->channel), offset = _mm512_load_ps(run->offset + w->channel);
  const __m512 v = _mm512_fmadd_ps(amx_get(w->from), factor, offset);
  amx_put(run, w->to, is_swish ? amx_swish(v) : v, number);
  w->from += LANES;
  w->to += LANES * BYTES_OF(number);
  w->left--;
  w->channel = w->channel + LANES == channels ? 0 : w->channel + LANES;
}

TARGET static void amx_add_row(const uint16_t *row, int width, int channels, float *sums) {
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c += LANES, row += LANES) {
      const __m512 v = amx_get(row);
      _mm512_storeu_ps(sums + c, _mm512_add_ps(_mm512_loadu_ps(sums + c), v));
      _mm512_storeu_ps(sums + channels + c, _mm512_fmadd_ps(v, v, _mm512_loadu_ps(sums + channels + c)));
    }
}

INLINE void amx_narrow(const Run *run, const float *from, uint8_t *to, size_t count, const int number) {
  for (size_t i = 0; i < count; i += LANES) amx_put(run, to + i * BYTES_OF(number), _mm512_loadu_ps(from + i), number);
}

INLINE void amx_copy(const Run *run, const uint16_t *from, uint8_t *to, size_t count, const int number) {
  if (number == F16) {
    memcpy(to, from, 2 * count);
    return;
  }
  for (size_t i = 0; i < count; i += LANES) amx_put(run, to + i * BYTES_OF(number), amx_get(from + i), number);
}

/* So many pixels, which share the loading and storing of sums. */
INLINE void amx_finish_some(Pending *w, const int count, const int number) {
  const int first = w->pixel;
  w->pixel += count;
  for (int c = 0; c < w->columns; c += LANES) {
    float *sums = w->sums + c, *squares = w->sums + COLUMNS + c;
    __m512 sum = _mm512_load_ps(sums), square = _mm512_load_ps(squares);
    const __m512 bias = _mm512_loadu_ps(w->bias + c);
    for (int p = first; p < first + count; p++) {
      const __m512i bits = _mm512_load_si512(w->products + p * COLUMNS + c);
      __m512 v = number == U8 ? _mm512_fmadd_ps(_mm512_cvtepi32_ps(bits), _mm512_loadu_ps(w->unit + c), bias)
                              : _mm512_add_ps(_mm512_castsi512_ps(bits), bias);
      if (w->residual) v = _mm512_add_ps(v, amx_get(w->residual + p * w->step + c));
      _mm256_storeu_si256((__m256i *)(w->to + p * w->step + c), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
      sum = _mm512_add_ps(sum, v);
      square = _mm512_fmadd_ps(v, v, square);
    }
    _mm512_store_ps(sums, sum);
    _mm512_store_ps(squares, square);
  }
}

INLINE void amx_finish(Pending *w, const int number) {
  if (number == U8 && w->pixel + 1 < w->pixels)
    amx_finish_some(w, 2, number);
  else
    amx_finish_some(w, 1, number);
}

/* tile `sum` += tile `pixels` x tile `weights`. The float16 form by its bytes: gcc 12 does not know it. VEX holds the
 * third operand inverted: 0x4b for tile 6, 0x43 for tile 7. */
#define PRODUCT(sum, pixels, weights, third)                                                                     \
  do {                                                                                                           \
    if (number == F16)                                                                                           \
      __asm__ volatile(".byte 0xc4, 0xe2, " third ", 0x5c, 0xc0 + 8 * " #sum " + " #pixels);                     \
    else if (number == BF16)                                                                                     \
      _tile_dpbf16ps(sum, pixels, weights);                                                                      \
    else                                                                                                         \
      _tile_dpbusd(sum, pixels, weights);                                                                        \
  } while (0)

enum { VECTORS_BESIDE = 3 }; /* normalised for each step in depth; a row then ends before its tiles do */

INLINE void amx_multiply(const Run *run, const uint8_t *const *taps, int count, int steps, int channels, size_t ahead,
                         size_t stride, const uint8_t *b, int rows, int columns, int32_t *products, Pending *pending,
                         Cursor *cursor, int is_swish, const int number) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int t = 0; t < count; t++) {
    const uint8_t *a = taps[t] + ahead;
    for (int k = 0; k < steps; k++, a += ROW_BYTES, b += TILE_BYTES * columns) {
      _tile_loadd(6, b, ROW_BYTES);
      _tile_loadd(4, a, stride);
      PRODUCT(0, 4, 6, "0x4b");
      if (columns > 1) {
        _tile_loadd(7, b + TILE_BYTES, ROW_BYTES);
        PRODUCT(1, 4, 7, "0x43");
      }
      if (rows > 1) {
        _tile_loadd(5, a + LANES * stride, stride);
        PRODUCT(2, 5, 6, "0x4b");
        if (columns > 1) PRODUCT(3, 5, 7, "0x43");
      }
      if (pending->pixel < pending->pixels) amx_finish(pending, number);
      for (int i = 0; i < VECTORS_BESIDE; i++)
        if (cursor->left) amx_normalise(run, cursor, channels, is_swish, number);
    }
  }
  while (pending->pixel < pending->pixels) amx_finish(pending, number);
  enum { ROW = COLUMNS * sizeof(int32_t) };
  _tile_stored(0, products, ROW);
  _tile_stored(1, products + LANES, ROW);
  _tile_stored(2, products + LANES * COLUMNS, ROW);
  _tile_stored(3, products + LANES * COLUMNS + LANES, ROW);
}

#define OP(name) amx_##name
#define WALK walk_amx_f16
#define NUMBER F16
#include "conv_chain_walk.h"
#undef WALK
#undef NUMBER
#define WALK walk_amx_bf16
#define NUMBER BF16
#include "conv_chain_walk.h"
#undef WALK
#undef NUMBER
#define WALK walk_amx_u8
#define NUMBER U8
#include "conv_chain_walk.h"
#endif

/* ---- in float32, with AVX2 or AVX-512 ---- */

#if HAS_X86
enum { MOST_TILE = 8 };              /* inputs of a tile along each axis */
enum { TILES = 24 };                 /* at most: transformed and multiplied together */
enum { SLOTS = 8, LEAST_CHUNK = 8 }; /* rows: of the ring, of the output */
enum { APART = 16 };                 /* floats between matrices */
#define PANEL 16                     /* columns of weights that lie together */

/* Where results go, and how sums are kept. */
typedef struct {
  const Layer *layer;
  const Tensor *rest;
  Tensor *into;
  float *sums; /* (2, columns): of values and of their squares, of one row of tiles */
} Sink;

#define TARGET_F32 __attribute__((target("avx2,fma")))
#define VALUES __m256
#define F(name) _mm256_##name##_ps
#define ISA(name) avx2_##name
#define VECTOR 8 /* values */
#define ROWS 6   /* of one product: with two vectors of columns, twelve vectors of sums in registers */
#define EACH_ROW(what) what(0) what(1) what(2) what(3) what(4) what(5)

TARGET_F32 static inline VALUES avx2_rounded(VALUES x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

TARGET_F32 static inline VALUES avx2_times_power_of_two(VALUES x, VALUES power) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(power), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
}

#include "conv_chain_f32.h"
#undef TARGET_F32
#undef VALUES
#undef F
#undef ISA
#undef VECTOR
#undef ROWS
#undef EACH_ROW

#define TARGET_F32 __attribute__((target("avx512f,fma")))
#define VALUES __m512
#define F(name) _mm512_##name##_ps
#define ISA(name) avx512_##name
#define VECTOR 16
#define ROWS 8
#define EACH_ROW(what) what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7)

TARGET_F32 static inline VALUES avx512_rounded(VALUES x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

TARGET_F32 static inline VALUES avx512_times_power_of_two(VALUES x, VALUES power) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_cvtps_epi32(power), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), exponent));
}

#include "conv_chain_f32.h"
#endif

/* ---- layers in turn, by a team ---- */

/* Factor and offset of each channel, from the sums over its group. */
static void prepare_layer(void *given, int number) {
  Run *run = given;
  const Layer *layer = run->layers + number;
  const Tensor *from = run->tensors + layer->source;
  atomic_store(&run->next_chunk, 0);
  run->codes = layer->codes;
  run->zero = layer->zero;
  if (!layer->groups) return;
  const int size = from->channels / layer->groups;
  const double count = (double)from->height * from->width * size;
  for (int first = 0; first < from->channels; first += size) {
    double sum = 0, squares = 0;
    for (int k = 0; k < from->chunks; k++)
      for (int c = first; c < first + size; c++) {
        const double *sums = from->sums + ((size_t)k * from->channels + c) * 2;
        sum += sums[0];
        squares += sums[1];
      }
    const double mean = sum / count, variance = squares / count - mean * mean;
    const double inverse = 1 / sqrt((variance > 0 ? variance : 0) + layer->epsilon);
    if (!isfinite(squares)) atomic_store(&run->status, OUT_OF_RANGE);
    for (int c = first; c < first + size; c++) {
      run->factor[c] = (float)(layer->scale[c] * inverse);
      run->offset[c] = (float)(layer->shift[c] - layer->scale[c] * mean * inverse);
      if (layer->eight_bits) {
        const uint16_t near = narrowed((float)mean, F16);
        run->halves[c] = near;
        run->halves[from->channels + c] = narrowed(run->factor[c], F16);
        run->halves[2 * from->channels + c] = narrowed(run->offset[c] + widened(near, F16) * run->factor[c], F16);
      }
    }
  }
}

/* Sums over what the chain is given, where its first layer wants them: chunks of rows until none is left. */
static void add_up(Run *run, Ring *ring) {
  Tensor *given = run->tensors + run->layers->source;
  const int channels = given->channels, rows = (given->height + CHUNKS - 1) / CHUNKS;
  const int chunks = (given->height + rows - 1) / rows;
  float *sums = room_in(ring, 2 * (size_t)channels * sizeof *sums);
  if (!sums) {
    atomic_store(&run->status, OUT_OF_MEMORY);
    return;
  }
  for (int number; (number = atomic_fetch_add(&run->next_chunk, 1)) < chunks;) {
    if (number == 0) given->chunks = chunks;
    const int first = number * rows, last = first + rows < given->height ? first + rows : given->height;
    double *total = given->sums + (size_t)number * channels * 2;
    memset(total, 0, sizeof(double) * 2 * channels);
    for (int y = first; y < last; y++) {
      const size_t place = (size_t)y * given->width * channels;
      memset(sums, 0, 2 * (size_t)channels * sizeof *sums);
#if HAS_X86
      if (run->kernel == AVX2_F32) avx2_add_row((const float *)given->data + place, given->width, channels, sums);
      if (run->kernel == AVX512_F32) avx512_add_row((const float *)given->data + place, given->width, channels, sums);
      if (run->kernel >= AMX_F16) amx_add_row((const uint16_t *)given->data + place, given->width, channels, sums);
#endif
      if (run->kernel <= PLAIN_BF16)
        plain_add_row((const uint16_t *)given->data + place, given->width, channels, sums);
      for (int c = 0; c < channels; c++) {
        total[2 * c] += sums[c];
        total[2 * c + 1] += sums[channels + c];
      }
    }
  }
}

static void *member(void *given) {
  Run *run = given;
  Ring ring = {0};
#if HAS_X86
  if (run->kernel >= AMX_F16) configure_tiles();
#endif
  if (run->layers->groups) add_up(run, &ring);
  for (int i = 0; i < run->count; i++) {
    const Layer *layer = run->layers + i;
    meet(&run->team, prepare_layer, run, i);
    if (run->kernel == PLAIN_F16 || run->kernel == PLAIN_BF16) walk_plain(run, layer, &ring);
#if HAS_X86
    if (run->kernel == AVX2_F32) avx2_walk(run, layer, &ring);
    if (run->kernel == AVX512_F32) avx512_walk(run, layer, &ring);
    if (run->kernel >= AMX_F16 && layer->eight_bits) walk_amx_u8(run, layer, &ring);
    else if (run->kernel == AMX_F16) walk_amx_f16(run, layer, &ring);
    else if (run->kernel == AMX_BF16) walk_amx_bf16(run, layer, &ring);
#endif
  }
#if HAS_X86
  if (run->kernel >= AMX_F16) release_tiles();
#endif
  free(ring.data);
  return NULL;
}

static int run_layers(Run *run, int threads) {
  int most_channels = 0;
  for (int i = 0; i < run->count; i++) {
    const int channels = run->tensors[run->layers[i].source].channels;
    if (channels > most_channels) most_channels = channels;
  }
  const size_t bytes = ((size_t)most_channels * sizeof(float) + 63) / 64 * 64;
  run->factor = aligned_alloc(64, bytes);
  run->offset = aligned_alloc(64, bytes);
  run->halves = aligned_alloc(64, 2 * bytes);
  if (!run->factor || !run->offset || !run->halves) {
    free(run->factor);
    free(run->offset);
    free(run->halves);
    return OUT_OF_MEMORY;
  }
  run_team(&run->team, threads, member, run);
  free(run->factor);
  free(run->offset);
  free(run->halves);
  return atomic_load(&run->status);
}

/* ---- the module ---- */

static int is_here(int kernel) {
  if (kernel == PLAIN_F16 || kernel == PLAIN_BF16) return 1;
#if HAS_X86
  if (kernel == AVX2_F32) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (kernel == AVX512_F32) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma");
  return has_amx(kernel == AMX_F16);
#else
  return 0;
#endif
}

static PyObject *kernels(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return names_here(KERNEL_NAMES, KERNELS, is_here);
}

static PyObject *run(PyObject *module, PyObject *arguments) {
  (void)module;
  Py_buffer layers, tensors;
  int threads;
  const char *name;
  if (!PyArg_ParseTuple(arguments, "y*w*is", &layers, &tensors, &threads, &name)) return NULL;
  const Py_ssize_t count = layers.len / (Py_ssize_t)sizeof(Layer);
  const int kernel = kernel_named(name, threads, count, KERNEL_NAMES, KERNELS, is_here);
  if (kernel >= 0) {
    Run all = {.layers = layers.buf, .tensors = tensors.buf, .kernel = kernel, .count = (int32_t)count};
    int status;
    Py_BEGIN_ALLOW_THREADS;
    status = run_layers(&all, threads);
    Py_END_ALLOW_THREADS;
    const char *type = kernel == AVX2_F32 || kernel == AVX512_F32 ? "float32" : "float16";
    if (status == OUT_OF_RANGE) PyErr_Format(PyExc_OverflowError, "an activation left the range of %s", type);
    if (status == OUT_OF_MEMORY) PyErr_NoMemory();
  }
  PyBuffer_Release(&layers);
  PyBuffer_Release(&tensors);
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"kernels", kernels, METH_NOARGS, "Names of the kernels that this processor computes."},
    {"run", run, METH_VARARGS, "Compute layers in turn: run(layers, tensors, threads, kernel)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_conv_chain", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__conv_chain(void) { return PyModuleDef_Init(&MODULE); }
