/*
 * slow-fs: shows a local directory as if it lay on a file server far away. For `npm run bench` and its tests.
 *
 *     slow-fs SOURCE MOUNTPOINT [meta_us=0] [data_us=0] [mbps=0] [conc=64] [cache_s=0] [direct=0] [until_eof=0]
 *
 *   meta_us    how long the server takes for a request about names and attributes (open and locks included), in µs
 *   data_us    the same for read, write, fsync and fallocate
 *   mbps       what the wire carries, all reads and writes together, in 10^6 bytes per second; 0: any amount
 *   conc       requests that are served at the same time; the others wait for their turn
 *   cache_s    how long the client may remember names and attributes, in seconds. With 0 each step of each path asks
 *   direct     1: the client keeps no contents, so several readers ask as often as if each had a client of its own
 *   until_eof  1: unmount and end when stdin ends, that is, with the process that started this one
 *
 * It prints "mounted" once, and ends when it is unmounted, or by a signal, which unmounts. What was asked:
 *     getfattr --only-values -n user.slow-fs MOUNTPOINT      one line of JSON; neither counted nor slowed
 *     setfattr -n user.slow-fs -v 0 MOUNTPOINT               start from zero
 *
 * A request first waits for a place, then sleeps its latency in that place, then does its work, then waits for the wire.
 * So nothing can be faster than (requests x latency) / conc, nor than bytes / mbps, however many clients there are.
 *
 * What is as on a plain network mount: no copy_file_range, ioctl or O_TMPFILE on the server (copy_file_range works all the
 * same, the kernel reads and writes instead), fcntl(2) locks are known to this mount only. flock(2) locks the file in
 * SOURCE, so two mounts of it exclude each other like two hosts.
 *
 * It needs root, and in SOURCE one file system that knows file handles (ext4, xfs, btrfs, tmpfs).
 * Build: gcc -O2 -o slow-fs slow-fs.c $(pkg-config --cflags --libs fuse3) -pthread   (libfuse 3.14 or later)
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 314
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

/* In this order: each uses those before it. */
#include "slow-fs/server.h"
#include "slow-fs/objects.h"
#include "slow-fs/names.h"
#include "slow-fs/contents.h"

/*
 * libfuse before 3.16 never asks the kernel for parallel lookups and listings in one directory, and the kernel then sends
 * them one after the other, which no network file system does. So the flag is put into the first message that goes to the
 * kernel, the answer to FUSE_INIT (its fourth 32-bit word; the bit has the same value in both interfaces).
 */
static ssize_t to_kernel(int fd, struct iovec *parts, int count, void *unused)
{
	static atomic_flag sent = ATOMIC_FLAG_INIT;
	(void)unused;
	if (!atomic_flag_test_and_set(&sent) && count >= 2 && parts[1].iov_len >= 4 * sizeof(uint32_t))
		((uint32_t *)parts[1].iov_base)[3] |= FUSE_CAP_PARALLEL_DIROPS;
	return writev(fd, parts, count);
}

static ssize_t from_kernel(int fd, void *buffer, size_t room, void *unused)
{
	(void)unused;
	return read(fd, buffer, room);
}

static void on_init(void *unused, struct fuse_conn_info *connection)
{
	(void)unused;
	/* `conc` is the only queue: the kernel's own limit for readahead is 12. */
	connection->max_background = connection->congestion_threshold = 1024;
	connection->want &= ~(FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO);
}

static const struct fuse_lowlevel_ops handlers = {
	.lookup = on_lookup,     .forget = on_forget,         .getattr = on_getattr,     .setattr = on_setattr,
	.mknod = on_mknod,       .mkdir = on_mkdir,           .symlink = on_symlink,     .link = on_link,
	.unlink = on_unlink,     .rmdir = on_rmdir,           .rename = on_rename,       .readlink = on_readlink,
	.statfs = on_statfs,     .opendir = on_opendir,       .readdir = on_readdir,     .releasedir = on_releasedir,
	.open = on_open,         .create = on_create,         .read = on_read,           .write = on_write,
	.release = on_release,   .fsync = on_fsync,           .fallocate = on_fallocate, .lseek = on_lseek,
	.getxattr = on_getxattr, .listxattr = on_listxattr,   .setxattr = on_setxattr,   .removexattr = on_removexattr,
	.flock = on_flock,       .init = on_init,
};

