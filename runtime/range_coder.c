/* The range coder, and the order in which it codes a part: docs/bitstream.md, "Payload". entropy.py checks and explains.
 *
 * Reading needs no division: c[s] <= gap / scale is scale * c[s] <= gap, where gap is the document's point - lower. Zero,
 * by far the most common symbol, is tried first, and the processor foresees that it fits: a symbol then costs a
 * multiplication and what waits for it.
 */

#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>

enum { PROBABILITY_BITS = 24, ESCAPE_WIDTHS = 23, LEVELS = 256, MOST_SCANNED = 8 };
static const uint32_t TOTAL = 1u << PROBABILITY_BITS;

/* Symbols 0..count - 1. Symbol s has the frequency below[s + 1] - below[s]; below[0] is 0, below[count] is 2^24. */
typedef struct {
  const uint32_t *below;
  int32_t count, likely;
} Distribution;

/* The flag before the group of scale index 0: 0 = every symbol is zero and none is coded. */
static const uint32_t BELOW_ALL_ZERO[3] = {0, (1u << 24) - (1u << 18), 1u << 24};
static const Distribution ALL_ZERO = {BELOW_ALL_ZERO, 2, 0};

/* Distributions of the symbols -reach..reach and the escape, for each scale index. */
typedef struct {
  const uint32_t *below[LEVELS];
  const int32_t *reach;
  int count;
} Levels;

static Distribution of_level(const Levels *levels, int level) {
  return (Distribution){levels->below[level], 2 * levels->reach[level] + 2, levels->reach[level]};
}

/* ---- order ---- */

/* Puts the elements' places, or their values where there are some, in coding order. Elements of level l end up before
 * `ends[l]`, behind those of the levels above. Returns the highest level, -1 for none.
 *
 * Four quarters are sorted at once: neighbours are often of the same level, and would wait for each other's counter. */
static int sort_part(const uint8_t *indices, int64_t size, const int32_t *values, int32_t *sorted, int64_t ends[LEVELS]) {
  enum { QUARTERS = 4 };
  int64_t next[QUARTERS][LEVELS] = {{0}};
  const int64_t quarter = size / QUARTERS;
  for (int64_t i = 0; i < quarter; i++)
    for (int q = 0; q < QUARTERS; q++) next[q][indices[q * quarter + i]]++;
  for (int64_t i = QUARTERS * quarter; i < size; i++) next[QUARTERS - 1][indices[i]]++;

  int highest = -1;
  int64_t end = 0;
  for (int level = LEVELS - 1; level >= 0; level--) {
    for (int q = 0; q < QUARTERS; q++) {
      const int64_t count = next[q][level];
      next[q][level] = end;
      end += count;
    }
    ends[level] = end;
    if (end && highest < 0) highest = level;
  }

  for (int64_t i = 0; i < quarter; i++)
    for (int q = 0; q < QUARTERS; q++) {
      const int64_t place = q * quarter + i;
      sorted[next[q][indices[place]]++] = values ? values[place] : (int32_t)place;
    }
  for (int64_t place = QUARTERS * quarter; place < size; place++)
    sorted[next[QUARTERS - 1][indices[place]]++] = values ? values[place] : (int32_t)place;
  return highest;
}

/* ---- writing ---- */

typedef struct {
  uint64_t lower, range;
  uint32_t *words;
  int64_t count, capacity;
  int no_memory, unknown_level;
  int32_t too_large; /* a value that no escape states; 0 for none */
} Writer;

static void put_word(Writer *writer, uint32_t word) {
  if (writer->count == writer->capacity) {
    const int64_t capacity = writer->capacity ? 2 * writer->capacity : 1024;
    uint32_t *words = realloc(writer->words, (size_t)capacity * sizeof *words);
    if (!words) {
      writer->no_memory = 1;
      return;
    }
    writer->words = words;
    writer->capacity = capacity;
  }
  writer->words[writer->count++] = word;
}

static inline void put(Writer *writer, uint32_t below, uint32_t frequency) {
  const uint64_t scale = writer->range >> PROBABILITY_BITS, base = scale * below;
  writer->lower += base;
  if (writer->lower < base) /* a carry; the payload as a number stays below 1, so that some word takes it */
    for (int64_t i = writer->count - 1; i >= 0 && !++writer->words[i];) i--;
  writer->range = scale * frequency;
  if (writer->range >> 32 == 0) {
    put_word(writer, (uint32_t)(writer->lower >> 32));
    writer->lower <<= 32;
    writer->range <<= 32;
  }
}

