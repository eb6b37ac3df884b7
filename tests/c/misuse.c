/* misuse.c: every wrong use of hostkv.h that has a defined answer gets that answer, and none gets a crash.
 * Needs a daemon at HOSTKV_SOCKET that has nothing else to do. */

#define _GNU_SOURCE

#include "check.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OBJECT_BYTES = 4096, MAX_BATCH = 1024 };

static hostkv_keyspace_config layout(const char *model_name) {
    hostkv_keyspace_config config;
    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    config.model_name = model_name;
    config.layout_fingerprint = 7;
    return config;
}

static hostkv_session_config plain_config(void) {
    hostkv_session_config config;
    hostkv_session_config_init(&config);
    return config;
}

static hostkv_session *open_with_flags(uint32_t flags) {
    hostkv_session_config config = plain_config();
    hostkv_session *session = NULL;
    config.flags = flags;
    config.client_name = "misuse";
    if (!STATUS(hostkv_session_open(&config, &session), OK)) exit(finish());
    return session;
}

static hostkv_keyspace open_with_layout(const hostkv_session *session) {
    const hostkv_keyspace_config config = layout("misuse");
    hostkv_keyspace keyspace = 0;
    STATUS(hostkv_session_open_keyspace(session, &config, &keyspace), OK);
    return keyspace;
}

/* Reserves one object and fills it with its letter; not committed. */
static hostkv_reservation *reserve_filled(const hostkv_session *session, hostkv_keyspace keyspace, const char *name) {
    const hostkv_reserve_item item = item_of(name, OBJECT_BYTES);
    hostkv_reservation *reservation = NULL;
    hostkv_span_mut span = {NULL, 0};
    STATUS(hostkv_session_reserve(session, keyspace, &item, 1, NULL, &reservation), OK);
    if (STATUS(hostkv_reservation_get_span(reservation, 0, &span), OK)) memset(span.data, name[0], (size_t)span.len_bytes);
    return reservation;
}

static void store(const hostkv_session *session, hostkv_keyspace keyspace, const char *name) {
    STATUS(hostkv_reservation_commit(reserve_filled(session, keyspace, name)), OK);
}

static hostkv_lease *acquire(const hostkv_session *session, hostkv_keyspace keyspace, const char *name) {
    const hostkv_reserve_item item = item_of(name, OBJECT_BYTES);
    hostkv_lease *lease = NULL;
    STATUS(hostkv_session_acquire(session, keyspace, &item.key, 1, NULL, &lease), OK);
    CHECK(hostkv_lease_get_prefix_count(lease) == 1);
    return lease;
}

static size_t present(const hostkv_session *session, hostkv_keyspace keyspace, const char *name) {
    const hostkv_reserve_item item = item_of(name, OBJECT_BYTES);
    size_t count = 9;
    STATUS(hostkv_session_lookup(session, keyspace, &item.key, 1, &count, NULL), OK);
    return count;
}

/* Whether the first object of a lease is readable and as it was written. */
static int reads(const hostkv_lease *lease, char letter) {
    hostkv_span span = {NULL, 0};
    const char *bytes;
    uint64_t i;
    if (!STATUS(hostkv_lease_get_span(lease, 0, &span), OK)) return 0;
    bytes = span.data;
    for (i = 0; i < span.len_bytes; i++) {
        if (bytes[i] != letter) return 0;
    }
    return span.len_bytes == OBJECT_BYTES;
}

/* ------------------------------------------------------------------------------------------- without a session */

static void nothing_to_talk_to(void) {
    static const char path[] = "/nonexistent/hostkv-misuse.sock";
    hostkv_session_config config = plain_config();
    hostkv_session *session = POISON;
    char long_path[300];

    group("no daemon");
    config.socket_path = path;
    REFUSED(hostkv_session_open(&config, &session), DISCONNECTED, path);
    CHECK(session == POISON);
    memset(long_path, 'p', sizeof long_path - 1);
    long_path[0] = '/';
    long_path[sizeof long_path - 1] = '\0';
    config.socket_path = long_path;
    STATUS(hostkv_session_open(&config, &session), INVALID_ARGUMENT);
    CHECK(session == POISON);
}

