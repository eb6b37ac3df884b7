/* hostkv.h: one cache of KV blocks for all inference engines of a host.
 *
 * The daemon hostkvd owns a pool of shared memory. A process opens a session, and then reads objects in
 * place, without a copy and without a system call, and writes new ones in place.
 *
 *     hostkv_session *session;                                  // one for each process, after any fork
 *     if (hostkv_session_open(NULL, &session) != HOSTKV_STATUS_OK) { puts(hostkv_last_error()); ... }
 *
 *     hostkv_keyspace_config config = { sizeof config, tokens_per_key, "my-model", NULL, layout_fingerprint };
 *     hostkv_keyspace keyspace;                                 // a model with its layout, for one tenant
 *     hostkv_session_open_keyspace(session, &config, &keyspace);
 *     hostkv_chunk_keys(tokens, token_count, tokens_per_key, keys, capacity, &count);
 *
 *     hostkv_lease *lease;                                      // read: the leading run of keys that are there
 *     hostkv_session_acquire(session, keyspace, keys, count, NULL, &lease);
 *     for (size_t i = 0; i < hostkv_lease_get_prefix_count(lease); i++) {
 *         hostkv_span span;
 *         if (hostkv_lease_get_span(lease, i, &span) == HOSTKV_STATUS_OK) use(span.data, span.len_bytes);
 *     }
 *     hostkv_lease_release(lease);                              // the bytes stay as they are until here
 *
 *     hostkv_reserve_item items[] = { { keys[i], len_bytes } }; // write: make room, fill it in, show it
 *     hostkv_reservation *reservation;
 *     hostkv_session_reserve(session, keyspace, items, 1, NULL, &reservation);
 *     hostkv_span_mut span;
 *     if (hostkv_reservation_get_span(reservation, 0, &span) == HOSTKV_STATUS_OK)
 *         hostkv_copy(span.data, source, span.len_bytes);
 *     hostkv_reservation_commit(reservation);
 *
 *     request.flags = HOSTKV_RESERVE_NO_WAIT;                   // write batch after batch and never wait: made[0] and
 *     for (k = 0; k < batches - 2; k++) {                       // made[1] are reserved like this before the loop
 *         hostkv_reservation_wait(made[k], timeout_ms);         // asked for two copies ago
 *         copy_batch(made[k]);
 *         hostkv_reservation_commit_and_reserve(made[k], keyspace, items[k + 2], count, &request, &made[k + 2]);
 *     }
 *
 *     hostkv_prefetch *prefetch;                                // before a read, where the daemon has tiers behind the pool
 *     hostkv_session_prefetch(session, keyspace, keys, count, NULL, &prefetch);
 *     while (hostkv_prefetch_wait(prefetch, 100, &prefix_count) == HOSTKV_STATUS_TIMEOUT) do_something_else();
 *     // acquire, then:
 *     hostkv_prefetch_end(prefetch);
 *
 * Results.  A function that can fail returns hostkv_status; hostkv_last_error() then has the sentence. Outputs
 *           are the ret_ arguments, and info and stats; they are written on OK only. NULL where the text does not
 *           allow it, an index past the end and an unknown flag are INVALID_ARGUMENT.
 * Batches.  A call takes 1 to max_batch_keys (1024) keys or items. A key that stands in it twice is answered
 *           twice.
 * Structs.  Set struct_size to sizeof, and zero the fields that you do not use.
 * Ending.   close, commit, commit_and_acquire, commit_and_reserve, abort, release and end end their handle whatever
 *           they return; all but commit_and_reserve accept NULL. Leases, reservations and prefetches may be ended after their session.
 * Threads.  A function that takes a const object may run on many threads at once with the same object.
 * Waiting.  Reading never waits. Calls that ask the daemon end after timeout_ms with TIMEOUT.
 * Fork.     In a child, functions on the parent's objects say FORKED, and ending them only frees memory.
 * Daemon.   When it is gone, calls say DISCONNECTED: treat it as a miss, end the handles, open again later.
 *           What a lease holds stays readable even then.
 * Quiet.    The library prints nothing, raises no signal, starts no thread and never ends the process.
 */


#ifndef HOSTKV_H
#define HOSTKV_H

/* Generated from client-ffi/src/ffi by scripts/header.sh; not to be edited. */

#include <stddef.h>
#include <stdint.h>

