/* prefetch.c: what hostkv.h promises of prefetches, and what wrong uses of them are answered with. Needs a daemon at
 * HOSTKV_SOCKET without tiers that has nothing else to do: then the pool alone is asked. */

#define _GNU_SOURCE

#include "check.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OBJECT_BYTES = 4096, KEYS = 4, MOST_OPEN = 32 };

static hostkv_key key_of(int number) {
    hostkv_key key;
    memset(&key, 0, sizeof key);
    key.chunk_hash[0] = (uint8_t)number;
    key.chunk_hash_len = 8;
    return key;
}

static void store(const hostkv_session *session, hostkv_keyspace keyspace, int number) {
    hostkv_reserve_item item;
    hostkv_reservation *reservation = NULL;
    hostkv_span_mut span = {NULL, 0};
    item.key = key_of(number);
    item.len_bytes = OBJECT_BYTES;
    STATUS(hostkv_session_reserve(session, keyspace, &item, 1, NULL, &reservation), OK);
    if (STATUS(hostkv_reservation_get_span(reservation, 0, &span), OK)) memset(span.data, number, (size_t)span.len_bytes);
    STATUS(hostkv_reservation_commit(reservation), OK);
}

static hostkv_prefetch *prefetch(const hostkv_session *session, hostkv_keyspace keyspace, const hostkv_key *keys, size_t count) {
    hostkv_prefetch *ret = NULL;
    STATUS(hostkv_session_prefetch(session, keyspace, keys, count, NULL, &ret), OK);
    return ret;
}

static void use(const hostkv_session *session, hostkv_keyspace keyspace, const hostkv_key *keys) {
    hostkv_prefetch *kept;
    hostkv_lease *lease = NULL;
    hostkv_span span = {NULL, 0};
    hostkv_request request;
    size_t count = 77;

    group("the prefix is counted, and counted again the same");
    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.request_id = "request-1";
    request.device = "cpu";
    STATUS(hostkv_session_prefetch(session, keyspace, keys, KEYS, &request, &kept), OK);
    STATUS(hostkv_prefetch_wait(kept, 5000, &count), OK);
    CHECK(count == 2);
    count = 77;
    STATUS(hostkv_prefetch_wait(kept, 0, &count), OK);
    CHECK(count == 2);

    group("an acquire takes what was kept, and outlives the prefetch");
    STATUS(hostkv_session_acquire(session, keyspace, keys, KEYS, NULL, &lease), OK);
    CHECK(hostkv_lease_get_prefix_count(lease) == 2);
    STATUS(hostkv_prefetch_end(kept), OK);
    if (STATUS(hostkv_lease_get_span(lease, 1, &span), OK)) CHECK(*(const unsigned char *)span.data == 2);
    STATUS(hostkv_lease_release(lease), OK);

    group("an end without a wait, and of nothing");
    STATUS(hostkv_prefetch_end(prefetch(session, keyspace, keys, KEYS)), OK);
    STATUS(hostkv_prefetch_end(NULL), OK);
}

