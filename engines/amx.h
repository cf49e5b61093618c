/* Matrix units of x86-64 under Linux: whether there are some, and their tiles of 16 rows of 64 bytes. */

#pragma once

#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__)
#define HAS_X86 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TILE_ROWS = 16, ROW_BYTES = 64, TILE_BYTES = TILE_ROWS * ROW_BYTES };

/* Whether this process may multiply 8-bit integers and bfloat16 in tiles, with AVX-512 beside; float16 too if asked. */
static int has_amx(int float16) {
  unsigned a, b, c, d, more, unused;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !__get_cpuid_count(7, 1, &more, &unused, &unused, &unused)) return 0;
  const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, amx = 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25;
  if ((b & avx512) != avx512 || (d & amx) != amx || !(more >> 5 & 1)) return 0;
  if (float16 && !(more >> 21 & 1)) return 0;
  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

__attribute__((target("amx-tile"))) static void configure_tiles(void) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } tiles = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    tiles.row_bytes[i] = ROW_BYTES;
    tiles.rows[i] = TILE_ROWS;
  }
  /* gcc's own form does not say that all of it is read. */
  __asm__ volatile("ldtilecfg %0" ::"m"(tiles));
}

__attribute__((target("amx-tile"))) static void release_tiles(void) { __asm__ volatile("tilerelease"); }

#else
#define HAS_X86 0
enum { TILE_ROWS = 16, ROW_BYTES = 64, TILE_BYTES = TILE_ROWS * ROW_BYTES };
#endif
