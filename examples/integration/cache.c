/* cache.c: see cache.h. The parts between [name] and [end] stand in docs/integration.md, line by line. */

#include "cache.h"

#include <stdio.h>
#include <time.h>

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void cache_init(prefix_cache *cache) {
    memset(cache, 0, sizeof *cache);
    cache->delay_s = 0.1;
}

void cache_close(prefix_cache *cache) {
    hostkv_session_close(cache->session);
    cache->session = NULL;
}

/* [fingerprint] */
/* Everything that changes what the bytes of an object mean. Two builds that disagree here never share a byte. */
static uint64_t layout_fingerprint(void) {
    char text[160];
    int len = snprintf(text, sizeof text, "toy engine 1; weights v7; f16; %d layers; %d bytes a token; chunk-major",
                       LAYER_COUNT, TOKEN_BYTES);
    hostkv_key digest;
    uint64_t fingerprint = 0;
    if (hostkv_key_from_bytes(text, (size_t)len, &digest) == HOSTKV_STATUS_OK)
        memcpy(&fingerprint, digest.chunk_hash, sizeof fingerprint);
    return fingerprint;
}
/* [end] */

/* [status] */
/* What a status says about the session. For the request each of them is a miss and nothing more. */
static void failed(prefix_cache *cache, const char *what, hostkv_status status) {
    fprintf(stderr, "cache: %s: %s\n", what, hostkv_last_error());
    switch (status) {
    case HOSTKV_STATUS_NO_SPACE: /* this prompt is not stored */
    case HOSTKV_STATUS_EXPIRED:  /* what was read or written is void */
        return;
    case HOSTKV_STATUS_TIMEOUT: /* the daemon is slow; a session that is open is good */
        if (cache->session != NULL) return;
        break;
    case HOSTKV_STATUS_DISCONNECTED:    /* no daemon, or another start of it */
    case HOSTKV_STATUS_QUOTA:           /* of open: too many sessions or keyspaces */
    case HOSTKV_STATUS_LAYOUT_MISMATCH: /* until processes with the other layout have closed */
    case HOSTKV_STATUS_SYSTEM:
        break;
    default: /* PERMISSION, VERSION_MISMATCH, INVALID_ARGUMENT, ...: a person has to change something */
        cache->is_off = 1;
    }
    cache_close(cache);
    cache->next_attempt_s = now_s() + cache->delay_s;
    if (cache->delay_s < 30) cache->delay_s *= 2;
}
/* [end] */

/* [open] */
/* Whether there is a session. Opens one if it is time to try. */
static int is_ready(prefix_cache *cache) {
    if (cache->session != NULL) return 1;
    if (cache->is_off || now_s() < cache->next_attempt_s) return 0;

    hostkv_session_config config;
    hostkv_session_config_init(&config);
    config.client_name = "toy-engine"; /* how `hostkv status` and the daemon's log call it */
    config.timeout_ms = 1000;          /* no call of the request's path may take longer */
    hostkv_session *session = NULL;
    hostkv_status status = hostkv_session_open(&config, &session);
    if (status != HOSTKV_STATUS_OK) {
        failed(cache, "open", status);
        return 0;
    }

    hostkv_keyspace_config layout = {0};
    layout.struct_size = sizeof layout;
    layout.model_name = "toy/demo-7b";
    layout.cache_salt = getenv("ENGINE_CACHE_SALT"); /* one for each tenant; NULL = none */
    layout.tokens_per_key = CHUNK_TOKENS;
    layout.layout_fingerprint = layout_fingerprint();
    status = hostkv_session_open_keyspace(session, &layout, &cache->keyspace);
    if (status != HOSTKV_STATUS_OK) {
        failed(cache, "open keyspace", status);
        hostkv_session_close(session);
        return 0;
    }

    hostkv_session_info info = {0};
    info.struct_size = sizeof info;
    hostkv_session_get_info(session, &info);
    cache->max_batch_keys = info.max_batch_keys;
    cache->delay_s = 0.1;
    cache->session = session;
    return 1;
}
/* [end] */

/* [load] */
size_t cache_load(prefix_cache *cache, toy_engine *engine, const hostkv_key *keys, size_t count) {
    size_t loaded = 0;
    while (loaded < count && is_ready(cache)) {
        size_t asked = count - loaded < cache->max_batch_keys ? count - loaded : cache->max_batch_keys;
        hostkv_lease *lease = NULL;
        hostkv_status status = hostkv_session_acquire(cache->session, cache->keyspace, keys + loaded, asked, NULL, &lease);
        if (status != HOSTKV_STATUS_OK) {
            failed(cache, "acquire", status);
            break;
        }
        size_t copied = 0;
        hostkv_status ended_by = HOSTKV_STATUS_OK;
        while (copied < asked) {
            hostkv_span object;
            ended_by = hostkv_lease_get_span(lease, copied, &object);
            if (ended_by != HOSTKV_STATUS_OK || object.len_bytes != CHUNK_BYTES) break;
            engine_scatter(engine, loaded + copied, object.data);
            copied++;
        }
        /* Only an OK here says that the bytes stayed what they were while they were copied. */
        status = hostkv_lease_release(lease);
        if (status != HOSTKV_STATUS_OK) {
            failed(cache, "release", status);
            break;
        }
        loaded += copied;
        /* QUOTA: the lease held all that one session may pin. It is released, so the rest can be asked for. */
        if (copied < asked && !(ended_by == HOSTKV_STATUS_QUOTA && copied > 0)) break;
    }
    engine->token_count = loaded * CHUNK_TOKENS;
    return loaded;
}
/* [end] */

/* [store] */
size_t cache_store(prefix_cache *cache, const toy_engine *engine, const hostkv_key *keys, size_t first, size_t count) {
    size_t stored = 0;
    while (first < count && is_ready(cache)) {
        hostkv_reserve_item items[64];
        size_t asked = 0;
        while (asked < 64 && first + asked < count) {
            items[asked].key = keys[first + asked];
            items[asked].len_bytes = CHUNK_BYTES;
            asked++;
        }
        hostkv_reservation *reservation = NULL;
        hostkv_status status = hostkv_session_reserve(cache->session, cache->keyspace, items, asked, NULL, &reservation);
        if (status != HOSTKV_STATUS_OK) {
            failed(cache, "reserve", status);
            break;
        }
        size_t settled = 0, written = 0;
        while (settled < asked) {
            hostkv_span_mut place;
            status = hostkv_reservation_get_span(reservation, settled, &place);
            if (status == HOSTKV_STATUS_OK) {
                engine_gather(engine, first + settled, place.data);
                written++;
            } else if (status != HOSTKV_STATUS_EXISTS && status != HOSTKV_STATUS_RESERVED) {
                break; /* NO_SPACE or QUOTA: the run of granted keys ends here */
            } /* EXISTS, RESERVED: another process was first, and its bytes are as good */
            settled++;
        }
        hostkv_status ended_by = settled < asked ? status : HOSTKV_STATUS_OK;
        status = hostkv_reservation_commit(reservation); /* readable by everybody from here on */
        if (status != HOSTKV_STATUS_OK) {
            failed(cache, "commit", status);
            break;
        }
        stored += written;
        first += settled;
        /* QUOTA: this session had reserved all it may. The commit gave that back, so the rest can follow. */
        if (ended_by != HOSTKV_STATUS_OK && !(ended_by == HOSTKV_STATUS_QUOTA && written > 0)) break;
    }
    return stored;
}
/* [end] */
