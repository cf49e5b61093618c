/* One layer in float32 on AVX2, by one member of the team: chunks of rows until none is left. Included by conv_chain.c.
 *
 * 3x3 convolutions by Winograd's F(4x4, 3x3): tiles of 6x6 of the input are transformed, multiplied in 36 products of
 * matrices, and transformed to 4x4 of the output: a quarter of the multiplications (Lavin and Gray, "Fast Algorithms
 * for Convolutional Neural Networks", 2016). Others are products of matrices as they are.
 */

#define AVX2 __attribute__((target("avx2,fma")))
#define INLINE_AVX2 AVX2 static inline __attribute__((always_inline))

enum { SIDE = 4, TILE = SIDE + 2, PRODUCTS = TILE * TILE }; /* outputs and inputs of a tile along each axis */
enum { ROWS = 6, VECTOR = 8, OUTPUTS = 2 * VECTOR };        /* of one product: twelve vectors of sums in registers */
enum { TILES = 4 * ROWS };                                  /* transformed and multiplied together */
enum { SLOTS = 8, APART = 16 };                             /* rows of the ring; floats between matrices */

/* x / (1 + 2^(-x log2 e)); the power of the fraction by its series, with an error of 2e-7. */
INLINE_AVX2 __m256 avx2_swish(__m256 x) {
  static const float SERIES[] = {1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1};
  const __m256 limit = _mm256_set1_ps(126);
  __m256 power = _mm256_mul_ps(x, _mm256_set1_ps(-1.44269504f));
  power = _mm256_max_ps(_mm256_min_ps(power, limit), _mm256_sub_ps(_mm256_setzero_ps(), limit));
  const __m256 whole = _mm256_round_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 part = _mm256_sub_ps(power, whole);
  __m256 p = _mm256_set1_ps(1.54035304e-4f);
  for (int i = 0; i < 6; i++) p = _mm256_fmadd_ps(p, part, _mm256_set1_ps(SERIES[i]));
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
  p = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
  return _mm256_div_ps(x, _mm256_add_ps(p, _mm256_set1_ps(1)));
}

/* A row, each channel times its factor plus its offset. */
AVX2 static void avx2_normalise(const Run *run, const float *from, float *to, int width, int channels, int is_swish) {
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c += VECTOR, from += VECTOR, to += VECTOR) {
      const __m256 factor = _mm256_load_ps(run->factor + c), offset = _mm256_load_ps(run->offset + c);
      const __m256 v = _mm256_fmadd_ps(_mm256_loadu_ps(from), factor, offset);
      _mm256_storeu_ps(to, is_swish ? avx2_swish(v) : v);
    }
}

AVX2 static void avx2_add_row(const float *row, int width, int channels, float *sums) {
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c++) {
      const float v = row[(size_t)x * channels + c];
      sums[c] += v;
      sums[channels + c] += v * v;
    }
}

/* Along one axis, B^T d. */
INLINE_AVX2 void into_tile(const __m256 d[TILE], __m256 out[TILE]) {
  const __m256 two = _mm256_set1_ps(2), four = _mm256_set1_ps(4), five = _mm256_set1_ps(5);
  const __m256 a = _mm256_fnmadd_ps(four, d[2], d[4]), b = _mm256_fnmadd_ps(four, d[1], d[3]);
  const __m256 c = _mm256_sub_ps(d[4], d[2]), e = _mm256_mul_ps(two, _mm256_sub_ps(d[3], d[1]));
  out[0] = _mm256_fmadd_ps(four, d[0], _mm256_fnmadd_ps(five, d[2], d[4]));
  out[1] = _mm256_add_ps(a, b);
  out[2] = _mm256_sub_ps(a, b);
  out[3] = _mm256_add_ps(c, e);
  out[4] = _mm256_sub_ps(c, e);
  out[5] = _mm256_fmadd_ps(four, d[1], _mm256_fnmadd_ps(five, d[3], d[5]));
}

