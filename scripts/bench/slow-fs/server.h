/*
 * The server that ../slow-fs.c plays: so many places, a latency, one wire, and counters. A request calls `arrive`, does its
 * work, calls `carry` if it moves bytes, and `depart`. One lock for all: it is held for some hundred nanoseconds.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static long meta_us, data_us, mbps, conc = 64, cache_s, direct, until_eof;
static const struct {
	const char *name;
	long *value;
} settings[] = {
	{ "meta_us", &meta_us }, { "data_us", &data_us }, { "mbps", &mbps },
	{ "conc", &conc },       { "cache_s", &cache_s }, { "direct", &direct },
	{ "until_eof", &until_eof },
};

enum kind {
	LOOKUP, GETATTR, SETATTR, OPEN, CREATE, READDIR, MKDIR, REMOVE, RENAME, LINK, READLINK, XATTR, STATFS, LOCK, SEEK,
	READ, WRITE, FLUSH, /* the data requests */
	KINDS
};
static const char *const kind_names[KINDS] = {
	"lookup", "getattr", "setattr", "open",  "create", "readdir", "mkdir", "remove", "rename",
	"link",   "readlink", "xattr",  "statfs", "lock",  "seek",    "read",  "write",  "flush",
};

static struct {
	pthread_mutex_t mutex;
	pthread_cond_t place_free;
	long busy, peak;
	unsigned long long asked[KINDS], carried[KINDS];
	long long wire_free_ns; /* when the wire has sent all that it was given */
} server = { .mutex = PTHREAD_MUTEX_INITIALIZER, .place_free = PTHREAD_COND_INITIALIZER };

static long long now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void sleep_until(long long ns)
{
	struct timespec when = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
		;
}

static void arrive(enum kind kind)
{
	pthread_mutex_lock(&server.mutex);
	while (server.busy >= conc)
		pthread_cond_wait(&server.place_free, &server.mutex);
	server.busy++;
	if (server.busy > server.peak)
		server.peak = server.busy;
	server.asked[kind]++;
	pthread_mutex_unlock(&server.mutex);
	long latency_us = kind >= READ ? data_us : meta_us;
	if (latency_us > 0)
		sleep_until(now_ns() + latency_us * 1000);
}

static void carry(enum kind kind, size_t bytes)
{
	pthread_mutex_lock(&server.mutex);
	server.carried[kind] += bytes;
	long long arrived = 0;
	if (mbps > 0) {
		long long now = now_ns();
		if (server.wire_free_ns < now)
			server.wire_free_ns = now;
		arrived = server.wire_free_ns += (long long)bytes * 1000 / mbps;
	}
	pthread_mutex_unlock(&server.mutex);
	if (arrived > 0)
		sleep_until(arrived);
}

static void depart(void)
{
	pthread_mutex_lock(&server.mutex);
	server.busy--;
	pthread_mutex_unlock(&server.mutex);
	pthread_cond_signal(&server.place_free);
}

static int report(char *text, size_t room)
{
	unsigned long long meta = 0, data = 0;
	size_t used = 0;
	pthread_mutex_lock(&server.mutex);
	for (int kind = 0; kind < KINDS; kind++) {
		*(kind >= READ ? &data : &meta) += server.asked[kind];
		used += snprintf(text + used, room - used, "%s\"%s\":%llu", kind ? "," : "{", kind_names[kind],
				 server.asked[kind]);
	}
	used += snprintf(text + used, room - used,
			 ",\"meta\":%llu,\"data\":%llu,\"bytesRead\":%llu,\"bytesWritten\":%llu,\"peak\":%ld}\n", meta,
			 data, server.carried[READ], server.carried[WRITE], server.peak);
	pthread_mutex_unlock(&server.mutex);
	return used;
}

static void start_from_zero(void)
{
	pthread_mutex_lock(&server.mutex);
	memset(server.asked, 0, sizeof server.asked);
	memset(server.carried, 0, sizeof server.carried);
	server.peak = server.busy;
	pthread_mutex_unlock(&server.mutex);
}