static inline void put_symbol(Writer *writer, Distribution of, int32_t symbol) {
  put(writer, of.below[symbol], of.below[symbol + 1] - of.below[symbol]);
}

static void put_uniform(Writer *writer, int32_t symbol, int32_t symbols) {
  const uint32_t each = TOTAL / (uint32_t)symbols, below = each * (uint32_t)symbol;
  put(writer, below, symbol < symbols - 1 ? each : TOTAL - below);
}

static void put_escapes(Writer *writer, const int32_t *values, int64_t size, int32_t reach) {
  for (int widths = 1; widths >= 0; widths--) /* all widths, then all values */
    for (int64_t i = 0; i < size; i++) {
      const int64_t excess = (values[i] < 0 ? -(int64_t)values[i] : values[i]) - reach;
      if (excess <= 0) continue;
      if (excess >> ESCAPE_WIDTHS) {
        writer->too_large = values[i];
        return;
      }
      int32_t width = 1;
      while (excess >> width) width++;
      if (widths) put_uniform(writer, width - 1, ESCAPE_WIDTHS);
      else put_uniform(writer, 2 * ((int32_t)excess - (1 << (width - 1))) + (values[i] < 0), 1 << width);
    }
}

static void put_group(Writer *to, const int32_t *values, int64_t size, Distribution of) {
  Writer writer = *to; /* so that it stays in registers */
  const int32_t reach = of.likely;
  int escapes = 0;
  for (int64_t i = 0; i < size; i++) {
    const int is_escape = values[i] > reach || values[i] < -reach;
    put_symbol(&writer, of, is_escape ? 2 * reach + 1 : values[i] + reach);
    escapes |= is_escape;
  }
  *to = writer;
  if (escapes) put_escapes(to, values, size, reach);
}

/* `sorted` is memory for as many elements as the part has. */
static void put_part(Writer *writer, const int32_t *values, const uint8_t *indices, int64_t size, const Levels *levels,
                     int32_t *sorted) {
  int64_t ends[LEVELS], start = 0;
  if (sort_part(indices, size, values, sorted, ends) >= levels->count) {
    writer->unknown_level = 1;
    return;
  }
  for (int level = LEVELS - 1; level >= 0; start = ends[level--]) {
    if (ends[level] == start) continue;
    if (level == 0) {
      int32_t others = 0;
      for (int64_t i = start; i < size; i++) others |= sorted[i];
      put_symbol(writer, ALL_ZERO, others != 0);
      if (!others) return;
    }
    put_group(writer, sorted + start, ends[level] - start, of_level(levels, level));
  }
}

/* ---- reading ---- */

typedef struct {
  const uint8_t *payload;
  int64_t length, position; /* bytes of the payload; bytes asked for, also beyond its end */
  uint64_t range;
  uint64_t gap;         /* of the payload with zeros behind it */
  uint64_t highest_gap; /* with ones behind it; only where it may be cut */
  int cut, ended;       /* ended: a symbol was not certain, or none fits */
} Reader;

static uint32_t get_word(const Reader *reader, uint8_t filler) {
  if (reader->position + 4 <= reader->length) {
    const uint8_t *at = reader->payload + reader->position;
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
  }
  uint32_t word = 0;
  for (int byte = 0; byte < 4; byte++)
    word = word << 8 | (reader->position + byte < reader->length ? reader->payload[reader->position + byte] : filler);
  return word;
}

static inline void shift(Reader *reader) {
  reader->gap = reader->gap << 32 | get_word(reader, 0x00);
  if (reader->cut) reader->highest_gap = reader->highest_gap << 32 | get_word(reader, 0xff);
  reader->position += 4;
}

/* Narrows the interval to a symbol's; ends where a continuation of a cut payload lies outside. */
static inline void narrow(Reader *reader, uint64_t base, uint64_t width) {
  if (reader->cut && reader->highest_gap - base >= width) {
    reader->ended = 1;
    return;
  }
  reader->gap -= base;
  reader->highest_gap -= base;
  reader->range = width;
  if (width >> 32 == 0) {
    reader->range <<= 32;
    shift(reader);
  }
}