/**
 * What this header declares. It grows when functions, constants or struct fields are added; compare it with
 * hostkv_abi_version(), which is what the loaded library has.
 */
#define HOSTKV_ABI_VERSION 1

/** Session flag: this session only reads. Reserve, remove and clear say READ_ONLY. */
#define HOSTKV_SESSION_READ_ONLY 1

/** Session flag: map every page of the payload at open, so that no later access takes a page fault. */
#define HOSTKV_SESSION_POPULATE 2

/**
 * Session flag: reads use the writable mapping, so that one DMA registration serves loads and stores. A stray
 * write through a read pointer then no longer faults. INVALID_ARGUMENT with READ_ONLY, or for a user whom the
 * daemon does not let write in place.
 */
#define HOSTKV_SESSION_SINGLE_MAPPING 4

/**
 * Session flag: stores take no round trip. The session holds room ahead of need, and a commit returns at once: its keys are
 * readable within a millisecond while the daemon runs, also if this process dies now, and for sure after
 * hostkv_session_flush(). Reserve does not say RESERVED then: of several commits of a key the first wins, and the others are
 * OK too. INVALID_ARGUMENT with READ_ONLY. For a user whom the daemon does not let write in place, and where it runs with
 * --keyspace-quota or --zero-on-reuse, commits go by the socket and wait as without the flag; the daemon's log says so.
 */
#define HOSTKV_SESSION_ASYNC_COMMIT 8

/** Request flag of an acquire: pin every key that is present, not only the leading run. */
#define HOSTKV_ACQUIRE_ALL 1

/**
 * Request flag of a reserve, alone or behind a commit: send it and do not wait. hostkv_reservation_wait() comes before
 * the spans.
 */
#define HOSTKV_RESERVE_NO_WAIT 2

/** Mapping that read spans point into. */
#define HOSTKV_MAPPING_READ 1

/** Mapping that write spans point into. */
#define HOSTKV_MAPPING_WRITE 2

/** Clear flag: every key of every keyspace there is, not only of those this session opened. Admin users only. */
#define HOSTKV_CLEAR_ALL_KEYSPACES 1

/**
 * Outcome of a call or of one key of a call. 0 is OK, all else is negative; a number never changes its
 * meaning, and new ones may come. -6 is reserved and never returned.
 */
typedef enum hostkv_status {
    /** Done. */
    HOSTKV_STATUS_OK = 0,
    /** The key is not in the pool, or not readable yet. */
    HOSTKV_STATUS_NOT_FOUND = -1,
    /** Reserve: already committed; nothing to write. */
    HOSTKV_STATUS_EXISTS = -2,
    /** Reserve: another writer holds the key, or it stands twice in one call. */
    HOSTKV_STATUS_RESERVED = -3,
    /** Bytes or an index entry could not be made free, even by eviction; hostkv_last_error() says which. */
    HOSTKV_STATUS_NO_SPACE = -4,
    /** A limit on pins, reserved bytes, keyspaces or sessions; hostkv_last_error() names it. */
    HOSTKV_STATUS_QUOTA = -5,
    /** The lease or reservation outlived its time to live. */
    HOSTKV_STATUS_EXPIRED = -7,
    /** An argument is not allowed; hostkv_last_error() names it. */
    HOSTKV_STATUS_INVALID_ARGUMENT = -8,
    /** A write on a read-only session. */
    HOSTKV_STATUS_READ_ONLY = -9,
    /** The daemon refuses this user, or this call of it; hostkv_last_error() names the uid and the flag. */
    HOSTKV_STATUS_PERMISSION = -10,
    /** Library and daemon are of different releases; hostkv_last_error() names both versions. */
    HOSTKV_STATUS_VERSION_MISMATCH = -11,
    /** The keyspace is open with another layout fingerprint or tokens_per_key; hostkv_last_error() has both. */
    HOSTKV_STATUS_LAYOUT_MISMATCH = -12,
    /** No daemon at the socket, or the session's daemon is gone; open a new session. */
    HOSTKV_STATUS_DISCONNECTED = -13,
    /** The daemon did not answer within the session's timeout_ms. */
    HOSTKV_STATUS_TIMEOUT = -14,
    /** This process is a forked child of the one that opened the session. */
    HOSTKV_STATUS_FORKED = -15,
    /** Operating system error; hostkv_last_error() has its text. */
    HOSTKV_STATUS_SYSTEM = -16,
    /** A defect inside hostkv; hostkv_last_error() says where. */
    HOSTKV_STATUS_INTERNAL = -17,
} hostkv_status;