static void null_is_refused_without_a_session(const hostkv_session *session) {
    static const uint32_t tokens[] = {1, 2};
    hostkv_key key;
    size_t count = 77;

    group("NULL, library");
    REFUSED(hostkv_key_from_bytes(NULL, 3, &key), INVALID_ARGUMENT, "bytes");
    REFUSED(hostkv_key_from_bytes("abc", 3, NULL), INVALID_ARGUMENT, "ret_key");
    STATUS(hostkv_key_from_bytes("abc", 0, &key), INVALID_ARGUMENT);
    REFUSED(hostkv_chunk_keys(NULL, 2, 1, &key, 1, &count), INVALID_ARGUMENT, "tokens");
    REFUSED(hostkv_chunk_keys(tokens, 2, 1, NULL, 2, &count), INVALID_ARGUMENT, "ret_keys");
    REFUSED(hostkv_chunk_keys(tokens, 2, 2, &key, 1, NULL), INVALID_ARGUMENT, "ret_count");
    REFUSED(hostkv_chunk_keys(tokens, 2, 0, &key, 1, &count), INVALID_ARGUMENT, "tokens_per_key");
    REFUSED(hostkv_chunk_keys(tokens, 2, 1, &key, 1, &count), INVALID_ARGUMENT, "room for 1");
    REFUSED(hostkv_chunk_keys(tokens, SIZE_MAX, 1, &key, 1, &count), INVALID_ARGUMENT, "tokens");
    REFUSED(hostkv_chunk_keys((const uint32_t *)(uintptr_t)3, 2, 1, &key, 1, &count), INVALID_ARGUMENT, "tokens is 0x3");
    CHECK(count == 77);
    hostkv_copy(NULL, tokens, 4);
    hostkv_copy(&count, NULL, 4);
    hostkv_copy(NULL, NULL, 0);
    CHECK(count == 77);

    group("last error");
    STATUS(hostkv_key_from_bytes(NULL, 1, &key), INVALID_ARGUMENT);
    {
        const char *sentence = hostkv_last_error();
        STATUS(hostkv_key_from_bytes("abc", 3, &key), OK);
        CHECK(hostkv_session_get_fd(session) >= 0);
        CHECK(hostkv_last_error() == sentence && strstr(sentence, "bytes") != NULL);
    }

    group("NULL, open and ends");
    REFUSED(hostkv_session_open(NULL, NULL), INVALID_ARGUMENT, "ret_session");
    hostkv_session_config_init(NULL);
    STATUS(hostkv_session_close(NULL), OK);
    STATUS(hostkv_reservation_commit(NULL), OK);
    STATUS(hostkv_reservation_abort(NULL), OK);
    STATUS(hostkv_lease_release(NULL), OK);
    {
        hostkv_lease *lease = POISON;
        STATUS(hostkv_reservation_commit_and_acquire(NULL, &lease), OK);
        CHECK(lease == NULL);
        REFUSED(hostkv_reservation_commit_and_acquire(NULL, NULL), INVALID_ARGUMENT, "ret_lease");
    }
    CHECK(hostkv_reservation_get_count(NULL) == 0);
    CHECK(hostkv_lease_get_count(NULL) == 0);
    CHECK(hostkv_lease_get_prefix_count(NULL) == 0);
    CHECK(hostkv_session_get_fd(NULL) == -1);
}

/* ---------------------------------------------------------------------------------------------- wrong arguments */

static void null_is_refused(const hostkv_session *session, hostkv_keyspace keyspace) {
    const hostkv_reserve_item item = item_of("null", OBJECT_BYTES);
    hostkv_keyspace_config config = layout("misuse");
    hostkv_session_info info = {0};
    hostkv_stats stats = {0};
    hostkv_span_mut span_mut = {POISON, 5};
    hostkv_span span = {POISON, 5};
    hostkv_keyspace number = 55;
    hostkv_reservation *reservation = POISON;
    hostkv_lease *lease = POISON;
    size_t count = 77;
    uint64_t removed_count = 77;
    uint8_t byte = 77;

    info.struct_size = sizeof info;
    stats.struct_size = sizeof stats;

    group("NULL session");
    REFUSED(hostkv_session_get_info(NULL, &info), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_get_stats(NULL, &stats), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_get_mapping(NULL, HOSTKV_MAPPING_READ, &span_mut), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_open_keyspace(NULL, &config, &number), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_reserve(NULL, keyspace, &item, 1, NULL, &reservation), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_lookup(NULL, keyspace, &item.key, 1, &count, &byte), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_acquire(NULL, keyspace, &item.key, 1, NULL, &lease), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_remove(NULL, keyspace, &item.key, 1, &byte), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_flush(NULL), INVALID_ARGUMENT, "session");
    REFUSED(hostkv_session_clear(NULL, 0, &removed_count), INVALID_ARGUMENT, "session");

    group("NULL arguments");
    REFUSED(hostkv_session_get_info(session, NULL), INVALID_ARGUMENT, "info");
    REFUSED(hostkv_session_get_stats(session, NULL), INVALID_ARGUMENT, "stats");
    REFUSED(hostkv_session_get_mapping(session, HOSTKV_MAPPING_READ, NULL), INVALID_ARGUMENT, "ret_mapping");
    REFUSED(hostkv_session_open_keyspace(session, NULL, &number), INVALID_ARGUMENT, "config");
    REFUSED(hostkv_session_open_keyspace(session, &config, NULL), INVALID_ARGUMENT, "ret_keyspace");
    config.model_name = NULL;
    REFUSED(hostkv_session_open_keyspace(session, &config, &number), INVALID_ARGUMENT, "model_name");
    REFUSED(hostkv_session_reserve(session, keyspace, NULL, 1, NULL, &reservation), INVALID_ARGUMENT, "items");
    REFUSED(hostkv_session_reserve(session, keyspace, &item, 1, NULL, NULL), INVALID_ARGUMENT, "ret_reservation");
    REFUSED(hostkv_session_lookup(session, keyspace, NULL, 1, &count, &byte), INVALID_ARGUMENT, "keys");
    REFUSED(hostkv_session_lookup(session, keyspace, &item.key, 1, NULL, &byte), INVALID_ARGUMENT, "ret_prefix_count");
    REFUSED(hostkv_session_acquire(session, keyspace, NULL, 1, NULL, &lease), INVALID_ARGUMENT, "keys");
    REFUSED(hostkv_session_acquire(session, keyspace, &item.key, 1, NULL, NULL), INVALID_ARGUMENT, "ret_lease");
    REFUSED(hostkv_session_remove(session, keyspace, NULL, 1, &byte), INVALID_ARGUMENT, "keys");
    REFUSED(hostkv_session_clear(session, 0, NULL), INVALID_ARGUMENT, "ret_removed_count");
    REFUSED(hostkv_reservation_get_span(NULL, 0, &span_mut), INVALID_ARGUMENT, "reservation");
    REFUSED(hostkv_lease_get_span(NULL, 0, &span), INVALID_ARGUMENT, "lease");
    REFUSED(hostkv_lease_check(NULL), INVALID_ARGUMENT, "lease");

    group("outputs of failures");
    CHECK(info.capacity_bytes == 0 && stats.capacity_bytes == 0);
    CHECK(span_mut.data == POISON && span_mut.len_bytes == 5 && span.data == POISON && span.len_bytes == 5);
    CHECK(number == 55 && reservation == POISON && lease == POISON);
    CHECK(count == 77 && removed_count == 77 && byte == 77);
}

