/* abi.c: sizes, offsets and numbers of hostkv.h as a C compiler sees them. Programs carry them inside, so none of
 * them may ever change. Needs no daemon. */

#include "check.h"

#define FIELD(type, field, offset, size)                                                                     \
    (CHECK(offsetof(type, field) == (offset)), CHECK(sizeof(((type *)0)->field) == (size)))

static void structs(void) {
    group("hostkv_key");
    CHECK(sizeof(hostkv_key) == 44);
    FIELD(hostkv_key, chunk_hash, 0, 32);
    FIELD(hostkv_key, chunk_hash_len, 32, 4);
    FIELD(hostkv_key, kv_rank, 36, 4);
    FIELD(hostkv_key, object_group_id, 40, 4);

    group("hostkv_span, hostkv_span_mut, hostkv_reserve_item");
    CHECK(sizeof(hostkv_span) == 16);
    FIELD(hostkv_span, data, 0, 8);
    FIELD(hostkv_span, len_bytes, 8, 8);
    CHECK(sizeof(hostkv_span_mut) == 16);
    FIELD(hostkv_span_mut, data, 0, 8);
    FIELD(hostkv_span_mut, len_bytes, 8, 8);
    CHECK(sizeof(hostkv_reserve_item) == 56);
    FIELD(hostkv_reserve_item, key, 0, 44);
    FIELD(hostkv_reserve_item, len_bytes, 48, 8);

    group("hostkv_session_config");
    CHECK(sizeof(hostkv_session_config) == 32);
    FIELD(hostkv_session_config, struct_size, 0, 4);
    FIELD(hostkv_session_config, flags, 4, 4);
    FIELD(hostkv_session_config, socket_path, 8, 8);
    FIELD(hostkv_session_config, client_name, 16, 8);
    FIELD(hostkv_session_config, pin_slot_count, 24, 4);
    FIELD(hostkv_session_config, timeout_ms, 28, 4);

    group("hostkv_keyspace_config, hostkv_keyspace");
    CHECK(sizeof(hostkv_keyspace_config) == 32);
    FIELD(hostkv_keyspace_config, struct_size, 0, 4);
    FIELD(hostkv_keyspace_config, tokens_per_key, 4, 4);
    FIELD(hostkv_keyspace_config, model_name, 8, 8);
    FIELD(hostkv_keyspace_config, cache_salt, 16, 8);
    FIELD(hostkv_keyspace_config, layout_fingerprint, 24, 8);
    CHECK(sizeof(hostkv_keyspace) == 4);

    group("hostkv_request");
    CHECK(sizeof(hostkv_request) == 24);
    FIELD(hostkv_request, struct_size, 0, 4);
    FIELD(hostkv_request, flags, 4, 4);
    FIELD(hostkv_request, request_id, 8, 8);
    FIELD(hostkv_request, device, 16, 8);

    group("hostkv_session_info");
    CHECK(sizeof(hostkv_session_info) == 128);
    FIELD(hostkv_session_info, struct_size, 0, 4);
    FIELD(hostkv_session_info, abi_version, 4, 4);
    FIELD(hostkv_session_info, instance_id, 8, 16);
    FIELD(hostkv_session_info, session_id, 24, 8);
    FIELD(hostkv_session_info, capacity_bytes, 32, 8);
    FIELD(hostkv_session_info, align_bytes, 40, 8);
    FIELD(hostkv_session_info, huge_page_bytes, 48, 8);
    FIELD(hostkv_session_info, pin_quota_bytes, 56, 8);
    FIELD(hostkv_session_info, reserve_quota_bytes, 64, 8);
    FIELD(hostkv_session_info, max_object_bytes, 72, 8);
    FIELD(hostkv_session_info, pin_slot_count, 80, 4);
    FIELD(hostkv_session_info, max_batch_keys, 84, 4);
    FIELD(hostkv_session_info, chunk_size, 88, 4);
    FIELD(hostkv_session_info, reserved, 92, 4);
    FIELD(hostkv_session_info, server_version, 96, 32);

    group("hostkv_stats");
    CHECK(sizeof(hostkv_stats) == 128);
    FIELD(hostkv_stats, struct_size, 0, 4);
    FIELD(hostkv_stats, reserved, 4, 4);
    FIELD(hostkv_stats, capacity_bytes, 8, 8);
    FIELD(hostkv_stats, used_bytes, 16, 8);
    FIELD(hostkv_stats, pinned_bytes, 24, 8);
    FIELD(hostkv_stats, reserved_bytes, 32, 8);
    FIELD(hostkv_stats, object_count, 40, 8);
    FIELD(hostkv_stats, session_count, 48, 8);
    FIELD(hostkv_stats, sm_read_requests, 56, 8);
    FIELD(hostkv_stats, sm_read_succeed_keys, 64, 8);
    FIELD(hostkv_stats, sm_read_failed_keys, 72, 8);
    FIELD(hostkv_stats, sm_write_requests, 80, 8);
    FIELD(hostkv_stats, sm_write_succeed_keys, 88, 8);
    FIELD(hostkv_stats, sm_write_failed_keys, 96, 8);
    FIELD(hostkv_stats, l1_read_keys, 104, 8);
    FIELD(hostkv_stats, l1_write_keys, 112, 8);
    FIELD(hostkv_stats, l1_evicted_keys, 120, 8);
}

