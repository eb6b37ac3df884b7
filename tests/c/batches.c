/* batches.c: what hostkv.h promises a writer of batch after batch, commits with the next reserve in one call and reserves
 * that are not waited for, and what wrong uses of them are answered with. Needs a daemon at HOSTKV_SOCKET. */

#define _GNU_SOURCE

#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

enum { OBJECT_BYTES = 4096, WITHIN_MS = 5000 };

/* Fills every span of a reservation; gives their number. */
static size_t fill(hostkv_reservation *reservation) {
    size_t i, count = 0;
    for (i = 0; i < hostkv_reservation_get_count(reservation); i++) {
        hostkv_span_mut span = {NULL, 0};
        if (hostkv_reservation_get_span(reservation, i, &span) != HOSTKV_STATUS_OK) continue;
        memset(span.data, 'b', (size_t)span.len_bytes);
        count++;
    }
    return count;
}

static hostkv_reservation *reserve_filled(const hostkv_session *session, hostkv_keyspace keyspace, const char *name) {
    const hostkv_reserve_item item = item_of(name, OBJECT_BYTES);
    hostkv_reservation *reservation = NULL;
    STATUS(hostkv_session_reserve(session, keyspace, &item, 1, NULL, &reservation), OK);
    CHECK(fill(reservation) == 1);
    return reservation;
}

static size_t present(const hostkv_session *session, hostkv_keyspace keyspace, const char *name) {
    const hostkv_reserve_item item = item_of(name, OBJECT_BYTES);
    size_t count = 0;
    STATUS(hostkv_session_lookup(session, keyspace, &item.key, 1, &count, NULL), OK);
    return count;
}

static void refusals(const hostkv_session *session, hostkv_keyspace keyspace) {
    const hostkv_reserve_item next[2] = {item_of("next", OBJECT_BYTES), item_of("after", OBJECT_BYTES)};
    const hostkv_request unknown = request_of(64);
    hostkv_reserve_item wrong = next[0];
    hostkv_reservation *reservation, *made = POISON;

    group("a refused commit_and_reserve ends the reservation and commits nothing");
    wrong.len_bytes = 0;
    /* Unlike the other functions that end a handle: it has no session to reserve in. */
    REFUSED(hostkv_reservation_commit_and_reserve(NULL, keyspace, next, 2, NULL, &made), INVALID_ARGUMENT, "reservation");
#define PAIR_REFUSED(word, ...)                                                                                       \
    reservation = reserve_filled(session, keyspace, "pair");                                                          \
    REFUSED(hostkv_reservation_commit_and_reserve(reservation, __VA_ARGS__), INVALID_ARGUMENT, word);                 \
    CHECK(made == POISON && present(session, keyspace, "pair") == 0)
    PAIR_REFUSED("ret_reservation", keyspace, next, 2, NULL, NULL);
    PAIR_REFUSED("items", keyspace, NULL, 2, NULL, &made);
    PAIR_REFUSED("count", keyspace, next, 0, NULL, &made);
    PAIR_REFUSED("count", keyspace, next, 1025, NULL, &made);
    PAIR_REFUSED("keyspace", 999, next, 2, NULL, &made);
    PAIR_REFUSED("item 0", keyspace, &wrong, 1, NULL, &made);
    PAIR_REFUSED("request.flags", keyspace, next, 2, &unknown, &made);
#undef PAIR_REFUSED
}

static void pairs(const hostkv_session *session, hostkv_keyspace keyspace) {
    const hostkv_reserve_item next[2] = {item_of("next", OBJECT_BYTES), item_of("after", OBJECT_BYTES)};
    hostkv_reservation *reservation, *made = POISON;
    hostkv_span_mut span;

    group("commit_and_reserve");
    reservation = reserve_filled(session, keyspace, "pair");
    if (!STATUS(hostkv_reservation_commit_and_reserve(reservation, keyspace, next, 2, NULL, &made), OK)) return;
    CHECK(present(session, keyspace, "pair") == 1 && present(session, keyspace, "next") == 0);
    CHECK(hostkv_reservation_get_count(made) == 2);
    STATUS(hostkv_reservation_wait(made, 0), OK);
    STATUS(hostkv_reservation_get_span(made, 2, &span), INVALID_ARGUMENT);
    CHECK(fill(made) == 2);
    STATUS(hostkv_reservation_commit(made), OK);
    CHECK(present(session, keyspace, "next") == 1 && present(session, keyspace, "after") == 1);
}

