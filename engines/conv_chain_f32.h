/* One layer in float32 by one member of the team: chunks of rows until none is left. A template: conv_chain.c includes
 * it for AVX2 and for AVX-512, with TARGET_F32, VALUES, F, ISA, VECTOR, ROWS and EACH_ROW set. Both compute each value in
 * the same order, so that no bit differs.
 *
 * 3x3 convolutions by Winograd's F(4x4, 3x3) or F(6x6, 3x3): tiles of 6x6 or 8x8 of the input are transformed,
 * multiplied in as many products of matrices, and transformed to 4x4 or 6x6 of the output: a quarter, or a fifth, of the
 * multiplications (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016). Others are products of
 * matrices as they are.
 */

#define INLINE_F32 TARGET_F32 static inline __attribute__((always_inline))

/* x / (1 + 2^(-x log2 e)); the power of the fraction by its series, with an error of 2e-7. */
INLINE_F32 VALUES ISA(swish)(VALUES x) {
  static const float SERIES[] = {1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1};
  const VALUES limit = F(set1)(126);
  VALUES power = F(mul)(x, F(set1)(-1.44269504f));
  power = F(max)(F(min)(power, limit), F(sub)(F(setzero)(), limit));
  const VALUES whole = ISA(rounded)(power), part = F(sub)(power, whole);
  VALUES p = F(set1)(1.54035304e-4f);
  for (int i = 0; i < 6; i++) p = F(fmadd)(p, part, F(set1)(SERIES[i]));
  return F(div)(x, F(add)(ISA(times_power_of_two)(p, whole), F(set1)(1)));
}

/* A row, each channel times its factor plus its offset. */
TARGET_F32 static void ISA(normalise)(const Run *run, const float *from, float *to, int width, int channels,
                                      int is_swish) {
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c += VECTOR, from += VECTOR, to += VECTOR) {
      const VALUES factor = F(load)(run->factor + c), offset = F(load)(run->offset + c);
      const VALUES v = F(fmadd)(F(loadu)(from), factor, offset);
      F(storeu)(to, is_swish ? ISA(swish)(v) : v);
    }
}

TARGET_F32 static void ISA(add_row)(const float *row, int width, int channels, float *sums) {
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c += VECTOR, row += VECTOR) {
      const VALUES v = F(loadu)(row);
      F(storeu)(sums + c, F(add)(F(loadu)(sums + c), v));
      F(storeu)(sums + channels + c, F(fmadd)(v, v, F(loadu)(sums + channels + c)));
    }
}

/* Along one axis, B^T d, of points 0, 1, -1, 2, -2 and infinity. */
INLINE_F32 void ISA(into_six)(const VALUES *d, VALUES *out) {
  const VALUES two = F(set1)(2), four = F(set1)(4), five = F(set1)(5);
  const VALUES a = F(fnmadd)(four, d[2], d[4]), b = F(fnmadd)(four, d[1], d[3]);
  const VALUES c = F(sub)(d[4], d[2]), e = F(mul)(two, F(sub)(d[3], d[1]));
  out[0] = F(fmadd)(four, d[0], F(fnmadd)(five, d[2], d[4]));
  out[1] = F(add)(a, b);
  out[2] = F(sub)(a, b);
  out[3] = F(add)(c, e);
  out[4] = F(sub)(c, e);
  out[5] = F(fmadd)(four, d[1], F(fnmadd)(five, d[3], d[5]));
}

