/* roundtrip.c: one object there and back through the pool, in C.
 *
 *     cc -Iinclude examples/roundtrip.c -Ltarget/release -lhostkv -Wl,-rpath,$PWD/target/release -o roundtrip
 *     HOSTKV_SOCKET=/run/hostkv/hostkv.sock ./roundtrip
 *
 * Stores an object, finds it again, reads it where it lies, and lets go of it. Says what it did;
 * exit code 0, or 1 and a sentence on standard error. The parts between [name] and [end] stand in README.md. */

#include "hostkv.h"

#include <stdio.h>
#include <string.h>

enum { OBJECT_BYTES = 64 * 1024 };

/* Ends the program's work with the library's own sentence, which names the value and the limit. */
static int failed(const char *what) {
    fprintf(stderr, "roundtrip: %s: %s\n", what, hostkv_last_error());
    return 1;
}

/* A session is passed in so that whatever happens here, main closes it. */
static int store_and_read(const hostkv_session *session) {
    hostkv_keyspace_config layout = {0};
    layout.struct_size = sizeof layout;
    layout.model_name = "example/roundtrip";
    layout.layout_fingerprint = 1;
    hostkv_keyspace keyspace;
    if (hostkv_session_open_keyspace(session, &layout, &keyspace) != HOSTKV_STATUS_OK) return failed("open_keyspace");

    hostkv_reserve_item item = {0};
    item.len_bytes = OBJECT_BYTES;
    if (hostkv_key_from_bytes("roundtrip.c", 11, &item.key) != HOSTKV_STATUS_OK) return failed("key_from_bytes");

    /* An object of an earlier run would make the reserve say EXISTS; this run shall write one. */
    uint8_t was_there = 0;
    if (hostkv_session_remove(session, keyspace, &item.key, 1, &was_there) != HOSTKV_STATUS_OK) return failed("remove");

    /* [write] */
    /* Store: a place in shared memory, filled in place, then made readable. */
    hostkv_reservation *reservation = NULL;
    if (hostkv_session_reserve(session, keyspace, &item, 1, NULL, &reservation) != HOSTKV_STATUS_OK) return failed("reserve");
    hostkv_span_mut place;
    const hostkv_status granted = hostkv_reservation_get_span(reservation, 0, &place);
    if (granted != HOSTKV_STATUS_OK) {
        hostkv_reservation_abort(reservation);
        fprintf(stderr, "roundtrip: no place for %d bytes: %s\n", OBJECT_BYTES, hostkv_status_name(granted));
        return 1;
    }
    memset(place.data, 'k', (size_t)place.len_bytes);
    if (hostkv_reservation_commit(reservation) != HOSTKV_STATUS_OK) return failed("commit");
    /* [end] */
    printf("stored %d bytes%s\n", OBJECT_BYTES, was_there ? " in the place of an earlier run's object" : "");

    /* Find: without taking it. */
    size_t found = 0;
    if (hostkv_session_lookup(session, keyspace, &item.key, 1, &found, NULL) != HOSTKV_STATUS_OK) return failed("lookup");
    if (found != 1) {
        fprintf(stderr, "roundtrip: the object is not there after its commit\n");
        return 1;
    }
    printf("found it\n");

    /* [read] */
    /* Read: the lease keeps the bytes where they are; nothing is copied. */
    hostkv_lease *lease = NULL;
    if (hostkv_session_acquire(session, keyspace, &item.key, 1, NULL, &lease) != HOSTKV_STATUS_OK) return failed("acquire");
    hostkv_span object;
    const hostkv_status pinned = hostkv_lease_get_span(lease, 0, &object);
    size_t equal = 0;
    if (pinned == HOSTKV_STATUS_OK) {
        const unsigned char *bytes = object.data;
        while (equal < object.len_bytes && bytes[equal] == 'k') equal++;
    }
    if (hostkv_lease_release(lease) != HOSTKV_STATUS_OK) return failed("release");
    /* [end] */
    if (pinned != HOSTKV_STATUS_OK || equal != OBJECT_BYTES) {
        fprintf(stderr, "roundtrip: read %s, %zu of %d bytes as written\n", hostkv_status_name(pinned), equal, OBJECT_BYTES);
        return 1;
    }
    printf("read %zu bytes in place, all as written, and released them\n", equal);
    return 0;
}

int main(void) {
    hostkv_session *session = NULL;
    if (hostkv_session_open(NULL, &session) != HOSTKV_STATUS_OK) return failed("open");
    int code = store_and_read(session);
    if (hostkv_session_close(session) != HOSTKV_STATUS_OK) code = failed("close");
    return code;
}