/** A right to read some objects where they lie, until it is released. */
typedef struct hostkv_lease hostkv_lease;

/** Keys on their way into the pool out of the daemon's tiers, kept there until it is ended. */
typedef struct hostkv_prefetch hostkv_prefetch;

/** Room for objects that one writer fills in and that nobody can see yet. Ended by commit or abort. */
typedef struct hostkv_reservation hostkv_reservation;

/**
 * One process's connection to the daemon, with the pool mapped into it. All functions may be called on it from
 * many threads at once, except hostkv_session_close(), which is the last.
 */
typedef struct hostkv_session hostkv_session;

/** Name of one object within a keyspace. Zero the struct before filling it in. */
typedef struct hostkv_key {
    /** Hash of the chunk and of all tokens before it; bytes behind chunk_hash_len are ignored. */
    uint8_t chunk_hash[32];
    /** Bytes of chunk_hash that count, 1 to 32. */
    uint32_t chunk_hash_len;
    /** Rank of the worker whose part of the chunk this is. */
    uint32_t kv_rank;
    /** Number of the object group, 0 when a rank stores one object for each chunk. */
    uint32_t object_group_id;
} hostkv_key;

/** How to open a session. hostkv_session_config_init() fills in the defaults. */
typedef struct hostkv_session_config {
    /** sizeof(hostkv_session_config). */
    uint32_t struct_size;
    /** HOSTKV_SESSION_* flags. */
    uint32_t flags;
    /** The daemon's socket. NULL = the environment's HOSTKV_SOCKET, else the built-in path. */
    const char *socket_path;
    /** Name of this client in the daemon's log, UTF-8 without control characters, at most 64 bytes. NULL = none. */
    const char *client_name;
    /** Keys that this session can have pinned at once. 0 = 16384; at most the daemon's --max-pins. */
    uint32_t pin_slot_count;
    /** Bound of every call that asks the daemon, in milliseconds. 0 = 5000. */
    uint32_t timeout_ms;
} hostkv_session_config;

/** What a session is attached to; fixed while it lives. */
typedef struct hostkv_session_info {
    /** sizeof(hostkv_session_info), set by the caller before the call. */
    uint32_t struct_size;
    /** What hostkv_abi_version() says. */
    uint32_t abi_version;
    /** This start of the daemon; another start has another one. */
    uint8_t instance_id[16];
    /** Number of the session within the instance. */
    uint64_t session_id;
    /** Length of the payload in bytes. */
    uint64_t capacity_bytes;
    /** Every object starts at a multiple of this, and takes a multiple of it. */
    uint64_t align_bytes;
    /** Payload bytes that lie on huge pages. */
    uint64_t huge_page_bytes;
    /** Most bytes that this session can have pinned at once. */
    uint64_t pin_quota_bytes;
    /** Most bytes that this session can have reserved at once. */
    uint64_t reserve_quota_bytes;
    /** Length of the longest object. */
    uint64_t max_object_bytes;
    /** Most keys that this session can have pinned at once. */
    uint32_t pin_slot_count;
    /** Most keys or items of one call. */
    uint32_t max_batch_keys;
    /** The daemon's tokens for each key, where a keyspace does not say otherwise. */
    uint32_t chunk_size;
    /** 0. */
    uint32_t reserved;
    /** The daemon's version, ends with a NUL byte. */
    char server_version[32];
} hostkv_session_info;

/** Figures of the whole pool, consistent with each other. What is counted is counted since the daemon's start. */
typedef struct hostkv_stats {
    /** sizeof(hostkv_stats), set by the caller before the call. */
    uint32_t struct_size;
    /** 0. */
    uint32_t reserved;
    /** Length of the payload in bytes. */
    uint64_t capacity_bytes;
    /** Payload bytes that are not free. */
    uint64_t used_bytes;
    /** Bytes of pinned objects, each counted once. */
    uint64_t pinned_bytes;
    /** Bytes reserved and not committed yet. */
    uint64_t reserved_bytes;
    /** Readable objects. */
    uint64_t object_count;
    /** Open sessions. */
    uint64_t session_count;
    /** Read requests. */
    uint64_t sm_read_requests;
    /** Keys of read requests that were found. */
    uint64_t sm_read_succeed_keys;
    /** Keys of read requests that were not. */
    uint64_t sm_read_failed_keys;
    /** Reserve requests. */
    uint64_t sm_write_requests;
    /** Keys of reserve requests that were granted. */
    uint64_t sm_write_succeed_keys;
    /** Keys of reserve requests that were not. */
    uint64_t sm_write_failed_keys;
    /** Keys whose lease was released. */
    uint64_t l1_read_keys;
    /** Keys committed. */
    uint64_t l1_write_keys;
    /** Keys evicted. */
    uint64_t l1_evicted_keys;
} hostkv_stats;