static void refusals(const hostkv_session *session, hostkv_keyspace keyspace, const hostkv_key *keys) {
    hostkv_prefetch *ret = POISON;
    hostkv_prefetch *open[MOST_OPEN];
    hostkv_prefetch *kept;
    hostkv_request request;
    hostkv_key bad;
    size_t count = 77;
    int i;

    group("NULL, counts, flags, keys and keyspaces that are not allowed");
    REFUSED(hostkv_session_prefetch(NULL, keyspace, keys, 1, NULL, &ret), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_prefetch(session, keyspace, NULL, 1, NULL, &ret), INVALID_ARGUMENT, "keys");
    REFUSED(hostkv_session_prefetch(session, keyspace, keys, 1, NULL, NULL), INVALID_ARGUMENT, "ret_prefetch");
    REFUSED(hostkv_session_prefetch(session, keyspace, keys, 0, NULL, &ret), INVALID_ARGUMENT, "count");
    REFUSED(hostkv_session_prefetch(session, keyspace, keys, 1025, NULL, &ret), INVALID_ARGUMENT, "1024");
    REFUSED(hostkv_session_prefetch(session, keyspace + 99, keys, 1, NULL, &ret), INVALID_ARGUMENT, "keyspace");
    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.flags = HOSTKV_ACQUIRE_ALL;
    REFUSED(hostkv_session_prefetch(session, keyspace, keys, 1, &request, &ret), INVALID_ARGUMENT, "flags");
    request.flags = 0;
    request.request_id = "";
    REFUSED(hostkv_session_prefetch(session, keyspace, keys, 1, &request, &ret), INVALID_ARGUMENT, "request_id");
    bad = keys[0];
    bad.chunk_hash_len = 33;
    REFUSED(hostkv_session_prefetch(session, keyspace, &bad, 1, NULL, &ret), INVALID_ARGUMENT, "chunk_hash_len");
    CHECK(ret == POISON);
    REFUSED(hostkv_prefetch_wait(NULL, 0, &count), INVALID_ARGUMENT, "prefetch");
    kept = prefetch(session, keyspace, keys, 1);
    REFUSED(hostkv_prefetch_wait(kept, 1000, NULL), INVALID_ARGUMENT, "ret_prefix_count");
    CHECK(count == 77);
    STATUS(hostkv_prefetch_end(kept), OK);

    group("at most 32 of a session are open");
    for (i = 0; i < MOST_OPEN; i++) open[i] = prefetch(session, keyspace, keys, 1);
    REFUSED(hostkv_session_prefetch(session, keyspace, keys, 1, NULL, &ret), QUOTA, "32");
    CHECK(ret == POISON);
    STATUS(hostkv_prefetch_end(open[7]), OK);
    open[7] = prefetch(session, keyspace, keys, 1);
    for (i = 0; i < MOST_OPEN; i++) STATUS(hostkv_prefetch_end(open[i]), OK);
}

static void after_close(const hostkv_key *keys) {
    hostkv_session *session = open_session();
    const hostkv_keyspace keyspace = open_keyspace(session, "prefetch");
    hostkv_prefetch *kept = prefetch(session, keyspace, keys, KEYS);
    size_t count = 77;

    group("a prefetch outlives the close of its session");
    STATUS(hostkv_session_close(session), OK);
    STATUS(hostkv_prefetch_wait(kept, 5000, &count), OK);
    CHECK(count == 2);
    STATUS(hostkv_prefetch_end(kept), OK);
}

static void forked(const hostkv_session *session, hostkv_keyspace keyspace, const hostkv_key *keys) {
    hostkv_prefetch *kept = prefetch(session, keyspace, keys, KEYS);
    size_t count = 77;
    int status = 0;
    pid_t child;

    group("in a forked child");
    fflush(stdout);
    child = fork();
    if (child == 0) {
        const int is_well = hostkv_prefetch_wait(kept, 1000, &count) == HOSTKV_STATUS_FORKED && count == 77 &&
                            hostkv_prefetch_end(kept) == HOSTKV_STATUS_OK;
        _exit(is_well ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    STATUS(hostkv_prefetch_wait(kept, 5000, &count), OK);
    CHECK(count == 2);
    STATUS(hostkv_prefetch_end(kept), OK);
}

int main(void) {
    hostkv_session *session = open_session();
    const hostkv_keyspace keyspace = open_keyspace(session, "prefetch");
    hostkv_key keys[KEYS];
    int i;

    for (i = 0; i < KEYS; i++) keys[i] = key_of(i + 1);
    group("two of four keys are stored");
    store(session, keyspace, 1);
    store(session, keyspace, 2);
    use(session, keyspace, keys);
    refusals(session, keyspace, keys);
    after_close(keys);
    forked(session, keyspace, keys);
    group("close");
    STATUS(hostkv_session_close(session), OK);
    return finish();
}