static void struct_sizes(const hostkv_session *session, hostkv_keyspace keyspace) {
    struct {
        hostkv_session_config config;
        uint64_t unknown;
    } newer_config;
    struct {
        hostkv_session_info info;
        uint64_t unknown;
    } newer_info;
    static const uint32_t wrong[] = {0, 4, 13, 0xffffffff};
    const hostkv_reserve_item item = item_of("sizes", OBJECT_BYTES);
    hostkv_session_config config = plain_config();
    hostkv_keyspace_config keyspace_config = layout("misuse");
    hostkv_request request = request_of(0);
    hostkv_session_info info;
    hostkv_stats stats;
    hostkv_session *other = POISON;
    hostkv_keyspace number = 55;
    hostkv_lease *lease = POISON;
    hostkv_reservation *reservation = POISON;
    size_t i;

    group("struct sizes that no version has");
    for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        config.struct_size = wrong[i];
        REFUSED(hostkv_session_open(&config, &other), INVALID_ARGUMENT, "struct_size");
        keyspace_config.struct_size = wrong[i];
        REFUSED(hostkv_session_open_keyspace(session, &keyspace_config, &number), INVALID_ARGUMENT, "struct_size");
        request.struct_size = wrong[i];
        REFUSED(hostkv_session_acquire(session, keyspace, &item.key, 1, &request, &lease), INVALID_ARGUMENT, "struct_size");
        REFUSED(hostkv_session_reserve(session, keyspace, &item, 1, &request, &reservation), INVALID_ARGUMENT, "struct_size");
        info.struct_size = wrong[i];
        REFUSED(hostkv_session_get_info(session, &info), INVALID_ARGUMENT, "struct_size");
        stats.struct_size = wrong[i];
        REFUSED(hostkv_session_get_stats(session, &stats), INVALID_ARGUMENT, "struct_size");
    }
    CHECK(other == POISON && number == 55 && lease == POISON && reservation == POISON);

    group("struct sizes of older and newer callers");
    memset(&newer_config, 0, sizeof newer_config);
    newer_config.config.struct_size = sizeof newer_config;
    STATUS(hostkv_session_open(&newer_config.config, &other), OK);
    STATUS(hostkv_session_close(other), OK);
    other = POISON;
    newer_config.unknown = 1;
    REFUSED(hostkv_session_open(&newer_config.config, &other), INVALID_ARGUMENT, "byte 32");
    CHECK(other == POISON);

    config = plain_config();
    config.struct_size = offsetof(hostkv_session_config, client_name);
    config.client_name = "not read\n";
    config.pin_slot_count = 0xffffffff;
    STATUS(hostkv_session_open(&config, &other), OK);
    STATUS(hostkv_session_close(other), OK);

    memset(&newer_info, 0, sizeof newer_info);
    newer_info.info.struct_size = sizeof newer_info;
    STATUS(hostkv_session_get_info(session, &newer_info.info), OK);
    CHECK(newer_info.info.struct_size == sizeof newer_info && newer_info.unknown == 0);
    CHECK(newer_info.info.abi_version == HOSTKV_ABI_VERSION);
    CHECK(newer_info.info.capacity_bytes > 0 && newer_info.info.max_batch_keys == MAX_BATCH);
    CHECK(newer_info.info.server_version[0] != '\0' && memchr(newer_info.info.server_version, '\0', 32) != NULL);

    memset(&stats, 0xee, sizeof stats);
    stats.struct_size = offsetof(hostkv_stats, object_count);
    STATUS(hostkv_session_get_stats(session, &stats), OK);
    CHECK(stats.capacity_bytes == newer_info.info.capacity_bytes);
    CHECK(stats.object_count == UINT64_C(0xeeeeeeeeeeeeeeee));
}