/** Bytes to write, valid until the reservation they came from is committed or aborted. */
typedef struct hostkv_span_mut {
    /** First byte. */
    void *data;
    /** Length in bytes. */
    uint64_t len_bytes;
} hostkv_span_mut;

/** Which keyspace to open. */
typedef struct hostkv_keyspace_config {
    /** sizeof(hostkv_keyspace_config). */
    uint32_t struct_size;
    /** Tokens that one key stands for. 0 = the daemon's chunk size. */
    uint32_t tokens_per_key;
    /** The model and whatever else changes the bytes, UTF-8, 1 to 144 bytes. */
    const char *model_name;
    /** The tenant, UTF-8, at most 128 bytes; keyspaces with different salts never see each other's keys. NULL = "". */
    const char *cache_salt;
    /**
     * The caller's number for dtype, shape, layer count and quantisation. One value for all that have the
     * keyspace open; a new one when nobody has, removes the old objects.
     */
    uint64_t layout_fingerprint;
} hostkv_keyspace_config;

/**
 * Number of an open keyspace, i.e. of a model and layout for one tenant. Good in the session that opened it,
 * until that session closes.
 */
typedef uint32_t hostkv_keyspace;

/** One object to make room for. */
typedef struct hostkv_reserve_item {
    /** Its key. */
    struct hostkv_key key;
    /** Its length in bytes, 1 to hostkv_session_info.max_object_bytes. */
    uint64_t len_bytes;
} hostkv_reserve_item;

/** Options of one reserve, acquire or prefetch. A NULL pointer instead = no flags, no id, no device. */
typedef struct hostkv_request {
    /** sizeof(hostkv_request). */
    uint32_t struct_size;
    /** HOSTKV_ACQUIRE_ALL or 0; 0 in a reserve and in a prefetch. */
    uint32_t flags;
    /** The engine's id of the request, for telemetry: UTF-8 without control characters, 1 to 128 bytes. NULL = none. */
    const char *request_id;
    /** Device that the bytes come from or go to, for telemetry: as above, at most 32 bytes. NULL = none. */
    const char *device;
} hostkv_request;

/** Bytes to read, valid until the lease they came from is released. */
typedef struct hostkv_span {
    /** First byte. */
    const void *data;
    /** Length in bytes. */
    uint64_t len_bytes;
} hostkv_span;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* ==== Library: versions, names, errors, keys. No session needed. */

/**
 * HOSTKV_ABI_VERSION of the loaded library. A program built against a newer header may find functions missing
 * and struct fields refused.
 */
uint32_t hostkv_abi_version(void);

/** Version of the loaded library as "major.minor.patch". Valid for ever. */
const char *hostkv_version_string(void);

/**
 * Name of a status without its prefix: "OK", "NOT_FOUND", ...; "UNKNOWN" for a number that is none. Valid for
 * ever.
 */
const char *hostkv_status_name(int32_t status);

/**
 * What this thread's last failing call was refused for, in one sentence that names the value and the limit;
 * "" if none failed yet. Valid until the thread's next failing call. A function that returns another status
 * than OK has failed, also where that is expected, as with NOT_FOUND.
 */
const char *hostkv_last_error(void);

/**
 * A key from any name: `len` 1 to 32 bytes are taken as they are, longer ones become their BLAKE3-256. kv_rank
 * and object_group_id become 0.
 *
 * INVALID_ARGUMENT: `len` is 0.
 *
 * `bytes` has `len` bytes.
 */
hostkv_status hostkv_key_from_bytes(const void *bytes,
                                    size_t len,
                                    hostkv_key *ret_key);

