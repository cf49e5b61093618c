/* One layer, by one member of the team: chunks of rows until none is left. A template: conv_chain.c includes it for
 * each kernel, with WALK, TARGET, NUMBER and OP set. */

TARGET static void WALK(Run *run, const Layer *layer, Ring *ring) {
  const Tensor *from = run->tensors + layer->source;
  Tensor *into = run->tensors + layer->target;
  const Tensor *rest = layer->residual < 0 ? NULL : run->tensors + layer->residual;
  const int kind = layer->kind, doubles = kind == UP, stride = kind == DOWN ? 2 : 1;
  const int above = kind == DENSE || kind == UP, below = above || kind == DOWN; /* rows beside; columns likewise */
  const int bytes = BYTES_OF(NUMBER), depth = kind == FIRST ? GATHERED : from->channels; /* of a pixel in the ring */
  /* Behind an odd half of a tile stands the next pixel; its weights are zero. */
  const int steps = (depth * bytes + ROW_BYTES - 1) / ROW_BYTES;
  const int rows = doubles ? from->height : into->height, width = doubles ? from->width : into->width;
  const int phases = doubles ? MOST_PHASES : 1, count = kind == DENSE || kind == DOWN ? MOST_TAPS : doubles ? 4 : 1;
  const int blocks = (width + PIXELS - 1) / PIXELS, pairs = (layer->columns + COLUMNS - 1) / COLUMNS;
  const size_t pixel_bytes = (size_t)depth * bytes, weight_bytes = (size_t)count * steps * ROW_BYTES; /* of a column */
  const size_t pitch = ((blocks * PIXELS * stride + 3) * pixel_bytes + ROW_BYTES - 1) / ROW_BYTES * ROW_BYTES;
  const int nothing = NUMBER == U8 ? (int)layer->zero : 0;

  /* Weights that leave a second-level cache no room are taken pair by pair for a group of rows. */
  enum { MOST_WEIGHTS = 5 << 18, GROUP_BYTES = 1 << 20, LEAST_CHUNK = 8 };
  const int by_pairs = phases * weight_bytes * layer->columns > MOST_WEIGHTS;
  const int fitting = (int)(GROUP_BYTES / (pitch * stride)) - 2;
  const int group = !by_pairs || fitting < 1 ? 1 : fitting;
  /* Chunks do not depend on the number of threads, so that sums, and with them images, do not either. */
  int chunk = (rows + CHUNKS - 1) / CHUNKS;
  if (chunk < LEAST_CHUNK) chunk = LEAST_CHUNK;
  const int chunks = (rows + chunk - 1) / chunk;

  const int slots = group * stride + 2 + stride;
  const size_t sums_bytes = (size_t)pairs * 2 * COLUMNS * sizeof(float);
  uint8_t *lines = room_in(ring, slots * pitch);
  float(*sums)[2 * COLUMNS] = aligned_alloc(64, sums_bytes);
  float *gathered = kind == FIRST ? aligned_alloc(64, (size_t)width * GATHERED * sizeof(float)) : NULL;
  if (!lines || !sums || (kind == FIRST && !gathered)) {
    free(sums);
    free(gathered);
    atomic_store(&run->status, OUT_OF_MEMORY);
    return;
  }
  memset(lines, nothing, slots * pitch);
#define SLOT(row) (lines + (size_t)(((row) + slots) % slots) * pitch)

  _Alignas(64) int32_t products[2][PIXELS * COLUMNS];
  int turn = 0;
  for (;;) {
    const int number = atomic_fetch_add(&run->next_chunk, 1);
    if (number >= chunks) break;
    if (number == 0) into->chunks = chunks;
    const int first = number * chunk, last = first + chunk < rows ? first + chunk : rows;
    double *total = into->sums ? into->sums + (size_t)number * into->channels * 2 : NULL;
    if (total) memset(total, 0, sizeof(double) * 2 * into->channels);
    Pending pending = {0};
    Cursor cursor = {0};
    int ready = INT32_MIN, beside = INT32_MIN; /* rows below `ready` are in the ring; `beside` is on its way there */
    for (int start = first; start < last; start += group) {
      const int end = start + group < last ? start + group : last;
      const int needed = kind == DOWN ? 2 * end + 1 : end + below;
      int r = kind == DOWN ? 2 * start : start - above;
      for (r = r > ready ? r : ready; r < needed; r++) {
        uint8_t *slot = SLOT(r) + above * pixel_bytes;
        if (r < 0 || r >= from->height) {
          memset(SLOT(r), nothing, pitch);
        } else if (kind == FIRST) {
          gather(from, r, gathered);
          OP(narrow)(run, gathered, slot, (size_t)width * GATHERED, NUMBER);
        } else if (!layer->groups) {
          const size_t values = (size_t)from->width * depth;
          OP(copy)(run, (const uint16_t *)from->data + r * values, slot, values, NUMBER);
        } else {
          if (r != beside) cursor = cursor_at(from, r, slot);
          while (cursor.left) OP(normalise)(run, &cursor, depth, layer->swish, NUMBER);
        }
      }
      ready = needed;
      if (layer->groups && group == 1 && end < last && needed < from->height) {
        beside = needed;
        cursor = cursor_at(from, needed, SLOT(needed) + above * pixel_bytes);
      }
      memset(sums, 0, sums_bytes);
      for (int outer = 0; outer < (by_pairs ? pairs * phases : 1); outer++)
        for (int y = start; y < end; y++) {
          const uint8_t *taps[MOST_PHASES][MOST_TAPS];
          for (int phase = 0; phase < phases; phase++)
            for (int t = 0; t < count; t++) {
              const int across = doubles ? phase % 2 + t % 2 : count == MOST_TAPS ? t % 3 : 0;
              const int down = doubles ? phase / 2 - 1 + t / 2 : count == MOST_TAPS ? t / 3 - above : 0;
              taps[phase][t] = SLOT(y * stride + down) + across * pixel_bytes;
            }
          for (int block = 0; block < blocks; block++)
            for (int i = by_pairs ? outer : 0; i < (by_pairs ? outer + 1 : pairs * phases); i++) {
              const int phase = i / pairs, column = i % pairs * COLUMNS, x = block * PIXELS;
              const int columns = layer->columns - column < COLUMNS ? LANES : COLUMNS;
              const int pixels = width - x < PIXELS ? width - x : PIXELS;
              const uint8_t *b = layer->weights;
              b += ((size_t)phase * layer->columns + column) * weight_bytes;
              int32_t *found = products[turn];
              turn = !turn;
              OP(multiply)(run, taps[phase], count, steps, depth, x * stride * pixel_bytes, stride * pixel_bytes, b,
                           (pixels + LANES - 1) / LANES, columns / LANES, found, &pending, &cursor, layer->swish,
                           NUMBER);
              const size_t step = (size_t)into->channels * (doubles ? 2 : 1);
              const size_t row = doubles ? 2 * y + phase / 2 : y, at = doubles ? 2 * x + phase % 2 : x;
              const size_t place = (row * into->width + at) * into->channels + column;
              if (into->channels < LANES) {
                const Pending few = {.products = found, .bias = layer->bias, .unit = layer->unit};
                for (int p = 0; p < pixels; p++)
                  for (int c = 0; c < into->channels; c++)
                    ((float *)into->data)[place + p * step + c] = value_of(&few, p, c, NUMBER);
              } else {
                pending = (Pending){.products = found, .bias = layer->bias + column, .sums = sums[i % pairs],
                                    .unit = NUMBER == U8 ? layer->unit + column : NULL, .step = step,
                                    .residual = rest ? (const uint16_t *)rest->data + place : NULL,
                                    .to = (uint16_t *)into->data + place, .pixels = pixels, .columns = columns};
              }
            }
        }
      while (pending.pixel < pending.pixels) OP(finish)(&pending, NUMBER);
      if (total)
        for (int c = 0; c < into->channels; c++) {
          total[2 * c] += sums[c / COLUMNS][c % COLUMNS];
          total[2 * c + 1] += sums[c / COLUMNS][COLUMNS + c % COLUMNS];
        }
    }
  }
#undef SLOT
  free(sums);
  free(gathered);
}
