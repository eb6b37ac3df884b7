/*
 * A wall clock that jumps, to be preloaded into a program under test.
 *
 * Adds the nanoseconds in the file HOSTKV_TEST_CLOCK, one int64_t in the machine's byte order, to everything that tells
 * the time of day. The file is mapped when the program starts, so that a sandbox of its own does not part them, and may
 * be written at any time. What counts time without a date, CLOCK_MONOTONIC and its like, goes on undisturbed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *jump_ns;

__attribute__((constructor)) static void map_jump(void) {
    const char *path = getenv("HOSTKV_TEST_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *mapping = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *jump_ns, PROT_READ, MAP_SHARED, file, 0);
    if (mapping == MAP_FAILED) {
        fprintf(stderr, "jumping_clock: HOSTKV_TEST_CLOCK names no file with 8 bytes\n");
        abort();
    }
    close(file);
    jump_ns = mapping;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int outcome = (int)syscall(SYS_clock_gettime, clock, time);
    /* Before the constructor of this library others may have asked. */
    if (outcome == 0 && jump_ns != NULL &&
        (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI)) {
        int64_t second = 1000000000;
        int64_t now = (int64_t)time->tv_sec * second + time->tv_nsec + *jump_ns;
        time->tv_sec = now / second;
        time->tv_nsec = now % second;
    }
    return outcome;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}