static void flags(const hostkv_session *session, hostkv_keyspace keyspace) {
    const hostkv_reserve_item item = item_of("flags", OBJECT_BYTES);
    hostkv_session_config config = plain_config();
    hostkv_request request = request_of(0);
    hostkv_session *other = POISON;
    hostkv_lease *lease = POISON;
    hostkv_reservation *reservation = POISON;
    hostkv_span_mut mapping = {POISON, 5};
    uint64_t removed_count = 77;

    group("flags");
    config.flags = 1u << 4;
    REFUSED(hostkv_session_open(&config, &other), INVALID_ARGUMENT, "flags");
    config.flags = 1u << 31;
    REFUSED(hostkv_session_open(&config, &other), INVALID_ARGUMENT, "flags");
    config.flags = HOSTKV_SESSION_READ_ONLY | HOSTKV_SESSION_SINGLE_MAPPING;
    REFUSED(hostkv_session_open(&config, &other), INVALID_ARGUMENT, "SINGLE_MAPPING");
    config.flags = HOSTKV_SESSION_READ_ONLY | HOSTKV_SESSION_ASYNC_COMMIT;
    REFUSED(hostkv_session_open(&config, &other), INVALID_ARGUMENT, "ASYNC_COMMIT");
    STATUS(hostkv_session_flush(session), OK);
    request.flags = HOSTKV_ACQUIRE_ALL | 2;
    REFUSED(hostkv_session_acquire(session, keyspace, &item.key, 1, &request, &lease), INVALID_ARGUMENT, "flags");
    request.flags = HOSTKV_ACQUIRE_ALL;
    REFUSED(hostkv_session_reserve(session, keyspace, &item, 1, &request, &reservation), INVALID_ARGUMENT, "flags");
    REFUSED(hostkv_session_clear(session, 2, &removed_count), INVALID_ARGUMENT, "flags");
    REFUSED(hostkv_session_get_mapping(session, 0, &mapping), INVALID_ARGUMENT, "which");
    REFUSED(hostkv_session_get_mapping(session, 3, &mapping), INVALID_ARGUMENT, "which");
    CHECK(other == POISON && lease == POISON && reservation == POISON && mapping.data == POISON && removed_count == 77);

    STATUS(hostkv_session_get_mapping(session, HOSTKV_MAPPING_READ, &mapping), OK);
    CHECK(mapping.data != POISON && mapping.len_bytes > 5);
    STATUS(hostkv_session_get_mapping(session, HOSTKV_MAPPING_WRITE, &mapping), OK);
}

static void texts(const hostkv_session *session, hostkv_keyspace keyspace) {
    static const char not_utf8[] = "ab\xff";
    const hostkv_reserve_item item = item_of("texts", OBJECT_BYTES);
    hostkv_session_config config = plain_config();
    hostkv_keyspace_config keyspace_config = layout("misuse");
    hostkv_request request = request_of(0);
    hostkv_session *other = POISON;
    hostkv_keyspace number = 55;
    hostkv_lease *lease = POISON;
    hostkv_reservation *reservation = POISON;
    char text[200];
    size_t i;
    struct {
        const char *request_id;
        const char *device;
        const char *word;
    } bad[] = {
        {"", NULL, "request_id"},           {not_utf8, NULL, "request_id"}, {"a\nb", NULL, "request_id"},
        {"a\x7f", NULL, "request_id"},      {"\xc2\x85", NULL, "request_id"}, {NULL, "a\tb", "device"},
        {NULL, not_utf8, "device"},         {NULL, NULL, "request_id"},     {NULL, NULL, "device"},
    };

    memset(text, 'x', sizeof text);
    text[129] = '\0';
    bad[7].request_id = text;
    bad[8].device = text + 129 - 33;

    group("texts");
    config.client_name = not_utf8;
    REFUSED(hostkv_session_open(&config, &other), INVALID_ARGUMENT, "client_name");
    config.client_name = "a\nb";
    REFUSED(hostkv_session_open(&config, &other), INVALID_ARGUMENT, "client_name");
    config.client_name = text;
    REFUSED(hostkv_session_open(&config, &other), INVALID_ARGUMENT, "client_name");

    keyspace_config.model_name = "";
    REFUSED(hostkv_session_open_keyspace(session, &keyspace_config, &number), INVALID_ARGUMENT, "model_name");
    keyspace_config.model_name = not_utf8;
    REFUSED(hostkv_session_open_keyspace(session, &keyspace_config, &number), INVALID_ARGUMENT, "model_name");
    keyspace_config.model_name = "misuse";
    keyspace_config.cache_salt = not_utf8;
    REFUSED(hostkv_session_open_keyspace(session, &keyspace_config, &number), INVALID_ARGUMENT, "cache_salt");
    keyspace_config.cache_salt = text;
    REFUSED(hostkv_session_open_keyspace(session, &keyspace_config, &number), INVALID_ARGUMENT, "cache_salt");
    text[129] = 'x';
    text[145] = '\0';
    keyspace_config.cache_salt = NULL;
    keyspace_config.model_name = text;
    REFUSED(hostkv_session_open_keyspace(session, &keyspace_config, &number), INVALID_ARGUMENT, "model_name");
    text[145] = 'x';
    text[129] = '\0';

    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        request.request_id = bad[i].request_id;
        request.device = bad[i].device;
        REFUSED(hostkv_session_acquire(session, keyspace, &item.key, 1, &request, &lease), INVALID_ARGUMENT, bad[i].word);
        REFUSED(hostkv_session_reserve(session, keyspace, &item, 1, &request, &reservation), INVALID_ARGUMENT, bad[i].word);
    }
    CHECK(other == POISON && number == 55 && lease == POISON && reservation == POISON);

    group("texts at their limits");
    request.request_id = text + 1;
    request.device = text + 129 - 32;
    STATUS(hostkv_session_acquire(session, keyspace, &item.key, 1, &request, &lease), OK);
    STATUS(hostkv_lease_release(lease), OK);
    request.request_id = "\xc3\xa4";
    request.device = "";
    STATUS(hostkv_session_acquire(session, keyspace, &item.key, 1, &request, &lease), OK);
    STATUS(hostkv_lease_release(lease), OK);
}