/**
 * The keys of a sequence of tokens, one for each whole chunk of `tokens_per_key`, each depending on all tokens
 * before it: h(0) = BLAKE3(12 zero bytes), h(i+1) = BLAKE3(h(i), then the tokens of chunk i as big-endian
 * 32-bit numbers), and key i is h(i+1). kv_rank and object_group_id are 0; the caller sets them.
 *
 * `ret_keys` has room for `capacity` keys; `*ret_count` becomes the number written.
 *
 * INVALID_ARGUMENT: `tokens_per_key` is 0, or there are more keys than `capacity`.
 *
 * `tokens` has `token_count` numbers.
 */
hostkv_status hostkv_chunk_keys(const uint32_t *tokens,
                                size_t token_count,
                                uint32_t tokens_per_key,
                                hostkv_key *ret_keys,
                                size_t capacity,
                                size_t *ret_count);

/* ==== Session and keyspace. */

/**
 * Fills in the defaults: `struct_size`, and zeros. NULL does nothing.
 *
 * `config` is NULL or may be written.
 */
void hostkv_session_config_init(hostkv_session_config *config);

/**
 * Opens a session with the daemon and maps the pool. A NULL `config` = all defaults. End it with
 * hostkv_session_close(). It belongs to this process: fork first, then open in each process.
 *
 * DISCONNECTED: no daemon at the socket. PERMISSION: the daemon refuses this user. QUOTA: too many sessions.
 * VERSION_MISMATCH: library and daemon are of different releases. INVALID_ARGUMENT, TIMEOUT, SYSTEM.
 *
 * `config` is NULL or has as many bytes as its `struct_size` says.
 */
hostkv_status hostkv_session_open(const hostkv_session_config *config,
                                  hostkv_session **ret_session);

/**
 * Ends the session, whatever it returns; NULL is OK. Leases and reservations of the session stay as they are
 * until they are ended: spans, check, release and abort work as before, commit does not. The last of them
 * gives the memory back.
 *
 * `session` is NULL or a session that is used for the last time, on any thread.
 */
hostkv_status hostkv_session_close(hostkv_session *session);

/**
 * What the session is attached to. Set `info->struct_size` before the call. Asks nobody.
 *
 * `session` is open; `info` has as many bytes as its `struct_size` says.
 */
hostkv_status hostkv_session_get_info(const hostkv_session *session,
                                      hostkv_session_info *info);

/**
 * The pool's figures. Set `stats->struct_size` before the call. Asks the daemon.
 *
 * DISCONNECTED, TIMEOUT.
 *
 * `session` is open; `stats` has as many bytes as its `struct_size` says.
 */
hostkv_status hostkv_session_get_stats(const hostkv_session *session, hostkv_stats *stats);

/**
 * Base and length in bytes of a mapping, to register it for DMA. `which` is HOSTKV_MAPPING_READ or
 * HOSTKV_MAPPING_WRITE; with HOSTKV_SESSION_SINGLE_MAPPING both are the same. For a user that hostkvd does not trust
 * with the payload (--untrusted-uid) HOSTKV_MAPPING_WRITE is the session's staging segment. Good until the session's last
 * handle is ended; unregister before that. Never write through the READ mapping.
 *
 * INVALID_ARGUMENT: another `which`, or WRITE on a read-only session.
 *
 * `session` is open.
 */
hostkv_status hostkv_session_get_mapping(const hostkv_session *session,
                                         uint32_t which,
                                         hostkv_span_mut *ret_mapping);

/**
 * A descriptor that becomes readable when the daemon has ended, to wait on; never read or close it. Good until
 * the session's last handle is ended. -1 for NULL and in a forked child.
 *
 * `session` is NULL or open.
 */
int hostkv_session_get_fd(const hostkv_session *session);

/**
 * Opens a keyspace: a model with its layout, for one tenant. Opening the same one again gives the same number.
 *
 * LAYOUT_MISMATCH: a session has it open with another layout_fingerprint or tokens_per_key. QUOTA: too many
 * keyspaces. INVALID_ARGUMENT, DISCONNECTED, TIMEOUT.
 *
 * `session` is open; `config` has as many bytes as its `struct_size` says.
 */
hostkv_status hostkv_session_open_keyspace(const hostkv_session *session,
                                           const hostkv_keyspace_config *config,
                                           hostkv_keyspace *ret_keyspace);