static void without_waiting(const hostkv_session *session, hostkv_keyspace keyspace) {
    const hostkv_request no_wait = request_of(HOSTKV_RESERVE_NO_WAIT);
    const hostkv_reserve_item first = item_of("first ahead", OBJECT_BYTES), second = item_of("second ahead", OBJECT_BYTES);
    hostkv_reservation *reservation = NULL, *made = NULL;
    hostkv_span_mut span = {POISON, 5};

    group("a reservation that nobody has waited for");
    REFUSED(hostkv_reservation_wait(NULL, 0), INVALID_ARGUMENT, "reservation");
    STATUS(hostkv_session_reserve(session, keyspace, &first, 1, &no_wait, &reservation), OK);
    CHECK(hostkv_reservation_get_count(reservation) == 1);
    REFUSED(hostkv_reservation_get_span(reservation, 0, &span), INVALID_ARGUMENT, "wait");
    CHECK(span.data == POISON);
    REFUSED(hostkv_reservation_commit(reservation), INVALID_ARGUMENT, "wait");
    CHECK(present(session, keyspace, "first ahead") == 0);
    /* The refused commit has given it back. */
    STATUS(hostkv_session_reserve(session, keyspace, &first, 1, &no_wait, &reservation), OK);
    STATUS(hostkv_reservation_wait(reservation, WITHIN_MS), OK);
    STATUS(hostkv_reservation_wait(reservation, 0), OK);
    CHECK(fill(reservation) == 1);
    STATUS(hostkv_reservation_commit_and_reserve(reservation, keyspace, &second, 1, &no_wait, &made), OK);
    /* The abort waits, so the commit is done then. */
    STATUS(hostkv_reservation_abort(made), OK);
    CHECK(present(session, keyspace, "first ahead") == 1 && present(session, keyspace, "second ahead") == 0);
    STATUS(hostkv_session_reserve(session, keyspace, &second, 1, &no_wait, &reservation), OK);
    STATUS(hostkv_reservation_wait(reservation, WITHIN_MS), OK);
    STATUS(hostkv_reservation_abort(reservation), OK);
}

static void after_close(void) {
    hostkv_session *session = open_session(), *other = open_session();
    const hostkv_keyspace keyspace = open_keyspace(session, "batches"), same = open_keyspace(other, "batches");
    const hostkv_request no_wait = request_of(HOSTKV_RESERVE_NO_WAIT);
    const hostkv_reserve_item item = item_of("asked before close", OBJECT_BYTES);
    hostkv_reservation *paired, *asked = NULL, *made = POISON;

    group("handles that outlive their session");
    paired = reserve_filled(session, keyspace, "pair after close");
    STATUS(hostkv_session_reserve(session, keyspace, &item, 1, &no_wait, &asked), OK);
    STATUS(hostkv_session_close(session), OK);
    STATUS(hostkv_reservation_commit_and_reserve(paired, keyspace, &item, 1, NULL, &made), INVALID_ARGUMENT);
    CHECK(made == POISON && present(other, same, "pair after close") == 0);
    STATUS(hostkv_reservation_wait(asked, WITHIN_MS), OK);
    CHECK(fill(asked) == 1);
    STATUS(hostkv_reservation_abort(asked), OK);
    /* Both are given back: another session may write them at once. */
    STATUS(hostkv_reservation_commit(reserve_filled(other, same, "pair after close")), OK);
    STATUS(hostkv_reservation_commit(reserve_filled(other, same, "asked before close")), OK);
    STATUS(hostkv_session_close(other), OK);
}

static void forked(void) {
    hostkv_session *session = open_session();
    const hostkv_keyspace keyspace = open_keyspace(session, "batches");
    const hostkv_request no_wait = request_of(HOSTKV_RESERVE_NO_WAIT);
    const hostkv_reserve_item item = item_of("asked by the parent", OBJECT_BYTES);
    hostkv_reservation *paired, *asked = NULL, *made = POISON;
    int status = 0;
    pid_t child;

    group("after fork");
    paired = reserve_filled(session, keyspace, "pair of the parent");
    STATUS(hostkv_session_reserve(session, keyspace, &item, 1, &no_wait, &asked), OK);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        group_failed = 0;
        STATUS(hostkv_reservation_commit_and_reserve(paired, keyspace, &item, 1, NULL, &made), FORKED);
        STATUS(hostkv_reservation_wait(asked, 0), FORKED);
        CHECK(made == POISON);
        STATUS(hostkv_reservation_abort(asked), OK);
        STATUS(hostkv_session_close(session), OK);
        fflush(stdout);
        _exit(group_failed == 0 ? 0 : 1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    /* Nothing that the child did has reached the parent's session. */
    STATUS(hostkv_reservation_wait(asked, WITHIN_MS), OK);
    STATUS(hostkv_reservation_abort(asked), OK);
    STATUS(hostkv_reservation_commit(paired), OK);
    CHECK(present(session, keyspace, "pair of the parent") == 1);
    STATUS(hostkv_session_close(session), OK);
}

int main(void) {
    hostkv_session *session = open_session();
    const hostkv_keyspace keyspace = open_keyspace(session, "batches");
    uint64_t removed_count = 0;
    hostkv_stats stats;

    refusals(session, keyspace);
    pairs(session, keyspace);
    without_waiting(session, keyspace);
    after_close();
    forked();

    group("nothing is held at the end");
    memset(&stats, 0, sizeof stats);
    stats.struct_size = sizeof stats;
    STATUS(hostkv_session_get_stats(session, &stats), OK);
    CHECK(stats.reserved_bytes == 0 && stats.pinned_bytes == 0);
    STATUS(hostkv_session_clear(session, 0, &removed_count), OK);
    CHECK(removed_count == stats.object_count);
    STATUS(hostkv_session_close(session), OK);
    return finish();
}