static void layouts(const hostkv_session *session) {
    hostkv_keyspace_config config = layout("misuse-layout");
    hostkv_keyspace first = 0, again = 0, salted = 0, other = 55;

    group("keyspace layouts");
    STATUS(hostkv_session_open_keyspace(session, &config, &first), OK);
    STATUS(hostkv_session_open_keyspace(session, &config, &again), OK);
    CHECK(first == again && first != 0);
    config.cache_salt = "tenant";
    STATUS(hostkv_session_open_keyspace(session, &config, &salted), OK);
    CHECK(salted != first);
    config.cache_salt = NULL;
    config.layout_fingerprint = 0xbc614e;
    REFUSED(hostkv_session_open_keyspace(session, &config, &other), LAYOUT_MISMATCH, "0xbc614e");
    CHECK(strstr(hostkv_last_error(), "0x7") != NULL);
    config.layout_fingerprint = 7;
    config.tokens_per_key = 4321;
    REFUSED(hostkv_session_open_keyspace(session, &config, &other), LAYOUT_MISMATCH, "4321");
    CHECK(other == 55);
}

static void batches(const hostkv_session *session, hostkv_keyspace keyspace) {
    static const size_t counts[] = {0, MAX_BATCH + 1, SIZE_MAX};
    static const uint32_t lengths[] = {0, 33, 0xffffffff};
    static hostkv_reserve_item items[MAX_BATCH + 1];
    static hostkv_key keys[MAX_BATCH + 1];
    static uint8_t bytes[MAX_BATCH + 1];
    hostkv_reservation *reservation = POISON;
    hostkv_lease *lease = POISON;
    hostkv_session_info info;
    size_t count = 77;
    size_t i;

    for (i = 0; i <= MAX_BATCH; i++) {
        char name[16];
        snprintf(name, sizeof name, "batch-%zu", i);
        hostkv_key_from_bytes(name, strlen(name), &keys[i]);
        items[i].key = keys[i];
        items[i].len_bytes = 64;
    }
    memset(bytes, 77, sizeof bytes);
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    STATUS(hostkv_session_get_info(session, &info), OK);

    group("batch counts");
    for (i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        REFUSED(hostkv_session_reserve(session, keyspace, items, counts[i], NULL, &reservation), INVALID_ARGUMENT, "1024");
        REFUSED(hostkv_session_lookup(session, keyspace, keys, counts[i], &count, bytes), INVALID_ARGUMENT, "1024");
        REFUSED(hostkv_session_acquire(session, keyspace, keys, counts[i], NULL, &lease), INVALID_ARGUMENT, "1024");
        REFUSED(hostkv_session_remove(session, keyspace, keys, counts[i], bytes), INVALID_ARGUMENT, "1024");
    }
    CHECK(reservation == POISON && lease == POISON && count == 77 && bytes[0] == 77);

    group("lengths of keys and objects");
    for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        keys[2].chunk_hash_len = items[2].key.chunk_hash_len = lengths[i];
        STATUS(hostkv_session_reserve(session, keyspace, items, 3, NULL, &reservation), INVALID_ARGUMENT);
        STATUS(hostkv_session_lookup(session, keyspace, keys, 3, &count, bytes), INVALID_ARGUMENT);
        STATUS(hostkv_session_acquire(session, keyspace, keys, 3, NULL, &lease), INVALID_ARGUMENT);
        STATUS(hostkv_session_remove(session, keyspace, keys, 3, bytes), INVALID_ARGUMENT);
    }
    keys[2].chunk_hash_len = items[2].key.chunk_hash_len = 7;
    items[2].len_bytes = 0;
    STATUS(hostkv_session_reserve(session, keyspace, items, 3, NULL, &reservation), INVALID_ARGUMENT);
    items[2].len_bytes = info.max_object_bytes + 1;
    STATUS(hostkv_session_reserve(session, keyspace, items, 3, NULL, &reservation), INVALID_ARGUMENT);
    items[2].len_bytes = UINT64_MAX;
    STATUS(hostkv_session_reserve(session, keyspace, items, 3, NULL, &reservation), INVALID_ARGUMENT);
    items[2].len_bytes = 64;
    CHECK(reservation == POISON && lease == POISON && count == 77 && bytes[0] == 77);

    group("the largest batch");
    STATUS(hostkv_session_reserve(session, keyspace, items, MAX_BATCH, NULL, &reservation), OK);
    CHECK(hostkv_reservation_get_count(reservation) == MAX_BATCH);
    STATUS(hostkv_reservation_commit(reservation), OK);
    STATUS(hostkv_session_lookup(session, keyspace, keys, MAX_BATCH, &count, bytes), OK);
    CHECK(count == MAX_BATCH && bytes[0] == 1 && bytes[MAX_BATCH - 1] == 1 && bytes[MAX_BATCH] == 77);
    STATUS(hostkv_session_acquire(session, keyspace, keys, MAX_BATCH, NULL, &lease), OK);
    CHECK(hostkv_lease_get_count(lease) == MAX_BATCH && hostkv_lease_get_prefix_count(lease) == MAX_BATCH);
    STATUS(hostkv_lease_release(lease), OK);
    STATUS(hostkv_session_remove(session, keyspace, keys, MAX_BATCH, NULL), OK);
    STATUS(hostkv_session_lookup(session, keyspace, keys, MAX_BATCH, &count, NULL), OK);
    CHECK(count == 0);
}

