/* LD_PRELOAD: every flock(2) fails with the errno in FLOCK_ERRNO; 0 grants it without locking (Lustre's localflock). */
#include <errno.h>
#include <stdlib.h>

int flock(int fd, int operation) {
  const char *text = getenv("FLOCK_ERRNO");
  (void)fd, (void)operation;
  errno = text ? atoi(text) : ENOSYS;
  return errno ? -1 : 0;
}