/* ==== Write: reserve, fill in, commit. */

/**
 * Makes room for 1 to max_batch_keys objects. OK if the call was carried out, even when it granted nothing: each
 * item has its own status, which hostkv_reservation_get_span() tells. End the reservation with a commit or
 * an abort.
 *
 * With HOSTKV_RESERVE_NO_WAIT in `request->flags` it is only sent: OK then says so, and hostkv_reservation_wait() has what
 * became of it.
 *
 * INVALID_ARGUMENT: among others a length of 0 or above max_object_bytes. READ_ONLY, DISCONNECTED, TIMEOUT
 * (nothing is held then). QUOTA: with HOSTKV_RESERVE_NO_WAIT, 64 reservations of this session are not waited for yet.
 *
 * `session` is open; `items` has `count` items; `request` is NULL or has as many bytes as its `struct_size`
 * says.
 */
hostkv_status hostkv_session_reserve(const hostkv_session *session,
                                     hostkv_keyspace keyspace,
                                     const hostkv_reserve_item *items,
                                     size_t count,
                                     const hostkv_request *request,
                                     hostkv_reservation **ret_reservation);

/**
 * Items asked for; 0 for NULL.
 *
 * `reservation` is NULL or has not been ended.
 */
size_t hostkv_reservation_get_count(const hostkv_reservation *reservation);

/**
 * Waits for a reservation that was made with HOSTKV_RESERVE_NO_WAIT, at most `timeout_ms`; 0 only asks. A thread that stores
 * batch after batch asks for the next ones before it copies, and finds the answers there: the opening comment has the loop.
 *
 * OK: it is as hostkv_session_reserve() or hostkv_reservation_commit_and_reserve() would have made it, and what that one
 * commits is committed. TIMEOUT: not yet, ask again. Anything else is what that call would have said: nothing is reserved, and
 * all that is left is to end the reservation. Asked again it says the same; of any other reservation it says OK. Before it
 * the spans and the commits say INVALID_ARGUMENT, and an abort waits, at most the session's timeout_ms, and says what this
 * says.
 *
 * `reservation` has not been ended, and no other thread uses it meanwhile.
 */
hostkv_status hostkv_reservation_wait(hostkv_reservation *reservation,
                                      uint32_t timeout_ms);

/**
 * What became of one item, and where its object goes: aligned, contiguous, exactly len_bytes long. The first
 * new keys get room as far as it lasts; the new keys behind them say what ended it.
 *
 * OK: write there. EXISTS: it is readable already, nothing to write. RESERVED: another writer is at it. NO_SPACE,
 * QUOTA: no room. INVALID_ARGUMENT: no such item.
 *
 * `reservation` has not been ended.
 */
hostkv_status hostkv_reservation_get_span(const hostkv_reservation *reservation,
                                          size_t index,
                                          hostkv_span_mut *ret_span);

/**
 * Makes all granted items readable, each as a whole and the last one first, so that who reads a prefix finds
 * one. Ends the reservation, whatever it returns; NULL is OK. Orders streaming stores of the caller's own
 * before it.
 *
 * EXPIRED: it outlived the daemon's write time to live, and nothing is readable. TIMEOUT: each key is either
 * readable or not; ask with a lookup. INVALID_ARGUMENT: the session is closed, and nothing is readable.
 * DISCONNECTED.
 *
 * `reservation` is NULL or is used for the last time.
 */
hostkv_status hostkv_reservation_commit(hostkv_reservation *reservation);

/**
 * As hostkv_reservation_commit(), and acquires the items in the same step, before anybody could evict them. The
 * lease has the reservation's count and order: what was committed now and what EXISTS already is pinned, other
 * items say NOT_FOUND, and an item for which no pin was left says QUOTA and stays committed. It is no read
 * request. On any other status than OK there is no lease. NULL is OK and gives a NULL lease.
 *
 * `reservation` is NULL or is used for the last time.
 */
hostkv_status hostkv_reservation_commit_and_acquire(hostkv_reservation *reservation,
                                                    hostkv_lease **ret_lease);