static void unopened_keyspaces(const hostkv_session *session) {
    static const hostkv_keyspace unopened[] = {0, 123456, 0xffffffff};
    const hostkv_reserve_item item = item_of("unopened", OBJECT_BYTES);
    hostkv_session *other = open_with_flags(0);
    const hostkv_keyspace_config config = layout("misuse-other-session");
    hostkv_keyspace numbers[4] = {0};
    hostkv_reservation *reservation = POISON;
    hostkv_lease *lease = POISON;
    size_t count = 77;
    size_t i;

    group("keyspace numbers that are not open");
    memcpy(numbers, unopened, sizeof unopened);
    /* Open, but in another session. */
    STATUS(hostkv_session_open_keyspace(other, &config, &numbers[3]), OK);
    for (i = 0; i < 4; i++) {
        REFUSED(hostkv_session_reserve(session, numbers[i], &item, 1, NULL, &reservation), INVALID_ARGUMENT, "keyspace");
        REFUSED(hostkv_session_lookup(session, numbers[i], &item.key, 1, &count, NULL), INVALID_ARGUMENT, "keyspace");
        REFUSED(hostkv_session_acquire(session, numbers[i], &item.key, 1, NULL, &lease), INVALID_ARGUMENT, "keyspace");
        REFUSED(hostkv_session_remove(session, numbers[i], &item.key, 1, NULL), INVALID_ARGUMENT, "keyspace");
    }
    CHECK(reservation == POISON && lease == POISON && count == 77);
    STATUS(hostkv_session_close(other), OK);
}

/* --------------------------------------------------------------------------------------------- wrong at this time */

static void ends_of_arrays(const hostkv_session *session, hostkv_keyspace keyspace) {
    hostkv_reservation *reservation;
    hostkv_lease *lease;
    hostkv_span_mut span_mut = {POISON, 5};
    hostkv_span span = {POISON, 5};

    group("indexes past the end");
    reservation = reserve_filled(session, keyspace, "index");
    REFUSED(hostkv_reservation_get_span(reservation, 1, &span_mut), INVALID_ARGUMENT, "1");
    STATUS(hostkv_reservation_get_span(reservation, SIZE_MAX, &span_mut), INVALID_ARGUMENT);
    REFUSED(hostkv_reservation_get_span(reservation, 0, NULL), INVALID_ARGUMENT, "ret_span");
    CHECK(span_mut.data == POISON && hostkv_reservation_get_count(reservation) == 1);
    STATUS(hostkv_reservation_commit(reservation), OK);
    lease = acquire(session, keyspace, "index");
    REFUSED(hostkv_lease_get_span(lease, 1, &span), INVALID_ARGUMENT, "1");
    STATUS(hostkv_lease_get_span(lease, SIZE_MAX, &span), INVALID_ARGUMENT);
    REFUSED(hostkv_lease_get_span(lease, 0, NULL), INVALID_ARGUMENT, "ret_span");
    CHECK(span.data == POISON);
    STATUS(hostkv_lease_release(lease), OK);
}

static void twice(const hostkv_session *session, hostkv_keyspace keyspace) {
    const hostkv_reserve_item items[2] = {item_of("twice", OBJECT_BYTES), item_of("twice", OBJECT_BYTES)};
    const hostkv_key keys[2] = {items[0].key, items[1].key};
    hostkv_reservation *reservation = NULL, *second = NULL;
    hostkv_lease *lease = NULL;
    hostkv_span_mut span_mut = {NULL, 0};
    hostkv_span span = {NULL, 0};
    size_t count = 0;
    uint8_t bytes[2] = {77, 77};

    group("the same key twice");
    STATUS(hostkv_session_reserve(session, keyspace, items, 2, NULL, &reservation), OK);
    STATUS(hostkv_reservation_get_span(reservation, 0, &span_mut), OK);
    STATUS(hostkv_reservation_get_span(reservation, 1, &span_mut), RESERVED);
    STATUS(hostkv_session_reserve(session, keyspace, items, 1, NULL, &second), OK);
    STATUS(hostkv_reservation_get_span(second, 0, &span_mut), RESERVED);
    STATUS(hostkv_reservation_commit(second), OK);
    STATUS(hostkv_reservation_commit(reservation), OK);
    STATUS(hostkv_session_reserve(session, keyspace, items, 1, NULL, &second), OK);
    STATUS(hostkv_reservation_get_span(second, 0, &span_mut), EXISTS);
    STATUS(hostkv_reservation_abort(second), OK);
    STATUS(hostkv_session_lookup(session, keyspace, keys, 2, &count, bytes), OK);
    CHECK(count == 2 && bytes[0] == 1 && bytes[1] == 1);
    STATUS(hostkv_session_acquire(session, keyspace, keys, 2, NULL, &lease), OK);
    CHECK(hostkv_lease_get_prefix_count(lease) == 2);
    STATUS(hostkv_lease_get_span(lease, 1, &span), OK);
    STATUS(hostkv_lease_release(lease), OK);
    STATUS(hostkv_session_remove(session, keyspace, keys, 2, bytes), OK);
    CHECK(bytes[0] == 1 && bytes[1] == 0);
}

