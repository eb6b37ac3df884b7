/* Lets hostkvd run under a valgrind that does not know pidfd_open (before 3.20): the descriptor comes from a socket instead,
 * whose other end is the same process. Preloaded by scripts/count-instructions.sh; gives descriptors of the process itself only,
 * which is all that a daemon asks for whose kernel names the peers of its sockets (Linux 6.5). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static long own_pidfd(long pid) {
    int pair[2], descriptor = -1;
    socklen_t length = sizeof descriptor;
    if (pid != getpid()) {
        errno = ENOSYS;
        return -1;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    int failed = getsockopt(pair[0], SOL_SOCKET, SO_PEERPIDFD, &descriptor, &length);
    close(pair[0]);
    close(pair[1]);
    return failed ? -1 : descriptor;
}

long syscall(long number, ...) {
    static long (*next)(long, ...);
    long argument[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_pidfd_open)
        return own_pidfd(argument[0]);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return next(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
}
