/* threads.c: 16 threads at once in one session: store, acquire, compare every byte, release, remove. The objects do
 * not fit in the pool, so eviction works beside them. Needs a daemon at HOSTKV_SOCKET that has nothing else to do.
 *
 *     threads [ROUNDS [SEED]]
 *
 * A key's number gives the length and the bytes of its object, so whoever reads it knows what must be there. */

#define _GNU_SOURCE

#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>

enum { THREADS = 16, KEYS = 600, BATCH = 8, MAX_BYTES = 512 * 1024 };

/* A thread's own random numbers and counts; nothing here is shared. */
struct worker {
    const hostkv_session *session;
    hostkv_keyspace keyspace;
    uint64_t state;
    unsigned rounds;
    uint64_t written, no_space, read, missed, removed, wrong, failed;
    char failure[200];
    pthread_t thread;
};

/* SplitMix64 (Steele, Lea, Flood). */
static uint64_t next(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t object_bytes(uint32_t number) {
    uint64_t state = number;
    return 8 * (1 + next(&state) % (MAX_BYTES / 8));
}

static uint64_t word_at(uint32_t number, uint64_t index) {
    return ((uint64_t)number << 32 | 0x5a5a0000u) + index * UINT64_C(0x100000001b3);
}

static void fill(void *data, uint32_t number, uint64_t len_bytes, uint64_t *buffer, int is_copied) {
    uint64_t *words = is_copied ? buffer : data;
    uint64_t i;
    for (i = 0; i < len_bytes / 8; i++) words[i] = word_at(number, i);
    if (is_copied) hostkv_copy(data, buffer, (size_t)len_bytes);
}

static int is_as_written(const hostkv_span *span, uint32_t number) {
    const uint64_t *words = span->data;
    uint64_t i;
    if (span->len_bytes != object_bytes(number)) return 0;
    for (i = 0; i < span->len_bytes / 8; i++) {
        if (words[i] != word_at(number, i)) return 0;
    }
    return 1;
}

/* Keeps the first failure of a thread, for the main thread to print. */
static void failed(struct worker *worker, const char *what, hostkv_status status) {
    if (worker->failed++ == 0) {
        snprintf(worker->failure, sizeof worker->failure, "%s: %s: %s", what, hostkv_status_name(status), hostkv_last_error());
    }
}

static void choose(struct worker *worker, uint32_t *numbers, hostkv_key *keys) {
    const uint32_t first = (uint32_t)(next(&worker->state) % KEYS);
    size_t i;
    for (i = 0; i < BATCH; i++) {
        numbers[i] = (first + (uint32_t)i) % KEYS;
        memset(&keys[i], 0, sizeof keys[i]);
        memcpy(keys[i].chunk_hash, &numbers[i], sizeof numbers[i]);
        keys[i].chunk_hash_len = sizeof numbers[i];
        keys[i].kv_rank = numbers[i] % 3;
    }
}

static void read_all(struct worker *worker, hostkv_lease *lease, const uint32_t *numbers) {
    hostkv_status status;
    size_t i;
    if (hostkv_lease_get_count(lease) != BATCH) failed(worker, "get_count", HOSTKV_STATUS_OK);
    for (i = 0; i < BATCH; i++) {
        hostkv_span span;
        status = hostkv_lease_get_span(lease, i, &span);
        if (status == HOSTKV_STATUS_OK) {
            worker->read++;
            if (!is_as_written(&span, numbers[i])) worker->wrong++;
        } else if (status == HOSTKV_STATUS_NOT_FOUND || status == HOSTKV_STATUS_QUOTA) {
            worker->missed++;
        } else {
            failed(worker, "lease_get_span", status);
        }
    }
    status = hostkv_lease_check(lease);
    if (status != HOSTKV_STATUS_OK) failed(worker, "check", status);
    status = hostkv_lease_release(lease);
    if (status != HOSTKV_STATUS_OK) failed(worker, "release", status);
}

static void write_some(struct worker *worker, const uint32_t *numbers, const hostkv_key *keys, uint64_t *buffer) {
    const uint64_t choice = next(&worker->state);
    hostkv_reserve_item items[BATCH];
    hostkv_reservation *reservation = NULL;
    hostkv_lease *lease = NULL;
    hostkv_status status;
    size_t i;

    memset(items, 0, sizeof items);
    for (i = 0; i < BATCH; i++) {
        items[i].key = keys[i];
        items[i].len_bytes = object_bytes(numbers[i]);
    }
    status = hostkv_session_reserve(worker->session, worker->keyspace, items, BATCH, NULL, &reservation);
    if (status != HOSTKV_STATUS_OK) {
        failed(worker, "reserve", status);
        return;
    }
    for (i = 0; i < BATCH; i++) {
        hostkv_span_mut span;
        status = hostkv_reservation_get_span(reservation, i, &span);
        if (status == HOSTKV_STATUS_OK) {
            worker->written++;
            fill(span.data, numbers[i], span.len_bytes, buffer, (choice & 16) != 0);
        } else if (status == HOSTKV_STATUS_NO_SPACE || status == HOSTKV_STATUS_QUOTA) {
            worker->no_space++;
        } else if (status != HOSTKV_STATUS_EXISTS && status != HOSTKV_STATUS_RESERVED) {
            failed(worker, "reservation_get_span", status);
        }
    }
    switch (choice % 8) {
    case 0:
        status = hostkv_reservation_abort(reservation);
        break;
    case 1:
    case 2:
        status = hostkv_reservation_commit_and_acquire(reservation, &lease);
        if (status == HOSTKV_STATUS_OK) read_all(worker, lease, numbers);
        break;
    default:
        status = hostkv_reservation_commit(reservation);
    }
    if (status != HOSTKV_STATUS_OK) failed(worker, "end of a reservation", status);
}

static void read_some(struct worker *worker, const uint32_t *numbers, const hostkv_key *keys) {
    hostkv_request request;
    hostkv_lease *lease = NULL;
    hostkv_status status;
    uint8_t present[BATCH];
    size_t count = BATCH + 1;

    status = hostkv_session_lookup(worker->session, worker->keyspace, keys, BATCH, &count, present);
    if (status != HOSTKV_STATUS_OK || count > BATCH) failed(worker, "lookup", status);
    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.request_id = "threads";
    request.flags = (next(&worker->state) & 1) != 0 ? HOSTKV_ACQUIRE_ALL : 0;
    status = hostkv_session_acquire(worker->session, worker->keyspace, keys, BATCH, &request, &lease);
    if (status == HOSTKV_STATUS_OK) {
        read_all(worker, lease, numbers);
    } else {
        failed(worker, "acquire", status);
    }
}

static void *work(void *argument) {
    struct worker *worker = argument;
    uint64_t *buffer = malloc(MAX_BYTES);
    uint32_t numbers[BATCH];
    hostkv_key keys[BATCH];
    unsigned round;

    for (round = 0; buffer != NULL && round < worker->rounds; round++) {
        choose(worker, numbers, keys);
        write_some(worker, numbers, keys, buffer);
        choose(worker, numbers, keys);
        read_some(worker, numbers, keys);
        if (next(&worker->state) % 16 == 0) {
            const hostkv_status status = hostkv_session_remove(worker->session, worker->keyspace, keys, BATCH, NULL);
            if (status != HOSTKV_STATUS_OK) failed(worker, "remove", status);
            worker->removed++;
        }
        /* A failing call of this thread's own: its sentence must not be another thread's. */
        if (hostkv_session_lookup(worker->session, worker->keyspace, NULL, 1, NULL, NULL) != HOSTKV_STATUS_INVALID_ARGUMENT ||
            strcmp(hostkv_last_error(), "keys is NULL; it must not be") != 0) {
            failed(worker, "the last error of this thread", HOSTKV_STATUS_INVALID_ARGUMENT);
        }
    }
    free(buffer);
    return NULL;
}

/* Everything was given back: with the keys cleared, no byte is in use. */
static void nothing_is_held(const hostkv_session *session) {
    hostkv_stats stats;
    uint64_t removed_count = 0;
    int i;

    group("nothing is held at the end");
    STATUS(hostkv_session_clear(session, 0, &removed_count), OK);
    for (i = 0; i < 100; i++) {
        memset(&stats, 0, sizeof stats);
        stats.struct_size = sizeof stats;
        if (hostkv_session_get_stats(session, &stats) != HOSTKV_STATUS_OK || stats.used_bytes == 0) break;
        poll(NULL, 0, 100);
    }
    CHECK(stats.used_bytes == 0);
    CHECK(stats.reserved_bytes == 0);
    CHECK(stats.object_count == 0);
    CHECK(stats.l1_read_keys > 0 && stats.l1_write_keys > 0);
    printf("     %" PRIu64 " keys evicted\n", stats.l1_evicted_keys);
}

int main(int argc, char **argv) {
    static struct worker workers[THREADS];
    const unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    struct worker sum;
    hostkv_session_config config;
    hostkv_keyspace_config layout;
    hostkv_session *session = NULL;
    hostkv_keyspace keyspace = 0;
    int i;

    printf("threads: %d threads, %u rounds, seed %" PRIu64 "\n", THREADS, rounds, seed);
    group("open");
    hostkv_session_config_init(&config);
    config.client_name = "threads";
    if (!STATUS(hostkv_session_open(&config, &session), OK)) return finish();
    memset(&layout, 0, sizeof layout);
    layout.struct_size = sizeof layout;
    layout.model_name = "threads";
    layout.layout_fingerprint = 1;
    STATUS(hostkv_session_open_keyspace(session, &layout, &keyspace), OK);

    group("16 threads in one session");
    for (i = 0; i < THREADS; i++) {
        workers[i].session = session;
        workers[i].keyspace = keyspace;
        workers[i].rounds = rounds;
        workers[i].state = next(&seed);
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    memset(&sum, 0, sizeof sum);
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(workers[i].thread, NULL) == 0);
        check_at(workers[i].failed == 0, __FILE__, __LINE__, workers[i].failure);
        CHECK(workers[i].wrong == 0);
        sum.written += workers[i].written;
        sum.no_space += workers[i].no_space;
        sum.read += workers[i].read;
        sum.missed += workers[i].missed;
        sum.removed += workers[i].removed;
    }
    CHECK(sum.written > 0 && sum.read > 0);
    group_end();
    printf("     %" PRIu64 " objects written, %" PRIu64 " without room, %" PRIu64 " read and compared, %" PRIu64 " missed, %" PRIu64 " removes\n",
           sum.written, sum.no_space, sum.read, sum.missed, sum.removed);

    nothing_is_held(session);
    group("close");
    STATUS(hostkv_session_close(session), OK);
    return finish();
}