static void read_only(void) {
    hostkv_session *session = open_with_flags(HOSTKV_SESSION_READ_ONLY);
    const hostkv_keyspace keyspace = open_with_layout(session);
    const hostkv_reserve_item item = item_of("index", OBJECT_BYTES);
    hostkv_reservation *reservation = POISON;
    hostkv_span_mut mapping = {POISON, 5};
    uint64_t removed_count = 77;
    uint8_t byte = 77;
    hostkv_lease *lease;

    group("writes of a read-only session");
    REFUSED(hostkv_session_reserve(session, keyspace, &item, 1, NULL, &reservation), READ_ONLY, "READ_ONLY");
    REFUSED(hostkv_session_remove(session, keyspace, &item.key, 1, &byte), READ_ONLY, "READ_ONLY");
    REFUSED(hostkv_session_clear(session, 0, &removed_count), READ_ONLY, "READ_ONLY");
    STATUS(hostkv_session_get_mapping(session, HOSTKV_MAPPING_WRITE, &mapping), INVALID_ARGUMENT);
    CHECK(reservation == POISON && byte == 77 && removed_count == 77 && mapping.data == POISON);
    STATUS(hostkv_session_get_mapping(session, HOSTKV_MAPPING_READ, &mapping), OK);
    lease = acquire(session, keyspace, "index");
    CHECK(reads(lease, 'i'));
    STATUS(hostkv_lease_release(lease), OK);
    STATUS(hostkv_session_close(session), OK);
}

static void ended_by_refusals(const hostkv_session *session, hostkv_keyspace keyspace) {
    hostkv_reservation *reservation;
    hostkv_lease *lease = NULL;

    group("a refused commit_and_acquire ends the reservation");
    reservation = reserve_filled(session, keyspace, "ended");
    REFUSED(hostkv_reservation_commit_and_acquire(reservation, NULL), INVALID_ARGUMENT, "ret_lease");
    CHECK(present(session, keyspace, "ended") == 0);
    /* The key is free again: the same may be reserved anew. */
    reservation = reserve_filled(session, keyspace, "ended");
    STATUS(hostkv_reservation_commit_and_acquire(reservation, &lease), OK);
    CHECK(hostkv_lease_get_count(lease) == 1 && hostkv_lease_get_prefix_count(lease) == 1 && reads(lease, 'e'));
    STATUS(hostkv_lease_check(lease), OK);
    STATUS(hostkv_lease_release(lease), OK);
}

static void after_close(void) {
    hostkv_session *session = open_with_flags(0);
    hostkv_session *other = open_with_flags(0);
    const hostkv_keyspace keyspace = open_with_layout(session);
    const hostkv_keyspace same = open_with_layout(other);
    hostkv_reservation *committed, *aborted, *acquired;
    hostkv_lease *lease, *second, *none = POISON;
    hostkv_span_mut span = {NULL, 0};

    group("handles that outlive their session");
    store(session, keyspace, "live");
    lease = acquire(session, keyspace, "live");
    second = acquire(session, keyspace, "live");
    committed = reserve_filled(session, keyspace, "commit after close");
    acquired = reserve_filled(session, keyspace, "acquire after close");
    aborted = reserve_filled(session, keyspace, "abort after close");
    STATUS(hostkv_session_close(session), OK);

    CHECK(reads(lease, 'l'));
    STATUS(hostkv_lease_check(lease), OK);
    STATUS(hostkv_lease_release(lease), OK);
    CHECK(hostkv_reservation_get_count(aborted) == 1);
    if (STATUS(hostkv_reservation_get_span(aborted, 0, &span), OK)) memset(span.data, 1, (size_t)span.len_bytes);
    STATUS(hostkv_reservation_commit(committed), INVALID_ARGUMENT);
    STATUS(hostkv_reservation_commit_and_acquire(acquired, &none), INVALID_ARGUMENT);
    CHECK(none == POISON);
    STATUS(hostkv_reservation_abort(aborted), OK);
    CHECK(reads(second, 'l'));
    STATUS(hostkv_lease_release(second), OK);
    CHECK(present(other, same, "live") == 1);
    CHECK(present(other, same, "commit after close") == 0);
    CHECK(present(other, same, "acquire after close") == 0);
    CHECK(present(other, same, "abort after close") == 0);
    /* Aborted, not only ended: another session may write them at once. */
    store(other, same, "commit after close");
    store(other, same, "abort after close");
    STATUS(hostkv_session_close(other), OK);
}

