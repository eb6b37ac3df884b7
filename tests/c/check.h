/* check.h: how the C tests count. One line for each group of checks, and one for each check that failed. */

#ifndef HOSTKV_TESTS_CHECK_H
#define HOSTKV_TESTS_CHECK_H

#include "hostkv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *group_name;
static unsigned group_passed, group_failed, total_passed, total_failed;

#if defined(__GNUC__)
/* Not every test uses every function here. */
#pragma GCC diagnostic ignored "-Wunused-function"
#endif

static void group_end(void) {
    if (group_name != NULL) {
        printf("%s %s: %u checks\n", group_failed == 0 ? "ok  " : "FAIL", group_name, group_passed + group_failed);
        fflush(stdout);
    }
    group_name = NULL;
    total_passed += group_passed;
    total_failed += group_failed;
    group_passed = group_failed = 0;
}

static void group(const char *name) {
    group_end();
    group_name = name;
}

/* Counts one check; says where and what when it failed. */
static int check_at(int is_good, const char *file, int line, const char *what) {
    if (is_good) {
        group_passed++;
    } else {
        group_failed++;
        printf("     %s:%d: %s\n", file, line, what);
    }
    return is_good;
}

/* As check_at, for a status, and says both names and the library's sentence. */
static int status_at(int32_t got, int32_t expected, const char *file, int line, const char *what) {
    const int is_good = check_at(got == expected, file, line, what);
    if (!is_good) {
        printf("     expected %s, got %s: %s\n", hostkv_status_name(expected), hostkv_status_name(got),
               got == HOSTKV_STATUS_OK ? "" : hostkv_last_error());
    }
    return is_good;
}

/* As status_at, for a failure whose sentence has this word in it. */
static int refused_at(int32_t got, int32_t expected, const char *word, const char *file, int line, const char *what) {
    return status_at(got, expected, file, line, what) &&
           check_at(strstr(hostkv_last_error(), word) != NULL, file, line, hostkv_last_error());
}

#define CHECK(condition) check_at((condition) != 0, __FILE__, __LINE__, #condition)
#define STATUS(call, expected) status_at((call), HOSTKV_STATUS_##expected, __FILE__, __LINE__, #call)
#define REFUSED(call, expected, word)                                                                        \
    refused_at((call), HOSTKV_STATUS_##expected, (word), __FILE__, __LINE__, #call)

/* Ends the program: the sum, and the exit code. */
static int finish(void) {
    group_end();
    printf("%u passed, %u failed\n", total_passed, total_failed);
    return total_failed == 0 && total_passed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* What outputs are set to beforehand, to see that a failure leaves them alone: a place that is no handle. */
#define POISON ((void *)&total_passed)

static hostkv_reserve_item item_of(const char *name, uint64_t len_bytes) {
    hostkv_reserve_item item;
    memset(&item, 0, sizeof item);
    STATUS(hostkv_key_from_bytes(name, strlen(name), &item.key), OK);
    item.len_bytes = len_bytes;
    return item;
}

static hostkv_request request_of(uint32_t flags) {
    hostkv_request request;
    memset(&request, 0, sizeof request);
    request.struct_size = sizeof request;
    request.flags = flags;
    return request;
}

/* A session with all defaults; the program ends without one. */
static hostkv_session *open_session(void) {
    hostkv_session *session = NULL;
    if (!STATUS(hostkv_session_open(NULL, &session), OK)) exit(finish());
    return session;
}

static hostkv_keyspace open_keyspace(const hostkv_session *session, const char *model_name) {
    hostkv_keyspace_config config;
    hostkv_keyspace keyspace = 0;
    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    config.model_name = model_name;
    STATUS(hostkv_session_open_keyspace(session, &config, &keyspace), OK);
    return keyspace;
}

#endif
