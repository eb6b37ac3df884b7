/* cache.h: what an engine in C adds to use hostkv; see docs/integration.md.
 *
 *     prompt -> keys -> cache_load -> [the rest is computed] -> answer -> cache_store
 *
 * The cache never costs a request. Whatever happens to it, cache_load says how many chunks it could put into the
 * engine, which may be none, and the engine computes the others. One thread at a time uses a cache. */

#ifndef INTEGRATION_CACHE_H
#define INTEGRATION_CACHE_H

#include "engine.h"

#include <hostkv.h>

typedef struct prefix_cache {
    hostkv_session *session;   /* NULL while there is none */
    hostkv_keyspace keyspace;
    uint32_t max_batch_keys;
    int is_off;                /* something that a retry does not mend; it was said once */
    double delay_s;            /* until the next attempt to open a session, doubled each time */
    double next_attempt_s;
} prefix_cache;

/* No session is opened yet: that happens with the first prompt, in the process that serves it. */
void cache_init(prefix_cache *cache);

/* Puts the longest cached run of leading chunks into an empty engine and says how many those are. */
size_t cache_load(prefix_cache *cache, toy_engine *engine, const hostkv_key *keys, size_t count);

/* Stores the chunks from `first` on that the pool does not have yet, and says how many those were. */
size_t cache_store(prefix_cache *cache, const toy_engine *engine, const hostkv_key *keys, size_t first, size_t count);

/* Before the process ends, and before any memory of the pool is used as freed. */
void cache_close(prefix_cache *cache);

#endif