static inline int32_t get_symbol(Reader *reader, Distribution of) {
  const uint64_t scale = reader->range >> PROBABILITY_BITS;
  int32_t symbol = of.likely;
  uint64_t base = scale * of.below[symbol], width = scale * (of.below[symbol + 1] - of.below[symbol]);
  if (reader->gap - base >= width) { /* also where the gap is less than the base: the difference wraps */
    int32_t end = of.count;
    if (reader->gap < base) end = symbol, symbol = 0;
    while (end - symbol > MOST_SCANNED) {
      const int32_t middle = symbol + (end - symbol) / 2;
      if (reader->gap < scale * of.below[middle]) end = middle;
      else symbol = middle;
    }
    while (symbol < end && reader->gap >= scale * of.below[symbol + 1]) symbol++;
    if (symbol == of.count) {
      reader->ended = 1;
      return 0;
    }
    base = scale * of.below[symbol];
    width = scale * (of.below[symbol + 1] - of.below[symbol]);
  }
  narrow(reader, base, width);
  return symbol;
}

static int32_t get_uniform(Reader *reader, int32_t symbols) {
  const uint64_t scale = reader->range >> PROBABILITY_BITS, each = TOTAL / (uint32_t)symbols;
  if (reader->gap >= scale * TOTAL) {
    reader->ended = 1;
    return 0;
  }
  const uint64_t found = reader->gap / (scale * each), last = (uint64_t)symbols - 1;
  const uint64_t symbol = found < last ? found : last;
  narrow(reader, scale * each * symbol, scale * (symbol < last ? each : TOTAL - each * last));
  return (int32_t)symbol;
}

/* Widths and values of a group's escapes, whose elements hold reach + 1; zeros unless all of them are certain. */
static void get_escapes(Reader *reader, const int32_t *places, int64_t size, int32_t reach, int32_t *values) {
  for (int64_t i = 0; i < size && !reader->ended; i++)
    if (values[places[i]] > reach) values[places[i]] += get_uniform(reader, ESCAPE_WIDTHS);
  for (int64_t i = 0; i < size && !reader->ended; i++) {
    int32_t *value = values + places[i];
    if (*value <= reach) continue;
    const int32_t width_less_one = *value - reach - 1, bits = get_uniform(reader, 2 << width_less_one);
    const int32_t magnitude = reach + (1 << width_less_one) + (bits >> 1);
    *value = bits & 1 ? -magnitude : magnitude;
  }
  for (int64_t i = 0; i < size && reader->ended; i++)
    if (values[places[i]] > reach || values[places[i]] < -reach) values[places[i]] = 0;
}

/* One group: symbols of the elements at these places, where `values` holds zeros. Returns how many are certain. */
static int64_t get_group(Reader *from, const int32_t *places, int64_t size, Distribution of, int32_t *values) {
  Reader reader = *from; /* so that it stays in registers */
  const int32_t reach = of.likely;
  int64_t certain = 0, escapes = 0;
  for (; certain < size; certain++) {
    const int32_t value = get_symbol(&reader, of) - reach;
    if (reader.ended) break;
    if (!value) continue;
    values[places[certain]] = value;
    escapes += value > reach;
  }
  *from = reader;
  if (escapes) get_escapes(from, places, size, reach, values);
  return certain;
}

/* Returns how many elements are certain, those known to be zero included; -1 for an unknown level. `places` is memory
 * for as many elements as the part has. */
static int64_t get_part(Reader *reader, int32_t *values, const uint8_t *indices, int64_t size, const Levels *levels,
                        int32_t *places) {
  int64_t ends[LEVELS], start = 0, certain = 0;
  if (sort_part(indices, size, NULL, places, ends) >= levels->count) return -1;
  for (int level = LEVELS - 1; level >= 0; start = ends[level--]) {
    if (ends[level] == start) continue;
    const int all_zero = level == 0 && !reader->ended && !get_symbol(reader, ALL_ZERO);
    if (reader->ended) break;
    if (all_zero) return certain + size - start;
    certain += get_group(reader, places + start, ends[level] - start, of_level(levels, level), values);
  }
  return certain;
}

/* ---- the module ---- */

typedef struct {
  PyObject_HEAD
  Writer writer;
} RangeEncoder;

typedef struct {
  PyObject_HEAD
  PyObject *payload; /* bytes, which the reader points into */
  Reader reader;
} RangeDecoder;

/* Arguments of both ways' parts. */
typedef struct {
  Py_buffer values, indices, reach, below;
  Levels levels;
  int32_t *memory; /* one for each value */
} Part;

static void release_part(Part *part) {
  PyMem_Free(part->memory);
  PyBuffer_Release(&part->values);
  PyBuffer_Release(&part->indices);
  PyBuffer_Release(&part->reach);
  PyBuffer_Release(&part->below);
}

