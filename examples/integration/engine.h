/* engine.h: a stand-in for an inference engine, small enough to read and exact enough to test a cache with.
 *
 * It has what matters to a cache: KV bytes that are paged by layer, each depending on all tokens before it, and
 * a prefill that can go on from bytes that it did not compute. Its "answer" is a digest of all of its KV bytes,
 * so one wrong restored byte changes the answer.
 *
 *     layers[0]  [ token 0 | token 1 | ... ]      an object of the cache is one chunk of 64 tokens,
 *     layers[1]  [ token 0 | token 1 | ... ]      all layers of it one after the other
 */

#ifndef INTEGRATION_ENGINE_H
#define INTEGRATION_ENGINE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_TOKENS = 64,
    LAYER_COUNT = 4,
    TOKEN_BYTES = 128, /* of one token in one layer */
    LAYER_CHUNK_BYTES = CHUNK_TOKENS * TOKEN_BYTES,
    CHUNK_BYTES = LAYER_COUNT * LAYER_CHUNK_BYTES
};

typedef struct toy_engine {
    uint32_t rank;                       /* which share of the model this worker has */
    size_t token_count;                  /* tokens whose KV bytes are there */
    size_t computed_count;               /* tokens that prefill computed since the reset */
    size_t capacity;                     /* tokens there is room for */
    unsigned char *layers[LAYER_COUNT];
} toy_engine;

static inline int engine_init(toy_engine *engine, size_t capacity, uint32_t rank) {
    memset(engine, 0, sizeof *engine);
    engine->rank = rank;
    engine->capacity = capacity;
    for (size_t layer = 0; layer < LAYER_COUNT; layer++) {
        engine->layers[layer] = (unsigned char *)calloc(capacity, TOKEN_BYTES);
        if (engine->layers[layer] == NULL) return -1;
    }
    return 0;
}

static inline void engine_free(toy_engine *engine) {
    for (size_t layer = 0; layer < LAYER_COUNT; layer++) free(engine->layers[layer]);
}

static inline void engine_reset(toy_engine *engine) {
    engine->token_count = 0;
    engine->computed_count = 0;
}

static inline uint64_t engine_mix(uint64_t state, uint64_t value) {
    state = (state ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    return state ^ (state >> 29);
}

/* Computes the tokens from token_count on; the state comes from the KV bytes of the token before. */
static inline void engine_prefill(toy_engine *engine, const uint32_t *tokens, size_t count) {
    for (size_t token = engine->token_count; token < count; token++) {
        uint64_t state = engine->rank + 1;
        if (token > 0) memcpy(&state, engine->layers[LAYER_COUNT - 1] + (token - 1) * TOKEN_BYTES, sizeof state);
        for (size_t layer = 0; layer < LAYER_COUNT; layer++) {
            state = engine_mix(state, tokens[token]);
            unsigned char *bytes = engine->layers[layer] + token * TOKEN_BYTES;
            for (size_t at = 0; at < TOKEN_BYTES; at += sizeof state) memcpy(bytes + at, &state, sizeof state);
        }
        engine->computed_count++;
    }
    engine->token_count = count;
}

/* The answer: a digest of every KV byte of the prompt. */
static inline uint64_t engine_digest(const toy_engine *engine) {
    uint64_t digest = 1;
    for (size_t layer = 0; layer < LAYER_COUNT; layer++)
        for (size_t at = 0; at < engine->token_count * TOKEN_BYTES; at++) digest = engine_mix(digest, engine->layers[layer][at]);
    return digest;
}

/* A prompt: all seeds share the first half of their tokens, as requests with one system prompt do. */
static inline void engine_make_prompt(uint32_t seed, uint32_t *ret_tokens, size_t count) {
    for (size_t token = 0; token < count; token++)
        ret_tokens[token] = (uint32_t)engine_mix(token < count / 2 ? 0 : seed, token) & 0xffff;
}

/* [gather] */
/* One object: a chunk's bytes of all layers, in a place of the cache. */
static inline void engine_gather(const toy_engine *engine, size_t chunk, void *object) {
    for (size_t layer = 0; layer < LAYER_COUNT; layer++)
        memcpy((unsigned char *)object + layer * LAYER_CHUNK_BYTES,
               engine->layers[layer] + chunk * LAYER_CHUNK_BYTES, LAYER_CHUNK_BYTES);
}

/* And back into the engine's layers. */
static inline void engine_scatter(toy_engine *engine, size_t chunk, const void *object) {
    for (size_t layer = 0; layer < LAYER_COUNT; layer++)
        memcpy(engine->layers[layer] + chunk * LAYER_CHUNK_BYTES,
               (const unsigned char *)object + layer * LAYER_CHUNK_BYTES, LAYER_CHUNK_BYTES);
}
/* [end] */

#endif
