/* header_c99.c: hostkv.h in C. It stands first, so it must bring all it needs; both names of each type work, and
 * every function can be linked. Compiled in every dialect of C that the header promises. */

#include "hostkv.h"

/* The same signatures as the contract gives them: a second declaration that differs is an error. */
uint32_t hostkv_abi_version(void);
const char *hostkv_version_string(void);
const char *hostkv_status_name(int32_t);
const char *hostkv_last_error(void);
hostkv_status hostkv_key_from_bytes(const void *, size_t, hostkv_key *);
hostkv_status hostkv_chunk_keys(const uint32_t *, size_t, uint32_t, hostkv_key *, size_t, size_t *);
void hostkv_session_config_init(hostkv_session_config *);
hostkv_status hostkv_session_open(const hostkv_session_config *, hostkv_session **);
hostkv_status hostkv_session_close(hostkv_session *);
hostkv_status hostkv_session_get_info(const hostkv_session *, hostkv_session_info *);
hostkv_status hostkv_session_get_stats(const hostkv_session *, hostkv_stats *);
hostkv_status hostkv_session_get_mapping(const hostkv_session *, uint32_t, hostkv_span_mut *);
int hostkv_session_get_fd(const hostkv_session *);
hostkv_status hostkv_session_open_keyspace(const hostkv_session *, const hostkv_keyspace_config *, hostkv_keyspace *);
hostkv_status hostkv_session_reserve(const hostkv_session *, hostkv_keyspace, const hostkv_reserve_item *, size_t,
                                     const hostkv_request *, hostkv_reservation **);
size_t hostkv_reservation_get_count(const hostkv_reservation *);
hostkv_status hostkv_reservation_get_span(const hostkv_reservation *, size_t, hostkv_span_mut *);
hostkv_status hostkv_reservation_commit(hostkv_reservation *);
hostkv_status hostkv_reservation_commit_and_acquire(hostkv_reservation *, hostkv_lease **);
hostkv_status hostkv_reservation_wait(hostkv_reservation *, uint32_t);
hostkv_status hostkv_reservation_commit_and_reserve(hostkv_reservation *, hostkv_keyspace, const hostkv_reserve_item *, size_t,
                                                    const hostkv_request *, hostkv_reservation **);
hostkv_status hostkv_reservation_abort(hostkv_reservation *);
void hostkv_copy(void *, const void *, size_t);
hostkv_status hostkv_session_lookup(const hostkv_session *, hostkv_keyspace, const hostkv_key *, size_t, size_t *, uint8_t *);
hostkv_status hostkv_session_acquire(const hostkv_session *, hostkv_keyspace, const hostkv_key *, size_t,
                                     const hostkv_request *, hostkv_lease **);
size_t hostkv_lease_get_count(const hostkv_lease *);
size_t hostkv_lease_get_prefix_count(const hostkv_lease *);
hostkv_status hostkv_lease_get_span(const hostkv_lease *, size_t, hostkv_span *);
hostkv_status hostkv_lease_check(const hostkv_lease *);
hostkv_status hostkv_lease_release(hostkv_lease *);
hostkv_status hostkv_session_prefetch(const hostkv_session *, hostkv_keyspace, const hostkv_key *, size_t,
                                      const hostkv_request *, hostkv_prefetch **);
hostkv_status hostkv_prefetch_wait(hostkv_prefetch *, uint32_t, size_t *);
hostkv_status hostkv_prefetch_end(hostkv_prefetch *);
hostkv_status hostkv_session_remove(const hostkv_session *, hostkv_keyspace, const hostkv_key *, size_t, uint8_t *);
hostkv_status hostkv_session_clear(const hostkv_session *, uint32_t, uint64_t *);
hostkv_status hostkv_session_flush(const hostkv_session *);

typedef void (*any_function)(void);

int main(void) {
    static const any_function functions[] = {
        (any_function)hostkv_abi_version,
        (any_function)hostkv_version_string,
        (any_function)hostkv_status_name,
        (any_function)hostkv_last_error,
        (any_function)hostkv_key_from_bytes,
        (any_function)hostkv_chunk_keys,
        (any_function)hostkv_session_config_init,
        (any_function)hostkv_session_open,
        (any_function)hostkv_session_close,
        (any_function)hostkv_session_get_info,
        (any_function)hostkv_session_get_stats,
        (any_function)hostkv_session_get_mapping,
        (any_function)hostkv_session_get_fd,
        (any_function)hostkv_session_open_keyspace,
        (any_function)hostkv_session_reserve,
        (any_function)hostkv_reservation_get_count,
        (any_function)hostkv_reservation_get_span,
        (any_function)hostkv_reservation_wait,
        (any_function)hostkv_reservation_commit,
        (any_function)hostkv_reservation_commit_and_acquire,
        (any_function)hostkv_reservation_commit_and_reserve,
        (any_function)hostkv_reservation_abort,
        (any_function)hostkv_copy,
        (any_function)hostkv_session_lookup,
        (any_function)hostkv_session_acquire,
        (any_function)hostkv_lease_get_count,
        (any_function)hostkv_lease_get_prefix_count,
        (any_function)hostkv_lease_get_span,
        (any_function)hostkv_lease_check,
        (any_function)hostkv_lease_release,
        (any_function)hostkv_session_prefetch,
        (any_function)hostkv_prefetch_wait,
        (any_function)hostkv_prefetch_end,
        (any_function)hostkv_session_remove,
        (any_function)hostkv_session_clear,
        (any_function)hostkv_session_flush,
    };
    struct hostkv_key key = {{0}, 0, 0, 0};
    struct hostkv_span span = {NULL, 0};
    struct hostkv_span_mut span_mut = {NULL, 0};
    struct hostkv_reserve_item item = {{{0}, 0, 0, 0}, 0};
    struct hostkv_session_config session_config = {0, 0, NULL, NULL, 0, 0};
    struct hostkv_keyspace_config keyspace_config = {0, 0, NULL, NULL, 0};
    struct hostkv_request request = {0, 0, NULL, NULL};
    enum hostkv_status status = HOSTKV_STATUS_OK;
    const hostkv_key same_key = key;
    const hostkv_reserve_item same_item = item;
    struct hostkv_session *session = NULL;
    hostkv_session *same_session = session;

    (void)span, (void)span_mut, (void)request, (void)session_config, (void)keyspace_config;
    (void)same_key, (void)same_item, (void)same_session;
    return status == HOSTKV_STATUS_OK && functions[0] != NULL && sizeof functions / sizeof functions[0] == 36 ? 0 : 1;
}