/* Along one axis, A^T m. */
INLINE_AVX2 void out_of_tile(const __m256 m[TILE], __m256 out[SIDE]) {
  const __m256 a = _mm256_add_ps(m[1], m[2]), b = _mm256_sub_ps(m[1], m[2]);
  const __m256 c = _mm256_add_ps(m[3], m[4]), d = _mm256_sub_ps(m[3], m[4]);
  out[0] = _mm256_add_ps(m[0], _mm256_add_ps(a, c));
  out[1] = _mm256_fmadd_ps(_mm256_set1_ps(2), d, b);
  out[2] = _mm256_fmadd_ps(_mm256_set1_ps(4), c, a);
  out[3] = _mm256_add_ps(_mm256_fmadd_ps(_mm256_set1_ps(8), d, b), m[5]);
}

/* Tiles of six rows of the ring -> one matrix (tiles, depth) for each of the 36 places. */
AVX2 static void transform_tiles(const float *const rows[TILE], int first, int tiles, int depth, float *to) {
  const size_t apart = (size_t)TILES * depth + APART;
  for (int t = 0; t < tiles; t++)
    for (int c = 0; c < depth; c += VECTOR) {
      __m256 half[TILE][TILE];
      for (int j = 0; j < TILE; j++) {
        __m256 column[TILE], done[TILE];
        const size_t at = (size_t)(SIDE * (first + t) + j) * depth + c;
        for (int i = 0; i < TILE; i++) column[i] = _mm256_loadu_ps(rows[i] + at);
        into_tile(column, done);
        for (int i = 0; i < TILE; i++) half[i][j] = done[i];
      }
      float *place = to + (size_t)t * depth + c;
      for (int i = 0; i < TILE; i++) {
        __m256 done[TILE];
        into_tile(half[i], done);
        for (int j = 0; j < TILE; j++, place += apart) _mm256_storeu_ps(place, done[j]);
      }
    }
}

