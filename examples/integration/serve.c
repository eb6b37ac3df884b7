/* serve.c: an engine of one process that uses the cache. A line with a number on standard input is a prompt; the
 * answer is one line:
 *
 *     loaded 8 of 16 chunks, stored 8, computed 513 tokens, digest 5d0c...
 *
 * The digest depends on the prompt alone, whatever the cache did. */

#include "cache.h"

#include <inttypes.h>
#include <stdio.h>

enum { PROMPT_TOKENS = 16 * CHUNK_TOKENS + 1 };

/* [serve] */
static void serve(prefix_cache *cache, toy_engine *engine, const uint32_t *tokens, size_t token_count) {
    /* The last token is always computed: it gives the logits to sample from. */
    hostkv_key keys[PROMPT_TOKENS / CHUNK_TOKENS];
    size_t count = 0;
    hostkv_chunk_keys(tokens, token_count - 1, CHUNK_TOKENS, keys, PROMPT_TOKENS / CHUNK_TOKENS, &count);
    for (size_t chunk = 0; chunk < count; chunk++) keys[chunk].kv_rank = engine->rank;

    engine_reset(engine);
    size_t loaded = cache_load(cache, engine, keys, count);
    engine_prefill(engine, tokens, token_count);
    uint64_t answer = engine_digest(engine); /* the user has it before anything is stored */
    size_t stored = cache_store(cache, engine, keys, loaded, count);
    printf("loaded %zu of %zu chunks, stored %zu, computed %zu tokens, digest %016" PRIx64 "\n",
           loaded, count, stored, engine->computed_count, answer);
}
/* [end] */

int main(void) {
    static uint32_t tokens[PROMPT_TOKENS];
    prefix_cache cache;
    toy_engine engine;
    if (engine_init(&engine, PROMPT_TOKENS, 0) != 0) {
        fprintf(stderr, "serve: no memory for %d tokens\n", PROMPT_TOKENS);
        return 1;
    }
    cache_init(&cache);
    unsigned long seed;
    while (scanf("%lu", &seed) == 1) {
        engine_make_prompt((uint32_t)seed, tokens, PROMPT_TOKENS);
        serve(&cache, &engine, tokens, PROMPT_TOKENS);
        fflush(stdout);
    }
    cache_close(&cache);
    engine_free(&engine);
    return 0;
}