/* The same with points 1/2 and -1/2 before infinity. */
INLINE_F32 void ISA(into_eight)(const VALUES *d, VALUES *out) {
  const VALUES wide = F(set1)(5.25f), near = F(set1)(4.25f), four = F(set1)(4), two = F(set1)(2);
  const VALUES more = F(set1)(1.25f), most = F(set1)(2.5f), half = F(set1)(0.5f), quarter = F(set1)(0.25f);
  const VALUES a = F(fnmadd)(near, d[4], F(add)(d[2], d[6])), b = F(fnmadd)(near, d[3], F(add)(d[1], d[5]));
  const VALUES c = F(fmadd)(quarter, d[2], F(fnmadd)(more, d[4], d[6]));
  const VALUES e = F(fmadd)(half, d[1], F(fnmadd)(most, d[3], F(mul)(two, d[5])));
  const VALUES f = F(fmadd)(four, F(fnmadd)(more, d[4], d[2]), d[6]);
  const VALUES g = F(fmadd)(two, d[1], F(fnmadd)(most, d[3], F(mul)(half, d[5])));
  out[0] = F(fmadd)(wide, F(sub)(d[4], d[2]), F(sub)(d[0], d[6]));
  out[1] = F(add)(a, b);
  out[2] = F(sub)(a, b);
  out[3] = F(add)(c, e);
  out[4] = F(sub)(c, e);
  out[5] = F(add)(f, g);
  out[6] = F(sub)(f, g);
  out[7] = F(fmadd)(wide, F(sub)(d[3], d[5]), F(sub)(d[7], d[1]));
}

/* Along one axis, A^T m. */
INLINE_F32 void ISA(out_of_six)(const VALUES *m, VALUES *out) {
  const VALUES a = F(add)(m[1], m[2]), b = F(sub)(m[1], m[2]);
  const VALUES c = F(add)(m[3], m[4]), d = F(sub)(m[3], m[4]);
  out[0] = F(add)(m[0], F(add)(a, c));
  out[1] = F(fmadd)(F(set1)(2), d, b);
  out[2] = F(fmadd)(F(set1)(4), c, a);
  out[3] = F(add)(F(fmadd)(F(set1)(8), d, b), m[5]);
}

INLINE_F32 void ISA(out_of_eight)(const VALUES *m, VALUES *out) {
  const VALUES a = F(add)(m[1], m[2]), b = F(sub)(m[1], m[2]);
  const VALUES c = F(add)(m[3], m[4]), d = F(sub)(m[3], m[4]);
  const VALUES e = F(add)(m[5], m[6]), f = F(sub)(m[5], m[6]);
  out[0] = F(add)(F(add)(m[0], a), F(add)(c, e));
  out[1] = F(fmadd)(F(set1)(0.5f), f, F(fmadd)(F(set1)(2), d, b));
  out[2] = F(fmadd)(F(set1)(0.25f), e, F(fmadd)(F(set1)(4), c, a));
  out[3] = F(fmadd)(F(set1)(0.125f), f, F(fmadd)(F(set1)(8), d, b));
  out[4] = F(fmadd)(F(set1)(0.0625f), e, F(fmadd)(F(set1)(16), c, a));
  out[5] = F(fmadd)(F(set1)(0.03125f), f, F(fmadd)(F(set1)(32), d, F(add)(b, m[7])));
}

INLINE_F32 void ISA(into_tile)(const VALUES *d, VALUES *out, const int side) {
  if (side == 4)
    ISA(into_six)(d, out);
  else
    ISA(into_eight)(d, out);
}

INLINE_F32 void ISA(out_of_tile)(const VALUES *m, VALUES *out, const int side) {
  if (side == 4)
    ISA(out_of_six)(m, out);
  else
    ISA(out_of_eight)(m, out);
}

/* Tiles of rows of the ring -> one matrix (tiles, depth) for each place of a tile. */
INLINE_F32 void ISA(transform_tiles)(const float *const *rows, int first, int tiles, int depth, float *to,
                                     const int side) {
  const int tile = side + 2;
  const size_t apart = (size_t)TILES * depth + APART;
  for (int t = 0; t < tiles; t++)
    for (int c = 0; c < depth; c += VECTOR) {
      VALUES half[MOST_TILE][MOST_TILE];
      for (int j = 0; j < tile; j++) {
        VALUES column[MOST_TILE], done[MOST_TILE];
        const size_t at = (size_t)(side * (first + t) + j) * depth + c;
        for (int i = 0; i < tile; i++) column[i] = F(loadu)(rows[i] + at);
        ISA(into_tile)(column, done, side);
        for (int i = 0; i < tile; i++) half[i][j] = done[i];
      }
      float *place = to + (size_t)t * depth + c;
      for (int i = 0; i < tile; i++) {
        VALUES done[MOST_TILE];
        ISA(into_tile)(half[i], done, side);
        for (int j = 0; j < tile; j++, place += apart) F(storeu)(place, done[j]);
      }
    }
}

