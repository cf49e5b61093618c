/* Threads that compute layers in turn: one layer, in chunks that each takes as it comes, then the next. */

#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MOST_THREADS = 256 };

typedef struct {
  pthread_mutex_t mutex;
  pthread_cond_t passed;
  int members, arrived;
  atomic_uint generation;
} Team;

/* Wait for all. Whoever comes last calls `prepare` before any goes on. */
static void meet(Team *team, void (*prepare)(void *, int), void *what, int number) {
  const unsigned generation = atomic_load(&team->generation);
  pthread_mutex_lock(&team->mutex);
  if (++team->arrived == team->members) {
    prepare(what, number);
    team->arrived = 0;
    atomic_fetch_add(&team->generation, 1);
    pthread_cond_broadcast(&team->passed);
  }
  while (generation == atomic_load(&team->generation)) pthread_cond_wait(&team->passed, &team->mutex);
  pthread_mutex_unlock(&team->mutex);
}

/* Run `member` in so many threads, the caller's among them; in fewer where there are no more, which then do it all. */
static void run_team(Team *team, int threads, void *(*member)(void *), void *what) {
  pthread_t others[MOST_THREADS];
  if (threads > MOST_THREADS) threads = MOST_THREADS;
  pthread_mutex_init(&team->mutex, NULL);
  pthread_cond_init(&team->passed, NULL);
  team->arrived = 0;
  atomic_init(&team->generation, 0);
  /* Held until the team is complete, so that none passes before. */
  pthread_mutex_lock(&team->mutex);
  team->members = 1;
  while (team->members < threads && !pthread_create(others + team->members, NULL, member, what)) team->members++;
  pthread_mutex_unlock(&team->mutex);
  member(what);
  for (int i = 1; i < team->members; i++) pthread_join(others[i], NULL);
  pthread_cond_destroy(&team->passed);
  pthread_mutex_destroy(&team->mutex);
}

/* Memory of one member, from layer to layer. */
typedef struct {
  void *data;
  size_t bytes;
} Ring;

/* At least so many bytes from a cache line on, with whatever they hold; NULL where there is no memory. */
static void *room_in(Ring *ring, size_t bytes) {
  if (ring->bytes < bytes) {
    free(ring->data);
    ring->data = aligned_alloc(64, (bytes + 63) / 64 * 64);
    ring->bytes = ring->data ? bytes : 0;
  }
  return ring->data;
}