/* What a forked child does with its parent's objects; gives the number of failures. */
static unsigned in_child(hostkv_session *session, hostkv_keyspace keyspace, hostkv_lease *lease, hostkv_lease *second,
                         hostkv_reservation *reservation, hostkv_reservation *acquired, hostkv_reservation *aborted) {
    const hostkv_reserve_item item = item_of("fork", OBJECT_BYTES);
    const hostkv_keyspace_config config = layout("misuse");
    hostkv_session_info info = {0};
    hostkv_stats stats = {0};
    hostkv_span_mut span_mut = {POISON, 5};
    hostkv_span span = {POISON, 5};
    hostkv_keyspace number = 55;
    hostkv_reservation *no_reservation = POISON;
    hostkv_lease *no_lease = POISON;
    size_t count = 77;
    uint64_t removed_count = 77;

    group_failed = 0;
    info.struct_size = sizeof info;
    stats.struct_size = sizeof stats;
    CHECK(hostkv_session_get_fd(session) == -1);
    STATUS(hostkv_session_get_info(session, &info), FORKED);
    STATUS(hostkv_session_get_stats(session, &stats), FORKED);
    STATUS(hostkv_session_get_mapping(session, HOSTKV_MAPPING_READ, &span_mut), FORKED);
    STATUS(hostkv_session_open_keyspace(session, &config, &number), FORKED);
    STATUS(hostkv_session_reserve(session, keyspace, &item, 1, NULL, &no_reservation), FORKED);
    STATUS(hostkv_session_lookup(session, keyspace, &item.key, 1, &count, NULL), FORKED);
    STATUS(hostkv_session_acquire(session, keyspace, &item.key, 1, NULL, &no_lease), FORKED);
    STATUS(hostkv_session_remove(session, keyspace, &item.key, 1, NULL), FORKED);
    STATUS(hostkv_session_clear(session, 0, &removed_count), FORKED);
    STATUS(hostkv_session_flush(session), FORKED);
    STATUS(hostkv_lease_get_span(lease, 0, &span), FORKED);
    STATUS(hostkv_lease_check(lease), FORKED);
    STATUS(hostkv_reservation_get_span(reservation, 0, &span_mut), FORKED);
    CHECK(info.capacity_bytes == 0 && stats.capacity_bytes == 0 && span_mut.data == POISON && span.data == POISON);
    CHECK(number == 55 && no_reservation == POISON && no_lease == POISON && count == 77 && removed_count == 77);

    /* A commit is no end alone: it cannot be done here, and says so. The rest frees memory. */
    STATUS(hostkv_reservation_commit(reservation), FORKED);
    STATUS(hostkv_reservation_commit_and_acquire(acquired, &no_lease), FORKED);
    CHECK(no_lease == POISON);
    STATUS(hostkv_reservation_abort(aborted), OK);
    STATUS(hostkv_lease_release(lease), OK);
    STATUS(hostkv_session_close(session), OK);
    STATUS(hostkv_lease_release(second), OK);

    /* A session of its own is what a child opens. */
    session = open_with_flags(0);
    keyspace = open_with_layout(session);
    CHECK(present(session, keyspace, "fork") == 1);
    STATUS(hostkv_session_close(session), OK);
    return group_failed;
}

static void forked(void) {
    hostkv_session *session = open_with_flags(0);
    const hostkv_keyspace keyspace = open_with_layout(session);
    hostkv_lease *lease, *second;
    hostkv_reservation *reservation, *acquired, *aborted;
    int status = 0;
    pid_t child;

    group("after fork");
    store(session, keyspace, "fork");
    lease = acquire(session, keyspace, "fork");
    second = acquire(session, keyspace, "fork");
    reservation = reserve_filled(session, keyspace, "of the parent");
    acquired = reserve_filled(session, keyspace, "b of the parent");
    aborted = reserve_filled(session, keyspace, "c of the parent");
    fflush(stdout);
    child = fork();
    if (child == 0) {
        const unsigned failed = in_child(session, keyspace, lease, second, reservation, acquired, aborted);
        fflush(stdout);
        _exit(failed == 0 ? 0 : 1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);

    /* Nothing that the child did has reached the parent's session. */
    CHECK(reads(lease, 'f') && reads(second, 'f'));
    STATUS(hostkv_lease_check(lease), OK);
    STATUS(hostkv_reservation_commit(reservation), OK);
    STATUS(hostkv_reservation_commit(acquired), OK);
    STATUS(hostkv_reservation_commit(aborted), OK);
    CHECK(present(session, keyspace, "of the parent") == 1);
    CHECK(present(session, keyspace, "b of the parent") == 1);
    CHECK(present(session, keyspace, "c of the parent") == 1);
    STATUS(hostkv_lease_release(lease), OK);
    STATUS(hostkv_lease_release(second), OK);
    STATUS(hostkv_session_close(session), OK);
}

static void descriptor(const hostkv_session *session) {
    struct pollfd waiting = {0, POLLIN, 0};

    group("the daemon's descriptor");
    waiting.fd = hostkv_session_get_fd(session);
    CHECK(waiting.fd >= 0);
    CHECK(poll(&waiting, 1, 0) == 0);
}

/* Whatever was refused above has left nothing behind. */
static void nothing_is_held(const hostkv_session *session) {
    hostkv_stats stats;
    uint64_t removed_count = 0;
    int i;

    group("nothing is held at the end");
    STATUS(hostkv_session_clear(session, HOSTKV_CLEAR_ALL_KEYSPACES, &removed_count), OK);
    CHECK(removed_count > 0);
    for (i = 0; i < 100; i++) {
        memset(&stats, 0, sizeof stats);
        stats.struct_size = sizeof stats;
        if (hostkv_session_get_stats(session, &stats) != HOSTKV_STATUS_OK) break;
        if (stats.used_bytes == 0 && stats.session_count == 1) break;
        poll(NULL, 0, 100);
    }
    CHECK(stats.used_bytes == 0);
    CHECK(stats.reserved_bytes == 0);
    CHECK(stats.object_count == 0);
    CHECK(stats.session_count == 1);
}

int main(void) {
    hostkv_session *session;
    hostkv_keyspace keyspace;

    nothing_to_talk_to();
    group("open");
    session = open_with_flags(0);
    keyspace = open_with_layout(session);
    null_is_refused_without_a_session(session);
    null_is_refused(session, keyspace);
    struct_sizes(session, keyspace);
    flags(session, keyspace);
    texts(session, keyspace);
    layouts(session);
    batches(session, keyspace);
    unopened_keyspaces(session);
    ends_of_arrays(session, keyspace);
    twice(session, keyspace);
    read_only();
    ended_by_refusals(session, keyspace);
    after_close();
    forked();
    descriptor(session);
    nothing_is_held(session);
    group("close");
    STATUS(hostkv_session_close(session), OK);
    return finish();
}