/* Some rows of a times two vectors of columns, or one, over all taps; weights lie in panels of PANEL columns. Spelt
 * out: an array of sums would lie in memory. What is multiplied next is fetched ahead: a processor by itself does so to
 * the end of a page alone. */
INLINE_F32 void ISA(multiply_some)(const float *const *taps, int count, size_t ahead, size_t step, int depth,
                                   const float *b, float *to, size_t to_step, const int rows, const int both) {
  const size_t panel = (size_t)count * depth * PANEL, beside = VECTOR < PANEL ? VECTOR : panel;
  const float *next = b + 2 * VECTOR / PANEL * panel;
#define SUMS(i) VALUES low##i = F(setzero)(), high##i = F(setzero)();
#define ADD(i)                                          \
  if (i < rows) {                                       \
    const VALUES value = F(set1)(a[i * step]);          \
    low##i = F(fmadd)(value, low, low##i);              \
    if (both) high##i = F(fmadd)(value, high, high##i); \
  }
#define KEEP(i)                                              \
  if (i < rows) {                                            \
    F(storeu)(to + i * to_step, low##i);                     \
    if (both) F(storeu)(to + i * to_step + VECTOR, high##i); \
  }
  EACH_ROW(SUMS)
  for (int t = 0; t < count; t++) {
    const float *a = taps[t] + ahead;
    for (int k = 0; k < depth; k++, a++, b += PANEL, next += PANEL) {
      const VALUES low = F(loadu)(b), high = both ? F(loadu)(b + beside) : low;
      _mm_prefetch((const char *)next, _MM_HINT_T1);
      if (VECTOR == PANEL) _mm_prefetch((const char *)(next + panel), _MM_HINT_T1);
      EACH_ROW(ADD)
    }
  }
  EACH_ROW(KEEP)
#undef SUMS
#undef ADD
#undef KEEP
}

/* All rows of a block times all columns. */
TARGET_F32 static void ISA(multiply)(const float *const *taps, int count, size_t step, int depth, const float *weights,
                                     int rows, int columns, float *to) {
  for (int c = 0; c < columns; c += 2 * VECTOR) {
    const float *b = weights + (size_t)c * count * depth;
    const int both = c + VECTOR < columns;
    for (int p = 0; p < rows; p += ROWS) {
      float *place = to + (size_t)p * columns + c;
#define SOME(number, all) ISA(multiply_some)(taps, count, p * step, step, depth, b, place, columns, number, all)
#define LEFT(i)     \
  case i + 1:       \
    SOME(i + 1, 1); \
    break;
      if (!both) {
        SOME(ROWS, 0);
      } else {
        switch (rows - p) {
          EACH_ROW(LEFT)
          default:
            SOME(ROWS, 1);
        }
      }
#undef SOME
#undef LEFT
    }
  }
}

/* Channels of a pixel: bias, residual, sums. */
INLINE_F32 void ISA(put_pixel)(const Sink *sink, int y, int x, int c, VALUES v, VALUES *sum, VALUES *squares) {
  const Tensor *into = sink->into;
  const size_t place = ((size_t)y * into->width + x) * into->channels + c;
  v = F(add)(v, F(loadu)(sink->layer->bias + c));
  if (into->channels < PANEL) {
    float values[VECTOR];
    F(storeu)(values, v);
    for (int i = 0; i < VECTOR && c + i < into->channels; i++) ((float *)into->data)[place + i] = values[i];
    return;
  }
  if (sink->rest) v = F(add)(v, F(loadu)((const float *)sink->rest->data + place));
  F(storeu)((float *)into->data + place, v);
  *sum = F(add)(*sum, v);
  *squares = F(fmadd)(v, v, *squares);
}

INLINE_F32 void ISA(keep_sums)(const Sink *sink, int c, VALUES sum, VALUES squares) {
  float *sums = sink->sums + c, *of_squares = sums + sink->layer->columns;
  F(storeu)(sums, F(add)(F(loadu)(sums), sum));
  F(storeu)(of_squares, F(add)(F(loadu)(of_squares), squares));
}

/* A matrix (tiles, columns) for each place of a tile -> pixels of each tile, from row y on. */
INLINE_F32 void ISA(finish_tiles)(const Sink *sink, int y, int first, int tiles, const float *products,
                                  const int side) {
  const int columns = sink->layer->columns, height = sink->into->height, width = sink->into->width, tile = side + 2;
  const size_t apart = (size_t)TILES * columns + APART;
  for (int c = 0; c < columns; c += VECTOR) {
    VALUES sum = F(setzero)(), squares = F(setzero)();
    for (int t = 0; t < tiles; t++) {
      VALUES half[MOST_TILE][MOST_TILE];
      for (int j = 0; j < tile; j++) {
        VALUES column[MOST_TILE], done[MOST_TILE];
        const float *place = products + j * apart + (size_t)t * columns + c;
        for (int i = 0; i < tile; i++) column[i] = F(loadu)(place + i * tile * apart);
        ISA(out_of_tile)(column, done, side);
        for (int i = 0; i < side; i++) half[i][j] = done[i];
      }
      for (int i = 0; i < side && y + i < height; i++) {
        VALUES done[MOST_TILE];
        ISA(out_of_tile)(half[i], done, side);
        for (int j = 0; j < side; j++) {
          const int x = side * (first + t) + j;
          if (x < width) ISA(put_pixel)(sink, y + i, x, c, done[j], &sum, &squares);
        }
      }
    }
    ISA(keep_sums)(sink, c, sum, squares);
  }
}

TARGET_F32 static void ISA(finish_pixels)(const Sink *sink, int y, int first, int pixels, const float *products) {
  const int columns = sink->layer->columns;
  for (int c = 0; c < columns; c += VECTOR) {
    VALUES sum = F(setzero)(), squares = F(setzero)();
    for (int p = 0; p < pixels; p++)
      ISA(put_pixel)(sink, y, first + p, c, F(loadu)(products + (size_t)p * columns + c), &sum, &squares);
    ISA(keep_sums)(sink, c, sum, squares);
  }
}

/* Row r of what is convolved, into the ring: normalised, or each pixel twice, or as it is. One pixel stays zero before
 * it. */
TARGET_F32 static void ISA(fill)(const Run *run, const Layer *layer, const Tensor *from, int r, float *slot,
                                 size_t pitch) {
  const int channels = from->channels, doubles = layer->kind == UP;
  const int row = doubles && r >= 0 ? r / 2 : r;
  if (row < 0 || row >= from->height) {
    memset(slot, 0, pitch * sizeof(float));
    return;
  }
  const float *source = (const float *)from->data + (size_t)row * from->width * channels;
  float *to = slot + channels;
  if (layer->groups) {
    ISA(normalise)(run, source, to, from->width, channels, layer->swish);
  } else if (!doubles) {
    memcpy(to, source, (size_t)from->width * channels * sizeof(float));
  } else {
    for (int x = 0; x < 2 * from->width; x++)
      memcpy(to + (size_t)x * channels, source + (size_t)(x / 2) * channels, channels * sizeof(float));
  }
}

/* A row of tiles, of `side` outputs each way. */
INLINE_F32 void ISA(convolve_tiles)(const Sink *sink, const float *const *lines, int y, int depth, float *matrices,
                                    float *products, const int side) {
  const Layer *layer = sink->layer;
  const int columns = layer->columns, tiles = (sink->into->width + side - 1) / side, places = (side + 2) * (side + 2);
  const int blocks = (tiles + TILES - 1) / TILES, block = (tiles + blocks - 1) / blocks;
  for (int t = 0; t < tiles; t += block) {
    const int here = tiles - t < block ? tiles - t : block;
    ISA(transform_tiles)(lines, t, here, depth, matrices, side);
    for (int i = 0; i < places; i++) {
      const float *matrix = matrices + i * ((size_t)TILES * depth + APART);
      const float *weights = (const float *)layer->weights + (size_t)i * columns * depth;
      float *product = products + i * ((size_t)TILES * columns + APART);
      ISA(multiply)(&matrix, 1, depth, depth, weights, here, columns, product);
    }
    ISA(finish_tiles)(sink, y, t, here, products, side);
  }
}

TARGET_F32 static void ISA(convolve_by_fours)(const Sink *sink, const float *const *lines, int y, int depth,
                                              float *matrices, float *products) {
  ISA(convolve_tiles)(sink, lines, y, depth, matrices, products, 4);
}

TARGET_F32 static void ISA(convolve_by_sixes)(const Sink *sink, const float *const *lines, int y, int depth,
                                              float *matrices, float *products) {
  ISA(convolve_tiles)(sink, lines, y, depth, matrices, products, 6);
}

static void ISA(walk)(Run *run, const Layer *layer, Ring *ring) {
  const Tensor *from = run->tensors + layer->source;
  Tensor *into = run->tensors + layer->target;
  const int kind = layer->kind, stride = kind == DOWN ? 2 : 1, side = layer->side, tile = side + 2;
  const int depth = from->channels, columns = layer->columns, height = into->height, width = into->width;
  const int count = kind == POINT ? 1 : MOST_TAPS, rows = side ? side : 1;
  const int above = kind == DOWN || kind == POINT ? 0 : 1, below = kind == POINT ? 0 : kind == DOWN ? 2 : 1;
  const size_t pitch = (size_t)(stride * (width + TILES) + MOST_TILE) * depth;
  const size_t given = side ? tile * tile * ((size_t)TILES * depth + APART) : 0;
  const size_t made = (side ? tile * tile : 1) * ((size_t)TILES * columns + APART);
  const size_t size = SLOTS * pitch + given + made + 2 * (size_t)columns;

  /* Chunks do not depend on the number of threads, so that sums, and with them images, do not either. */
  int chunk = ((height + CHUNKS - 1) / CHUNKS + rows - 1) / rows * rows;
  if (chunk < LEAST_CHUNK) chunk = (LEAST_CHUNK + rows - 1) / rows * rows;
  const int chunks = (height + chunk - 1) / chunk;

  float *slots = room_in(ring, size * sizeof *slots);
  if (!slots) {
    atomic_store(&run->status, OUT_OF_MEMORY);
    return;
  }
  float *products = slots + SLOTS * pitch, *sums = products + made, *matrices = sums + 2 * columns;
  memset(slots, 0, SLOTS * pitch * sizeof *slots);
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
      for (; ready < (y + rows - 1) * stride + below + 1; ready++)
        ISA(fill)(run, layer, from, ready, SLOT(ready), pitch);
      memset(sums, 0, 2 * (size_t)columns * sizeof(float));
      if (side) {
        const float *lines[MOST_TILE];
        for (int i = 0; i < tile; i++) lines[i] = SLOT(y - 1 + i);
        (side == 4 ? ISA(convolve_by_fours) : ISA(convolve_by_sixes))(&sink, lines, y, depth, matrices, products);
      } else {
        for (int x = 0; x < width; x += TILES) {
          const int here = width - x < TILES ? width - x : TILES;
          const float *taps[MOST_TAPS];
          for (int t = 0; t < count; t++) {
            const int down = count == 1 ? 0 : t / 3 - above, across = count == 1 ? 1 : t % 3 + 1 - above;
            taps[t] = SLOT(y * stride + down) + (size_t)(x * stride + across) * depth;
          }
          ISA(multiply)(taps, count, (size_t)stride * depth, depth, layer->weights, here, columns, products);
          ISA(finish_pixels)(&sink, y, x, here, products);
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

#undef INLINE_F32
