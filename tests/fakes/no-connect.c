/* Preloaded: ef cannot connect to another node, as where a firewall stands between them. Other programs can. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	int is_ef = strcmp(program_invocation_short_name, "ef") == 0 || strncmp(program_invocation_short_name, "bun", 3) == 0;
	if (is_ef && (address->sa_family == AF_INET || address->sa_family == AF_INET6)) {
		errno = ECONNREFUSED;
		return -1;
	}
	int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
	return real(fd, address, length);
}