static int cannot(const char *what, const char *path)
{
	fprintf(stderr, "slow-fs: Cannot %s %s: %s\n", what, path, strerror(errno));
	return 1;
}

static bool read_setting(const char *argument)
{
	for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
		size_t length = strlen(settings[i].name);
		if (strncmp(argument, settings[i].name, length) != 0 || argument[length] != '=')
			continue;
		char *end;
		*settings[i].value = strtol(argument + length + 1, &end, 10);
		return *end == 0 && end > argument + length + 1 && *settings[i].value >= 0;
	}
	return false;
}

static void *end_with_stdin(void *mountpoint)
{
	char dropped[64];
	while (read(STDIN_FILENO, dropped, sizeof dropped) > 0)
		;
	umount2(mountpoint, MNT_DETACH);
	_exit(0); /* the kernel fails what is still asked with ENOTCONN */
}

int main(int argc, char **argv)
{
	for (int i = 3; i < argc; i++) {
		if (!read_setting(argv[i])) {
			fprintf(stderr, "slow-fs: Cannot understand %s\n", argv[i]);
			return 2;
		}
	}
	if (argc < 3 || conc < 1) {
		fprintf(stderr, "usage: slow-fs SOURCE MOUNTPOINT [meta_us=N] [data_us=N] [mbps=N] [conc=N, at least 1] "
				"[cache_s=N] [direct=0|1] [until_eof=0|1]\n");
		return 2;
	}

	struct stat attr;
	root_fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root_fd < 0 || fstat(root_fd, &attr) < 0)
		return cannot("open", argv[1]);
	root_dev = attr.st_dev;
	struct file_handle probe = { .handle_bytes = 0 };
	if (name_to_handle_at(root_fd, "", &probe, &(int){ 0 }, AT_EMPTY_PATH) < 0 && errno != EOVERFLOW)
		return cannot("get file handles in", argv[1]);

	/* Two descriptors for each open file, and one for each request. */
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); /* or each sleep is 50 µs longer; threads inherit it */
	umask(0);			      /* the kernel has applied the caller's */

	int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return cannot("open", "/dev/fuse");
	char options[128];
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
		 device);
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fuse_custom_io io = { .writev = to_kernel, .read = from_kernel };
	struct fuse_session *session = fuse_session_new(&args, &handlers, sizeof handlers, NULL);
	struct fuse_loop_config *loop = fuse_loop_cfg_create();
	if (!session || !loop || fuse_set_signal_handlers(session) != 0)
		return 1;
	if (mount("slow-fs", argv[2], "fuse.slow-fs", MS_NODEV | MS_NOSUID, options) < 0)
		return cannot("mount on", argv[2]);
	if (fuse_session_custom_io(session, &io, device) != 0) {
		umount2(argv[2], MNT_DETACH);
		return 1;
	}
	pthread_t watcher;
	if (until_eof && pthread_create(&watcher, NULL, end_with_stdin, argv[2]) != 0)
		return cannot("watch", "stdin");
	puts("mounted");
	fflush(stdout);

	/* A thread for each request, also those that wait for a place or a lock. */
	fuse_loop_cfg_set_clone_fd(loop, 1);
	fuse_loop_cfg_set_max_threads(loop, conc + 256);
	fuse_loop_cfg_set_idle_threads(loop, conc + 256);
	int result = fuse_session_loop_mt(session, loop);
	umount2(argv[2], MNT_DETACH);
	return result < 0 ? 1 : 0;
}