/* Six rows of a times 16 columns of b, over all taps. Spelt out: an array of sums would lie in memory. */
AVX2 static void multiply_rows(const float *const *taps, int count, size_t ahead, size_t step, int depth, const float *b,
                               float *to, size_t to_step) {
#define SUMS(i) __m256 low##i = _mm256_setzero_ps(), high##i = _mm256_setzero_ps();
#define ADD(i)                                           \
  {                                                      \
    const __m256 value = _mm256_broadcast_ss(a + i * step); \
    low##i = _mm256_fmadd_ps(value, low, low##i);        \
    high##i = _mm256_fmadd_ps(value, high, high##i);     \
  }
#define KEEP(i)                                  \
  _mm256_storeu_ps(to + i * to_step, low##i);    \
  _mm256_storeu_ps(to + i * to_step + VECTOR, high##i);
  SUMS(0) SUMS(1) SUMS(2) SUMS(3) SUMS(4) SUMS(5)
  for (int t = 0; t < count; t++) {
    const float *a = taps[t] + ahead;
    for (int k = 0; k < depth; k++, a++, b += OUTPUTS) {
      const __m256 low = _mm256_loadu_ps(b), high = _mm256_loadu_ps(b + VECTOR);
      ADD(0) ADD(1) ADD(2) ADD(3) ADD(4) ADD(5)
    }
  }
  KEEP(0) KEEP(1) KEEP(2) KEEP(3) KEEP(4) KEEP(5)
#undef SUMS
#undef ADD
#undef KEEP
}

/* Where results go: row and column of the first one, and how sums are kept. */
typedef struct {
  const Layer *layer;
  const Tensor *rest;
  Tensor *into;
  float *sums; /* (2, columns): of values and of their squares, of one row of tiles */
} Sink;

/* Eight channels of a pixel: bias, residual, sums. */
INLINE_AVX2 void put_pixel(const Sink *sink, int y, int x, int c, __m256 v, __m256 *sum, __m256 *squares) {
  const Tensor *into = sink->into;
  const size_t place = ((size_t)y * into->width + x) * into->channels + c;
  v = _mm256_add_ps(v, _mm256_loadu_ps(sink->layer->bias + c));
  if (into->channels < OUTPUTS) {
    float values[VECTOR];
    _mm256_storeu_ps(values, v);
    for (int i = 0; i < VECTOR && c + i < into->channels; i++) ((float *)into->data)[place + i] = values[i];
    return;
  }
  if (sink->rest) v = _mm256_add_ps(v, _mm256_loadu_ps((const float *)sink->rest->data + place));
  _mm256_storeu_ps((float *)into->data + place, v);
  *sum = _mm256_add_ps(*sum, v);
  *squares = _mm256_fmadd_ps(v, v, *squares);
}

INLINE_AVX2 void keep_sums(const Sink *sink, int c, __m256 sum, __m256 squares) {
  float *sums = sink->sums + c, *of_squares = sums + sink->layer->columns;
  _mm256_storeu_ps(sums, _mm256_add_ps(_mm256_loadu_ps(sums), sum));
  _mm256_storeu_ps(of_squares, _mm256_add_ps(_mm256_loadu_ps(of_squares), squares));
}

/* A matrix (tiles, columns) for each of 36 places -> 4x4 pixels of each tile, from row y on. */
AVX2 static void finish_tiles(const Sink *sink, int y, int first, int tiles, const float *products) {
  const int columns = sink->layer->columns, height = sink->into->height, width = sink->into->width;
  const size_t apart = (size_t)TILES * columns + APART;
  for (int c = 0; c < columns; c += VECTOR) {
    __m256 sum = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
    for (int t = 0; t < tiles; t++) {
      __m256 half[SIDE][TILE];
      for (int j = 0; j < TILE; j++) {
        __m256 column[TILE], done[SIDE];
        const float *place = products + j * apart + (size_t)t * columns + c;
        for (int i = 0; i < TILE; i++) column[i] = _mm256_loadu_ps(place + i * TILE * apart);
        out_of_tile(column, done);
        for (int i = 0; i < SIDE; i++) half[i][j] = done[i];
      }
      for (int i = 0; i < SIDE && y + i < height; i++) {
        __m256 done[SIDE];
        out_of_tile(half[i], done);
        for (int j = 0; j < SIDE; j++) {
          const int x = SIDE * (first + t) + j;
          if (x < width) put_pixel(sink, y + i, x, c, done[j], &sum, &squares);
        }
      }
    }
    keep_sums(sink, c, sum, squares);
  }
}

AVX2 static void finish_pixels(const Sink *sink, int y, int first, int pixels, const float *products) {
  const int columns = sink->layer->columns;
  for (int c = 0; c < columns; c += VECTOR) {
    __m256 sum = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
    for (int p = 0; p < pixels; p++)
      put_pixel(sink, y, first + p, c, _mm256_loadu_ps(products + (size_t)p * columns + c), &sum, &squares);
    keep_sums(sink, c, sum, squares);
  }
}

/* Row r of what is convolved, into the ring: normalised, or each pixel twice, or as it is. One pixel stays zero before. */
static void avx2_fill(const Run *run, const Layer *layer, const Tensor *from, int r, float *slot, size_t pitch) {
  const int channels = from->channels, doubles = layer->kind == UP;
  const int row = doubles && r >= 0 ? r / 2 : r;
  if (row < 0 || row >= from->height) {
    memset(slot, 0, pitch * sizeof(float));
    return;
  }
  const float *source = (const float *)from->data + (size_t)row * from->width * channels;
  float *to = slot + channels;
  if (layer->groups) {
    avx2_normalise(run, source, to, from->width, channels, layer->swish);
  } else if (!doubles) {
    memcpy(to, source, (size_t)from->width * channels * sizeof(float));
  } else {
    for (int x = 0; x < 2 * from->width; x++)
      memcpy(to + (size_t)x * channels, source + (size_t)(x / 2) * channels, channels * sizeof(float));
  }
}

static void walk_avx2(Run *run, const Layer *layer, Ring *ring) {
  const Tensor *from = run->tensors + layer->source;
  Tensor *into = run->tensors + layer->target;
  const int kind = layer->kind, in_tiles = kind == DENSE || kind == UP, stride = kind == DOWN ? 2 : 1;
  const int depth = from->channels, columns = layer->columns, height = into->height, width = into->width;
  const int count = kind == POINT ? 1 : MOST_TAPS, rows = in_tiles ? SIDE : 1;
  const int above = kind == DOWN || kind == POINT ? 0 : 1, below = kind == POINT ? 0 : kind == DOWN ? 2 : 1;
  const int tiles = (width + SIDE - 1) / SIDE;
  const size_t pitch = (size_t)(stride * (width + TILES) + TILE) * depth;
  const size_t given = PRODUCTS * ((size_t)TILES * depth + APART), made = PRODUCTS * ((size_t)TILES * columns + APART);
  const size_t size = SLOTS * pitch + (in_tiles ? given : 0) + made + 2 * (size_t)columns;

  /* Chunks do not depend on the number of threads, so that sums, and with them images, do not either. */
  enum { LEAST_CHUNK = 2 * SIDE };
  int chunk = ((height + CHUNKS - 1) / CHUNKS + SIDE - 1) / SIDE * SIDE;
  if (chunk < LEAST_CHUNK) chunk = LEAST_CHUNK;
  const int chunks = (height + chunk - 1) / chunk;

  float *slots = room_in(ring, size * sizeof *slots);
  if (!slots) {
    atomic_store(&run->status, OUT_OF_MEMORY);
    return;
  }
  float *products = slots + SLOTS * pitch, *sums = products + made, *matrices = sums + 2 * columns;
  memset(slots, 0, size * sizeof *slots);
  const Sink sink = {layer, layer->residual < 0 ? NULL : run->tensors + layer->residual, into, sums};
#define SLOT(row) (slots + (size_t)(((row) + SLOTS) % SLOTS) * pitch)

  for (;;) {
    const int number = atomic_fetch_add(&run->next_chunk, 1);
    if (number >= chunks) break;
    if (number == 0) into->chunks = chunks;
    const int first = number * chunk, last = first + chunk < height ? first + chunk : height;
    double *total = into->sums ? into->sums + (size_t)number * into->channels * 2 : NULL;
    if (total) memset(total, 0, sizeof(double) * 2 * into->channels);
    int ready = first * stride - above; /* rows below it are in the ring */
    for (int y = first; y < last; y += rows) {
      for (; ready < (y + rows - 1) * stride + below + 1; ready++) avx2_fill(run, layer, from, ready, SLOT(ready), pitch);
      memset(sums, 0, 2 * (size_t)columns * sizeof(float));
      if (in_tiles) {
        const float *lines[TILE];
        for (int i = 0; i < TILE; i++) lines[i] = SLOT(y - 1 + i);
        for (int t = 0; t < tiles; t += TILES) {
          const int here = tiles - t < TILES ? tiles - t : TILES;
          transform_tiles(lines, t, here, depth, matrices);
          for (int i = 0; i < PRODUCTS; i++) {
            const float *matrix = matrices + i * ((size_t)TILES * depth + APART);
            float *product = products + i * ((size_t)TILES * columns + APART);
            for (int c = 0; c < columns; c += OUTPUTS) {
              const float *weights = (const float *)layer->weights + ((size_t)i * columns + c) * depth;
              for (int p = 0; p < here; p += ROWS)
                multiply_rows(&matrix, 1, (size_t)p * depth, depth, depth, weights, product + (size_t)p * columns + c, columns);
            }
          }
          finish_tiles(&sink, y, t, here, products);
        }
      } else {
        const float *taps[MOST_TAPS];
        for (int t = 0; t < count; t++) {
          const int down = count == 1 ? 0 : t / 3 - above, across = count == 1 ? 1 : t % 3 + 1 - above;
          taps[t] = SLOT(y * stride + down) + (size_t)across * depth;
        }
        for (int x = 0; x < width; x += TILES) {
          const int here = width - x < TILES ? width - x : TILES;
          for (int c = 0; c < columns; c += OUTPUTS) {
            const float *weights = (const float *)layer->weights + (size_t)c * count * depth;
            for (int p = 0; p < here; p += ROWS)
              multiply_rows(taps, count, (size_t)(x + p) * stride * depth, (size_t)stride * depth, depth, weights,
                            products + (size_t)p * columns + c, columns);
          }
          finish_pixels(&sink, y, x, here, products);
        }
      }
      if (total)
        for (int c = 0; c < into->channels; c++) {
          total[2 * c] += sums[c];
          total[2 * c + 1] += sums[columns + c];
        }
    }
  }
#undef SLOT
}