/* Whether the tables fit each other; finds the row of each level. */
static int find_levels(Part *part) {
  const Py_ssize_t levels = part->reach.len / 4;
  int64_t start = 0;
  if (levels > LEVELS) return 0;
  part->levels.count = (int)levels;
  part->levels.reach = part->reach.buf;
  for (Py_ssize_t level = 0; level < levels; level++) {
    const int32_t reach = part->levels.reach[level];
    if (reach < 1 || reach >= 1 << (PROBABILITY_BITS - 1)) return 0;
    part->levels.below[level] = (const uint32_t *)part->below.buf + start;
    start += 2 * (int64_t)reach + 3;
  }
  return start == part->below.len / 4;
}

/* Takes the arguments apart; `release_part` undoes it. Sets an exception where they do not fit each other. */
static int take_part(Part *part, PyObject *arguments, const char *format) {
  *part = (Part){.memory = NULL};
  if (!PyArg_ParseTuple(arguments, format, &part->values, &part->indices, &part->reach, &part->below)) return 0;
  if (part->values.len != 4 * part->indices.len || part->indices.len >= INT32_MAX || !find_levels(part)) {
    PyErr_SetString(PyExc_ValueError, "values, scale indices and tables do not fit each other");
  } else {
    part->memory = PyMem_Malloc((size_t)part->values.len);
    if (!part->memory) PyErr_NoMemory();
  }
  if (part->memory) return 1;
  release_part(part);
  return 0;
}

static void refuse_level(void) { PyErr_SetString(PyExc_IndexError, "a scale index has no row in the scale table"); }

