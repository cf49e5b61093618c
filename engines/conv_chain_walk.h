/* One layer, by one member of the team: chunks of rows until none is left. A template: conv_chain.c includes it for
 * each kernel, with WALK, TARGET, HALF and OP set. */

TARGET static void WALK(Run *run, const Layer *layer, Ring *ring) {
  const Tensor *from = run->tensors + layer->source;
  Tensor *into = run->tensors + layer->target;
  const Tensor *rest = layer->residual < 0 ? NULL : run->tensors + layer->residual;
  const int kind = layer->kind, doubles = kind == UP, stride = kind == DOWN ? 2 : 1;
  const int above = kind == DENSE || kind == UP, below = above || kind == DOWN; /* rows beside; columns likewise */
  const int depth = kind == FIRST ? DEPTH : from->channels;
  const int rows = doubles ? from->height : into->height, width = doubles ? from->width : into->width;
  const int phases = doubles ? MOST_PHASES : 1, count = kind == DENSE || kind == DOWN ? MOST_TAPS : doubles ? 4 : 1;
  const int blocks = (width + PIXELS - 1) / PIXELS, pairs = (layer->columns + COLUMNS - 1) / COLUMNS;
  const size_t pitch = ((size_t)blocks * PIXELS * stride + 3) * depth;

  /* Weights that leave a second-level cache no room are taken pair by pair for a group of rows. */
  enum { MOST_WEIGHTS = 5 << 18, GROUP_BYTES = 1 << 20, LEAST_CHUNK = 8, CHUNKS = 32 };
  const int by_pairs = (size_t)phases * count * depth * layer->columns * 2 > MOST_WEIGHTS;
  const int fitting = (int)(GROUP_BYTES / (pitch * 2 * stride)) - 2;
  const int group = !by_pairs || fitting < 1 ? 1 : fitting;
  /* Chunks do not depend on the number of threads, so that sums, and with them images, do not either. */
  int chunk = (rows + CHUNKS - 1) / CHUNKS;
  if (chunk < LEAST_CHUNK) chunk = LEAST_CHUNK;
  const int chunks = (rows + chunk - 1) / chunk;

  const int slots = group * stride + 2 + stride;
  const size_t sums_bytes = (size_t)pairs * 2 * COLUMNS * sizeof(float);
  uint16_t *lines = room_in(ring, slots * pitch * sizeof *lines);
  float(*sums)[2 * COLUMNS] = aligned_alloc(64, sums_bytes);
  float *gathered = kind == FIRST ? aligned_alloc(64, (size_t)width * DEPTH * sizeof(float)) : NULL;
  if (!lines || !sums || (kind == FIRST && !gathered)) {
    free(sums);
    free(gathered);
    atomic_store(&run->status, OUT_OF_MEMORY);
    return;
  }
  memset(lines, 0, slots * pitch * sizeof *lines);
#define SLOT(row) (lines + (size_t)(((row) + slots) % slots) * pitch)

  _Alignas(64) float products[2][PIXELS * COLUMNS];
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
        uint16_t *slot = SLOT(r) + above * depth;
        if (r < 0 || r >= from->height) {
          memset(SLOT(r), 0, pitch * 2);
        } else if (kind == FIRST) {
          gather(from, r, gathered);
          OP(narrow)(gathered, slot, (size_t)width * DEPTH, HALF);
        } else if (!layer->groups) {
          const size_t values = (size_t)from->width * depth;
          OP(copy)((const uint16_t *)from->data + r * values, slot, values, HALF);
        } else {
          if (r != beside) cursor = cursor_at(from, r, slot);
          while (cursor.left) OP(normalise)(run, &cursor, depth, layer->swish, HALF);
        }
      }
      ready = needed;
      if (layer->groups && group == 1 && end < last && needed < from->height) {
        beside = needed;
        cursor = cursor_at(from, needed, SLOT(needed) + above * depth);
      }
      memset(sums, 0, sums_bytes);
      for (int outer = 0; outer < (by_pairs ? pairs * phases : 1); outer++)
        for (int y = start; y < end; y++) {
          const uint16_t *taps[MOST_PHASES][MOST_TAPS];
          for (int phase = 0; phase < phases; phase++)
            for (int t = 0; t < count; t++) {
              const int across = doubles ? phase % 2 + t % 2 : count == MOST_TAPS ? t % 3 : 0;
              const int down = doubles ? phase / 2 - 1 + t / 2 : count == MOST_TAPS ? t / 3 - above : 0;
              taps[phase][t] = SLOT(y * stride + down) + (size_t)across * depth;
            }
          for (int block = 0; block < blocks; block++)
            for (int i = by_pairs ? outer : 0; i < (by_pairs ? outer + 1 : pairs * phases); i++) {
              const int phase = i / pairs, column = i % pairs * COLUMNS, x = block * PIXELS;
              const int columns = layer->columns - column < COLUMNS ? LANES : COLUMNS;
              const int pixels = width - x < PIXELS ? width - x : PIXELS;
              const uint16_t *b = (const uint16_t *)layer->weights + ((size_t)phase * layer->columns + column) * count * depth;
              float *found = products[turn];
              turn = !turn;
              OP(multiply)(run, taps[phase], count, depth, (size_t)x * stride * depth, (size_t)depth * stride * 2, b,
                           (pixels + LANES - 1) / LANES, columns / LANES, found, &pending, &cursor, layer->swish, HALF);
              const size_t step = (size_t)into->channels * (doubles ? 2 : 1);
              const size_t row = doubles ? 2 * y + phase / 2 : y, at = doubles ? 2 * x + phase % 2 : x;
              const size_t place = (row * into->width + at) * into->channels + column;
              if (into->channels < LANES) {
                for (int p = 0; p < pixels; p++)
                  for (int c = 0; c < into->channels; c++)
                    ((float *)into->data)[place + p * step + c] = found[p * COLUMNS + c] + layer->bias[c];
              } else {
                pending = (Pending){found, layer->bias + column, rest ? (const uint16_t *)rest->data + place : NULL,
                                    (uint16_t *)into->data + place, sums[i % pairs], step, 0, pixels, columns};
              }
            }
        }
      while (pending.pixel < pending.pixels) OP(finish)(&pending);
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