/**
 * As hostkv_reservation_commit(), and then hostkv_session_reserve() of the next items in the reservation's session, in one
 * round trip: for a writer that goes from batch to batch. The commit is first in every case, so that its room and quota
 * serve the reserve; while the reserve waits for an eviction, what was committed is readable already. Ends the reservation,
 * whatever it returns. On any other status than OK there is no next reservation and nothing is reserved.
 *
 * With HOSTKV_RESERVE_NO_WAIT in `request->flags` both are only sent, and what became of both, in these words,
 * hostkv_reservation_wait() of the next reservation has.
 *
 * OK: both were carried out; each item of the next reservation has its own status. EXPIRED: as for a commit, and nothing
 * was reserved either. INVALID_ARGUMENT, among others a reservation of NULL, which has no session to reserve in, and
 * whatever is wrong with the reserve: nothing is committed. TIMEOUT, DISCONNECTED: each key of the commit is either
 * readable or not; ask with a lookup. SYSTEM: no memory for the next spans of a user that hostkvd does not trust;
 * hostkv_last_error() says that the commit is done. QUOTA: 64 reservations of this session are not waited for yet, and
 * nothing is committed.
 *
 * `reservation` is NULL or is used for the last time; `items` has `count` items; `request` is NULL or has as many bytes as
 * its `struct_size` says.
 */
hostkv_status hostkv_reservation_commit_and_reserve(hostkv_reservation *reservation,
                                                    hostkv_keyspace keyspace,
                                                    const hostkv_reserve_item *items,
                                                    size_t count,
                                                    const hostkv_request *request,
                                                    hostkv_reservation **ret_reservation);

/**
 * Gives the room back; nothing becomes readable. Ends the reservation, whatever it returns; NULL is OK.
 *
 * `reservation` is NULL or is used for the last time.
 */
hostkv_status hostkv_reservation_abort(hostkv_reservation *reservation);

/**
 * Waits until every commit of this session made before the call is readable. Without HOSTKV_SESSION_ASYNC_COMMIT a commit
 * has waited itself, and this returns at once.
 *
 * NO_SPACE: an object committed since the last flush found no index entry and is not stored. DISCONNECTED, TIMEOUT.
 *
 * `session` is open.
 */
hostkv_status hostkv_session_flush(const hostkv_session *session);

/**
 * Copies `len` bytes, in the way that is fastest on this CPU for copies into the pool. The two places must not
 * overlap. Copies nothing if one of them is NULL.
 *
 * `destination` may be written and `source` read for `len` bytes.
 */
void hostkv_copy(void *destination,
                 const void *source,
                 size_t len);

/* ==== Read: lookup, acquire, read in place, release. No system calls. */

/**
 * Which keys are readable at this moment; pins nothing, so they may be gone at the next. `*ret_prefix_count`
 * becomes the number of leading keys that are. `ret_present` may be NULL, else it has a byte for each key, which
 * becomes 1 or 0.
 *
 * DISCONNECTED: the daemon is gone.
 *
 * `session` is open; `keys` has `count` keys; `ret_present` is NULL or has `count` bytes.
 */
hostkv_status hostkv_session_lookup(const hostkv_session *session,
                                    hostkv_keyspace keyspace,
                                    const hostkv_key *keys,
                                    size_t count,
                                    size_t *ret_prefix_count,
                                    uint8_t *ret_present);

/**
 * Pins the leading run of keys that are readable; with HOSTKV_ACQUIRE_ALL every one that is. Pinned bytes stay
 * as and where they are until hostkv_lease_release(). OK also when nothing was found: the lease then has a
 * prefix count of 0, and is released like any other. When pin slots or the pin quota are used up, the run ends
 * with a key that says QUOTA.
 *
 * DISCONNECTED: the daemon is gone.
 *
 * `session` is open; `keys` has `count` keys; `request` is NULL or has as many bytes as its `struct_size` says.
 */
hostkv_status hostkv_session_acquire(const hostkv_session *session,
                                     hostkv_keyspace keyspace,
                                     const hostkv_key *keys,
                                     size_t count,
                                     const hostkv_request *request,
                                     hostkv_lease **ret_lease);

/**
 * Keys asked for; 0 for NULL.
 *
 * `lease` is NULL or has not been released.
 */
size_t hostkv_lease_get_count(const hostkv_lease *lease);

/**
 * Leading keys that are pinned; 0 for NULL.
 *
 * `lease` is NULL or has not been released.
 */
size_t hostkv_lease_get_prefix_count(const hostkv_lease *lease);

