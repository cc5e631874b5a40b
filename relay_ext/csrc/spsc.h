/* Bounded single-producer single-consumer queue of fixed-size records, lock-free.
 *
 * The producer fills the record that spsc_reserve() returns and makes it visible with spsc_commit(); the
 * consumer reads the one that spsc_peek() returns and gives it back with spsc_consume(). Both return NULL
 * where there is nothing to be had; a full queue is the producer's to count.
 */
#ifndef RELAY_SPSC_H
#define RELAY_SPSC_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
    _Alignas(64) atomic_uint_fast32_t head; /* records consumed */
    _Alignas(64) atomic_uint_fast32_t tail; /* records produced */
    _Alignas(64) uint32_t mask;
    size_t record;
    unsigned char *records;
} spsc_queue;

/* `capacity` is a power of two; returns 0 when there is no memory. */
static inline int spsc_init(spsc_queue *q, uint32_t capacity, size_t record)
{
    atomic_init(&q->head, 0);
    atomic_init(&q->tail, 0);
    q->mask = capacity - 1;
    q->record = record;
    q->records = calloc(capacity, record);
    return q->records != NULL;
}

static inline void spsc_destroy(spsc_queue *q)
{
    free(q->records);
    q->records = NULL;
}

static inline void *spsc_reserve(spsc_queue *q)
{
    uint32_t tail = (uint32_t)atomic_load_explicit(&q->tail, memory_order_relaxed);
    uint32_t head = (uint32_t)atomic_load_explicit(&q->head, memory_order_acquire);
    if (tail - head > q->mask)
        return NULL;
    return q->records + (size_t)(tail & q->mask) * q->record;
}

static inline void spsc_commit(spsc_queue *q)
{
    uint32_t tail = (uint32_t)atomic_load_explicit(&q->tail, memory_order_relaxed);
    atomic_store_explicit(&q->tail, (uint32_t)(tail + 1), memory_order_release);
}

static inline void *spsc_peek(spsc_queue *q)
{
    uint32_t head = (uint32_t)atomic_load_explicit(&q->head, memory_order_relaxed);
    uint32_t tail = (uint32_t)atomic_load_explicit(&q->tail, memory_order_acquire);
    if (head == tail)
        return NULL;
    return q->records + (size_t)(head & q->mask) * q->record;
}

static inline void spsc_consume(spsc_queue *q)
{
    uint32_t head = (uint32_t)atomic_load_explicit(&q->head, memory_order_relaxed);
    atomic_store_explicit(&q->head, (uint32_t)(head + 1), memory_order_release);
}

#endif