static PyObject *encoder_put_part(RangeEncoder *self, PyObject *arguments) {
  Part part;
  if (!take_part(&part, arguments, "y*y*y*y*")) return NULL;
  Writer writer = self->writer;
  self->writer = (Writer){.no_memory = 1}; /* as another thread finds it meanwhile */
  if (!writer.no_memory) {
    Py_BEGIN_ALLOW_THREADS;
    put_part(&writer, part.values.buf, part.indices.buf, part.indices.len, &part.levels, part.memory);
    Py_END_ALLOW_THREADS;
  }
  self->writer = writer;
  release_part(&part);
  if (writer.unknown_level) refuse_level();
  else if (writer.too_large) PyErr_Format(PyExc_OverflowError, "symbol %d is too large to code", (int)writer.too_large);
  else if (writer.no_memory) PyErr_NoMemory();
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static PyObject *encoder_put_indices(RangeEncoder *self, PyObject *arguments) {
  Py_buffer indices;
  int entries;
  if (!PyArg_ParseTuple(arguments, "y*i", &indices, &entries)) return NULL;
  const int32_t *index = indices.buf;
  if (entries < 1 || entries > 1 << PROBABILITY_BITS) PyErr_SetString(PyExc_ValueError, "expected 1 to 2^24 entries");
  for (Py_ssize_t i = 0; i < indices.len / 4 && !PyErr_Occurred(); i++) {
    if (index[i] < 0 || index[i] >= entries) PyErr_SetString(PyExc_ValueError, "an index is out of range");
    else put_uniform(&self->writer, index[i], entries);
  }
  PyBuffer_Release(&indices);
  if (self->writer.no_memory) PyErr_NoMemory();
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static PyObject *encoder_state(RangeEncoder *self, PyObject *unused) {
  (void)unused;
  PyObject *words = PyBytes_FromStringAndSize(NULL, 4 * self->writer.count);
  if (!words) return NULL;
  uint8_t *byte = (uint8_t *)PyBytes_AsString(words);
  for (int64_t i = 0; i < self->writer.count; i++)
    for (int shift = 24; shift >= 0; shift -= 8) *byte++ = (uint8_t)(self->writer.words[i] >> shift);
  return Py_BuildValue("NKK", words, (unsigned long long)self->writer.lower, (unsigned long long)self->writer.range);
}

static PyObject *decoder_get_part(RangeDecoder *self, PyObject *arguments) {
  Part part;
  if (!take_part(&part, arguments, "w*y*y*y*")) return NULL;
  Reader reader = self->reader;
  int64_t certain;
  Py_BEGIN_ALLOW_THREADS;
  certain = get_part(&reader, part.values.buf, part.indices.buf, part.indices.len, &part.levels, part.memory);
  Py_END_ALLOW_THREADS;
  self->reader = reader;
  release_part(&part);
  if (certain >= 0) return PyLong_FromLongLong(certain);
  refuse_level();
  return NULL;
}

static PyObject *decoder_get_indices(RangeDecoder *self, PyObject *arguments) {
  Py_buffer indices;
  int entries;
  if (!PyArg_ParseTuple(arguments, "w*i", &indices, &entries)) return NULL;
  Py_ssize_t read = 0;
  if (entries < 1 || entries > 1 << PROBABILITY_BITS) PyErr_SetString(PyExc_ValueError, "expected 1 to 2^24 entries");
  else
    for (int32_t *index = indices.buf; read < indices.len / 4; read++) {
      index[read] = get_uniform(&self->reader, entries);
      if (self->reader.ended) break;
    }
  PyBuffer_Release(&indices);
  return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(read);
}

static PyObject *decoder_ended(RangeDecoder *self, void *unused) {
  (void)unused;
  return PyBool_FromLong(self->reader.ended);
}

static PyObject *decoder_words(RangeDecoder *self, void *unused) {
  (void)unused;
  return PyLong_FromLongLong(self->reader.position / 4 - 2);
}

static PyObject *new_encoder(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  (void)keywords;
  if (!PyArg_ParseTuple(arguments, "")) return NULL;
  RangeEncoder *self = PyObject_New(RangeEncoder, type);
  if (self) self->writer = (Writer){.range = UINT64_MAX};
  return (PyObject *)self;
}

static PyObject *new_decoder(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  (void)keywords;
  PyObject *payload;
  int cut;
  if (!PyArg_ParseTuple(arguments, "Sp", &payload, &cut)) return NULL;
  RangeDecoder *self = PyObject_New(RangeDecoder, type);
  if (!self) return NULL;
  Py_INCREF(payload);
  self->payload = payload;
  self->reader = (Reader){.payload = (const uint8_t *)PyBytes_AsString(payload), .range = UINT64_MAX, .cut = cut};
  self->reader.length = PyBytes_Size(payload);
  shift(&self->reader);
  shift(&self->reader);
  return (PyObject *)self;
}

static void free_encoder(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  free(((RangeEncoder *)self)->writer.words);
  PyObject_Free(self);
  Py_DECREF(type);
}

static void free_decoder(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  Py_DECREF(((RangeDecoder *)self)->payload);
  PyObject_Free(self);
  Py_DECREF(type);
}

#define METHOD(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef ENCODER_METHODS[] = {
    {"put_indices", METHOD(encoder_put_indices), METH_VARARGS, NULL},
    {"put_part", METHOD(encoder_put_part), METH_VARARGS, NULL},
    {"state", METHOD(encoder_state), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef DECODER_METHODS[] = {
    {"get_indices", METHOD(decoder_get_indices), METH_VARARGS, NULL},
    {"get_part", METHOD(decoder_get_part), METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef DECODER_PROPERTIES[] = {
    {"ended", (getter)decoder_ended, NULL, NULL, NULL},
    {"words", (getter)decoder_words, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot ENCODER_SLOTS[] = {
    {Py_tp_new, new_encoder}, {Py_tp_dealloc, free_encoder}, {Py_tp_methods, ENCODER_METHODS}, {0, NULL}};

static PyType_Slot DECODER_SLOTS[] = {{Py_tp_new, new_decoder},
                                      {Py_tp_dealloc, free_decoder},
                                      {Py_tp_methods, DECODER_METHODS},
                                      {Py_tp_getset, DECODER_PROPERTIES},
                                      {0, NULL}};

static PyType_Spec ENCODER = {
    "glc.runtime._range_coder.RangeEncoder", sizeof(RangeEncoder), 0, Py_TPFLAGS_DEFAULT, ENCODER_SLOTS};
static PyType_Spec DECODER = {
    "glc.runtime._range_coder.RangeDecoder", sizeof(RangeDecoder), 0, Py_TPFLAGS_DEFAULT, DECODER_SLOTS};

static int fill_module(PyObject *module) {
  PyType_Spec *const specs[] = {&ENCODER, &DECODER};
  for (int i = 0; i < 2; i++) {
    PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
    const int status = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    if (status) return status;
  }
  return 0;
}

static PyModuleDef_Slot MODULE_SLOTS[] = {{Py_mod_exec, fill_module}, {0, NULL}};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_range_coder", NULL, 0, NULL, MODULE_SLOTS, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__range_coder(void) { return PyModuleDef_Init(&MODULE); }