static void statuses(void) {
    static const struct {
        int32_t number;
        hostkv_status status;
        const char *name;
    } all[] = {
        {0, HOSTKV_STATUS_OK, "OK"},
        {-1, HOSTKV_STATUS_NOT_FOUND, "NOT_FOUND"},
        {-2, HOSTKV_STATUS_EXISTS, "EXISTS"},
        {-3, HOSTKV_STATUS_RESERVED, "RESERVED"},
        {-4, HOSTKV_STATUS_NO_SPACE, "NO_SPACE"},
        {-5, HOSTKV_STATUS_QUOTA, "QUOTA"},
        {-7, HOSTKV_STATUS_EXPIRED, "EXPIRED"},
        {-8, HOSTKV_STATUS_INVALID_ARGUMENT, "INVALID_ARGUMENT"},
        {-9, HOSTKV_STATUS_READ_ONLY, "READ_ONLY"},
        {-10, HOSTKV_STATUS_PERMISSION, "PERMISSION"},
        {-11, HOSTKV_STATUS_VERSION_MISMATCH, "VERSION_MISMATCH"},
        {-12, HOSTKV_STATUS_LAYOUT_MISMATCH, "LAYOUT_MISMATCH"},
        {-13, HOSTKV_STATUS_DISCONNECTED, "DISCONNECTED"},
        {-14, HOSTKV_STATUS_TIMEOUT, "TIMEOUT"},
        {-15, HOSTKV_STATUS_FORKED, "FORKED"},
        {-16, HOSTKV_STATUS_SYSTEM, "SYSTEM"},
        {-17, HOSTKV_STATUS_INTERNAL, "INTERNAL"},
    };
    static const int32_t unknown[] = {-6, -18, 1, INT32_MAX, INT32_MIN};
    size_t i;

    group("hostkv_status");
    CHECK(sizeof(hostkv_status) == sizeof(int));
    for (i = 0; i < sizeof all / sizeof all[0]; i++) {
        CHECK((int32_t)all[i].status == all[i].number);
        CHECK(strcmp(hostkv_status_name(all[i].number), all[i].name) == 0);
    }
    for (i = 0; i < sizeof unknown / sizeof unknown[0]; i++) CHECK(strcmp(hostkv_status_name(unknown[i]), "UNKNOWN") == 0);
}

static void constants(void) {
    group("constants");
    CHECK(HOSTKV_ABI_VERSION == 1);
    CHECK(hostkv_abi_version() == HOSTKV_ABI_VERSION);
    CHECK(HOSTKV_SESSION_READ_ONLY == 1);
    CHECK(HOSTKV_SESSION_POPULATE == 2);
    CHECK(HOSTKV_SESSION_SINGLE_MAPPING == 4);
    CHECK(HOSTKV_SESSION_ASYNC_COMMIT == 8);
    CHECK(HOSTKV_ACQUIRE_ALL == 1);
    CHECK(HOSTKV_MAPPING_READ == 1);
    CHECK(HOSTKV_MAPPING_WRITE == 2);
    CHECK(HOSTKV_CLEAR_ALL_KEYSPACES == 1);
    CHECK(strchr(hostkv_version_string(), '.') != NULL);
}

static void keys(void) {
    static const uint8_t zeros[33] = {0};
    hostkv_key key;
    hostkv_key chunk_keys[2];
    static const uint32_t tokens[] = {1, 2, 3, 4, 5};
    size_t count = 0;
    size_t i;

    group("keys");
    memset(&key, 0xee, sizeof key);
    STATUS(hostkv_key_from_bytes("chunk", 5, &key), OK);
    CHECK(key.chunk_hash_len == 5 && key.kv_rank == 0 && key.object_group_id == 0);
    CHECK(memcmp(key.chunk_hash, "chunk", 5) == 0);
    STATUS(hostkv_key_from_bytes(zeros, 32, &key), OK);
    CHECK(key.chunk_hash_len == 32 && memcmp(key.chunk_hash, zeros, 32) == 0);
    STATUS(hostkv_key_from_bytes(zeros, 33, &key), OK);
    CHECK(key.chunk_hash_len == 32 && memcmp(key.chunk_hash, zeros, 32) != 0);

    STATUS(hostkv_chunk_keys(tokens, 5, 2, chunk_keys, 2, &count), OK);
    CHECK(count == 2);
    for (i = 0; i < 2; i++) CHECK(chunk_keys[i].chunk_hash_len == 32 && chunk_keys[i].kv_rank == 0);
    STATUS(hostkv_chunk_keys(tokens, 1, 2, chunk_keys, 0, &count), OK);
    CHECK(count == 0);
}

int main(void) {
    structs();
    statuses();
    constants();
    keys();
    return finish();
}