/**
 * The bytes of one key, as its writer committed them.
 *
 * OK: read there. NOT_FOUND: it is not pinned. QUOTA: it is there, and no pin was left for it. INVALID_ARGUMENT:
 * no such key.
 *
 * `lease` has not been released.
 */
hostkv_status hostkv_lease_get_span(const hostkv_lease *lease,
                                    size_t index,
                                    hostkv_span *ret_span);

/**
 * Whether everything that was read under the lease so far is good. OK always, unless the operator set a read
 * time to live; then copy out, check, and use the copy only after an OK.
 *
 * EXPIRED: what was read since the last OK is void.
 *
 * `lease` has not been released.
 */
hostkv_status hostkv_lease_check(const hostkv_lease *lease);

/**
 * Says what hostkv_lease_check() says, and ends the lease, whatever it returns; NULL is OK. Its spans must not be
 * touched any more.
 *
 * `lease` is NULL or is used for the last time.
 */
hostkv_status hostkv_lease_release(hostkv_lease *lease);

/* ==== Prefetch: bring keys into the pool out of the daemon's tiers. */

/**
 * Has the longest prefix of these keys brought into the pool: what is not there is loaded from the tiers behind the
 * daemon (hostkvd --l2-adapter), as far as they have it. Does not wait for it. The prefix is then kept from being evicted
 * until hostkv_prefetch_end(), or the session's end, and is charged to the session's pin quota, at which it ends.
 * It is no read and pins nothing: acquire what it kept. `request->flags` are 0.
 *
 * QUOTA: 32 prefetches of this session are open. INVALID_ARGUMENT, DISCONNECTED, TIMEOUT.
 *
 * `session` is open; `keys` has `count` keys; `request` is NULL or has as many bytes as its `struct_size` says.
 */
hostkv_status hostkv_session_prefetch(const hostkv_session *session,
                                      hostkv_keyspace keyspace,
                                      const hostkv_key *keys,
                                      size_t count,
                                      const hostkv_request *request,
                                      hostkv_prefetch **ret_prefetch);

/**
 * Waits until the prefetch is over, at most `timeout_ms`; 0 only asks. `*ret_prefix_count` becomes the number of leading
 * keys that are in the pool now and kept there. A key that no tier has, that could not be loaded in time, or for which
 * there was no room or quota, ends the prefix. Asked again it says the same.
 *
 * TIMEOUT: not yet, ask again. DISCONNECTED: the daemon is gone.
 *
 * `prefetch` has not been ended, and no other thread uses it.
 */
hostkv_status hostkv_prefetch_wait(hostkv_prefetch *prefetch,
                                   uint32_t timeout_ms,
                                   size_t *ret_prefix_count);

/**
 * Ends the prefetch, whatever it returns and whether or not it is over; NULL is OK. What it kept may be evicted again;
 * what was acquired meanwhile stays pinned.
 *
 * TIMEOUT: the daemon did not answer and has it yet to be told.
 *
 * `prefetch` is NULL or is used for the last time.
 */
hostkv_status hostkv_prefetch_end(hostkv_prefetch *prefetch);

/* ==== Admin: take keys out of the pool. */

/**
 * Makes keys unreadable at once. Bytes under a lease are kept until the last lease on them ends. `ret_removed`
 * may be NULL, else it has a byte for each key, which becomes 1 (removed) or 0 (was not there).
 *
 * TIMEOUT: each key may or may not be removed; call again. READ_ONLY, PERMISSION, DISCONNECTED.
 *
 * `session` is open; `keys` has `count` keys; `ret_removed` is NULL or has `count` bytes.
 */
hostkv_status hostkv_session_remove(const hostkv_session *session,
                                    hostkv_keyspace keyspace,
                                    const hostkv_key *keys,
                                    size_t count,
                                    uint8_t *ret_removed);

/**
 * Removes every key of every keyspace that this session opened; with HOSTKV_CLEAR_ALL_KEYSPACES every key there
 * is. `*ret_removed_count` becomes their number.
 *
 * PERMISSION: HOSTKV_CLEAR_ALL_KEYSPACES is for admin users only. TIMEOUT: as for hostkv_session_remove().
 * READ_ONLY, DISCONNECTED.
 *
 * `session` is open.
 */
hostkv_status hostkv_session_clear(const hostkv_session *session,
                                   uint32_t flags,
                                   uint64_t *ret_removed_count);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HOSTKV_H */
