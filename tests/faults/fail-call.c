/*
 * Run a program, and let one chosen file-system call of it fail.
 *
 *   fail-call [-e] [-k N | -m CALL] [-f FAULT | -x SCRIPT] [-l LOG] DIR... -- PROGRAM ARGS...
 *
 * Calls that concern a path below one of DIR, or an open file there, are counted, of all threads and of all that the program
 * starts, in the order in which the kernel gets them. The Nth, or the first that is in LOG as CALL (its name, a blank, its path),
 * gets FAULT: the name of an error (ENOSPC), `short` (half of a write is done; other calls are left alone), `late` (it is done half
 * a second later), `kill` (SIGKILL to all processes instead of the call), `term` or `int` (that signal to the program, and the call
 * is done). With -x, `sh -c SCRIPT` is run instead, to its end, and then the call is done: what a person, a job or a purge does at
 * just this moment. LOG gets a line for each counted call, and a last one with the peak of the memory of the largest process,
 * "peak KB". Ends with the exit code of the program, 128+n after signal n; 99 if it cannot work here. The program dies with us.
 *
 * With -e the starts of other programs are counted instead: each execve of a file that is there. `kill` and `die` are then SIGKILL
 * to that process alone, before it starts and 20 milliseconds after.
 *
 * By seccomp(2) with user notification: the kernel asks us before such a call is made, wherever in the program that is. So the
 * program is the real one, no call of it is missed, and no library has to be replaced (Bun makes system calls without libc).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where a call names its file: a path (argument `path`, relative to the directory `dir`), or an open one (argument `fd`). */
struct call {
  int number;
  const char *name;
  int fd, dir, path;
};

#define FD(name, at) {SYS_##name, #name, at, -1, -1}
#define AT(name, d, p) {SYS_##name, #name, -1, d, p}
static const struct call calls[] = {
  AT(openat, 0, 1), AT(mkdirat, 0, 1), AT(unlinkat, 0, 1), AT(renameat2, 2, 3), AT(renameat, 2, 3), AT(linkat, 2, 3), AT(symlinkat, 1, 2),
  AT(utimensat, 0, 1), AT(fchmodat, 0, 1), AT(fchownat, 0, 1), AT(statx, 0, 1), AT(newfstatat, 0, 1), AT(readlinkat, 0, 1),
  AT(statfs, -1, 0), AT(truncate, -1, 0), AT(faccessat, 0, 1), AT(faccessat2, 0, 1),
#ifdef SYS_open
  AT(open, -1, 0), AT(mkdir, -1, 0), AT(rmdir, -1, 0), AT(unlink, -1, 0), AT(rename, -1, 1), AT(link, -1, 1), AT(symlink, -1, 1),
  AT(chmod, -1, 0), AT(lchown, -1, 0), AT(chown, -1, 0), AT(stat, -1, 0), AT(lstat, -1, 0), AT(readlink, -1, 0), AT(access, -1, 0),
#endif
  AT(setxattr, -1, 0), AT(lsetxattr, -1, 0),
  FD(read, 0), FD(pread64, 0), FD(write, 0), FD(pwrite64, 0), FD(writev, 0), FD(pwritev, 0), FD(preadv, 0), FD(readv, 0), FD(fsync, 0),
  FD(fdatasync, 0), FD(close, 0), FD(ftruncate, 0), FD(fchmod, 0), FD(fchown, 0), FD(fstat, 0), FD(getdents64, 0), FD(flock, 0),
  AT(execve, -1, 0), FD(copy_file_range, 2), FD(sendfile, 0), FD(fallocate, 0), FD(syncfs, 0), FD(lseek, 0), FD(fsetxattr, 0), FD(ioctl, 0),
};
#define COUNT (sizeof calls / sizeof *calls)

static char **dirs;
static int dir_count;

static void die(const char *what) {
  perror(what);
  exit(99);
}

/* Is it one of the directories, or below one? */
static int is_below(const char *path) {
  for (int i = 0; i < dir_count; i++) {
    size_t length = strlen(dirs[i]);
    if (strncmp(path, dirs[i], length) == 0 && (path[length] == '/' || path[length] == '\0')) return 1;
  }
  return 0;
}

/* What a link of /proc/PID leads to. */
static void link_of(pid_t pid, const char *name, char *into) {
  char link[64];
  snprintf(link, sizeof link, "/proc/%d/%s", (int)pid, name);
  ssize_t length = readlink(link, into, PATH_MAX - 1);
  into[length < 0 ? 0 : length] = '\0';
}

static void fd_path(pid_t pid, int fd, char *into) {
  char name[32];
  snprintf(name, sizeof name, "fd/%d", fd);
  link_of(pid, name, into);
}

/* A text in the memory of the program. */
static void text_at(pid_t pid, unsigned long address, char *into) {
  size_t got = 0;
  into[0] = '\0';
  while (got < PATH_MAX - 1) {
    size_t piece = 256 - (address + got) % 256; /* never over the end of a page */
    if (piece > PATH_MAX - 1 - got) piece = PATH_MAX - 1 - got;
    struct iovec here = {into + got, piece}, there = {(void *)(address + got), piece};
    if (process_vm_readv(pid, &here, 1, &there, 1, 0) != (ssize_t)piece) break;
    if (memchr(into + got, '\0', piece)) return;
    got += piece;
  }
  into[got] = '\0';
}

/* The path that a call is about; empty if there is none. */
static void path_of(const struct call *call, const struct seccomp_notif *asked, char *into) {
  char relative[PATH_MAX], base[PATH_MAX];
  if (call->fd >= 0) {
    fd_path(asked->pid, (int)asked->data.args[call->fd], into);
    return;
  }
  int fd = call->dir < 0 ? AT_FDCWD : (int)asked->data.args[call->dir];
  text_at(asked->pid, asked->data.args[call->path], relative);
  if (relative[0] == '/') {
    strcpy(into, relative);
    return;
  }
  if (fd == AT_FDCWD) link_of(asked->pid, "cwd", base);
  else fd_path(asked->pid, fd, base);
  if (relative[0] == '\0') strcpy(into, base);
  else if (snprintf(into, PATH_MAX, "%s/%s", base, relative) >= PATH_MAX) into[0] = '\0';
}

static int error_number(const char *name) {
  static const struct { const char *name; int number; } errors[] = {
    {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EIO", EIO}, {"ESTALE", ESTALE}, {"EACCES", EACCES}, {"ENOENT", ENOENT}, {"EINTR", EINTR},
    {"EROFS", EROFS}, {"EPERM", EPERM}, {"EMFILE", EMFILE}, {"ETIMEDOUT", ETIMEDOUT}, {"ENOLCK", ENOLCK}, {"ENOMEM", ENOMEM}, {"EAGAIN", EAGAIN},
  };
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (strcmp(errors[i].name, name) == 0) return errors[i].number;
  return 0;
}

/* Do half of a write in the program's place. Gives what it would give, or -1 to leave the call alone. */
static long half_write(const struct seccomp_notif *asked) {
  int number = asked->data.nr;
  size_t length = asked->data.args[2] / 2;
  if ((number != SYS_write && number != SYS_pwrite64) || length == 0) return -1;
  int pid_fd = syscall(SYS_pidfd_open, asked->pid, 0);
  if (pid_fd < 0) {
    char status[64], line[256];
    pid_t process = asked->pid; /* a thread: ask for its process */
    snprintf(status, sizeof status, "/proc/%d/status", (int)asked->pid);
    FILE *file = fopen(status, "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "Tgid: %d", &process);
    if (file) fclose(file);
    pid_fd = syscall(SYS_pidfd_open, process, 0);
  }
  int fd = pid_fd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pid_fd, (int)asked->data.args[0], 0);
  long done = -1;
  char *bytes = malloc(length);
  struct iovec here = {bytes, length}, there = {(void *)asked->data.args[1], length};
  if (fd >= 0 && bytes && process_vm_readv(asked->pid, &here, 1, &there, 1, 0) == (ssize_t)length)
    done = number == SYS_write ? write(fd, bytes, length) : pwrite(fd, bytes, length, (off_t)asked->data.args[3]);
  free(bytes);
  if (fd >= 0) close(fd);
  if (pid_fd >= 0) close(pid_fd);
  return done;
}

/* Ask us before each of the calls is made. */
static int install_filter(void) {
  struct sock_filter filter[COUNT + 4];
  size_t n = 0;
  filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (size_t i = 0; i < COUNT; i++)
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, (unsigned char)(COUNT - i), 0);
  filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
  struct sock_fprog program = {(unsigned short)n, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
  return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* The listener goes to the parent over a socket; its sendmsg is no call that we ask for. */
static void send_fd(int socket, int fd) {
  char byte = 0, space[CMSG_SPACE(sizeof fd)] = {0};
  struct iovec data = {&byte, 1};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (sendmsg(socket, &message, 0) < 0) _exit(99);
}

static int receive_fd(int socket) {
  int fd = -1;
  char byte, space[CMSG_SPACE(sizeof fd)];
  struct iovec data = {&byte, 1};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0 || !CMSG_FIRSTHDR(&message)) return -1;
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

/* A moment after it has started. */
static void kill_later(pid_t pid) {
  if (fork() != 0) return;
  usleep(20000);
  kill(pid, SIGKILL);
  _exit(0);
}

/* Outside of the filter: its calls are neither counted nor stopped. */
static void run_script(const char *script) {
  pid_t child = fork();
  if (child == 0) {
    int nowhere = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++) dup2(nowhere, fd);
    execl("/bin/sh", "sh", "-c", script, (char *)NULL);
    _exit(127);
  }
  while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
}

static const struct call *known(int number) {
  for (size_t i = 0; i < COUNT; i++)
    if (calls[i].number == number) return &calls[i];
  return NULL;
}

int main(int argc, char **argv) {
  long chosen = 0, counted = 0, started = 0;
  const char *fault = "EIO", *script = NULL, *meant = NULL, *log_path = NULL;
  int option, of_programs = 0;
  while ((option = getopt(argc, argv, "+ek:m:f:x:l:")) != -1) {
    if (option == 'e') of_programs = 1;
    else if (option == 'k') chosen = atol(optarg);
    else if (option == 'm') meant = optarg;
    else if (option == 'f') fault = optarg;
    else if (option == 'x') script = optarg;
    else if (option == 'l') log_path = optarg;
    else return 99;
  }
  /* getopt stops at the first DIR, or eats the -- */
  dirs = argv + optind;
  while (optind < argc && strcmp(argv[optind], "--") != 0) optind++, dir_count++;
  if (dir_count == 0 || optind + 1 >= argc) return 99;
  char **program = argv + optind + 1;
  FILE *log = log_path ? fopen(log_path, "we") : NULL;

  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets)) die("socketpair");
  pid_t child = fork();
  if (child < 0) die("fork");
  if (child == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = install_filter();
    if (listener < 0) _exit(99);
    send_fd(sockets[1], listener);
    execvp(program[0], program);
    _exit(127);
  }
  close(sockets[1]);
  int listener = receive_fd(sockets[0]);
  if (listener < 0) {
    fprintf(stderr, "fail-call: seccomp has no user notification here\n");
    return 99;
  }
  struct seccomp_notif asked;
  struct seccomp_notif_resp answer;
  char path[PATH_MAX], line[PATH_MAX + 32];
  for (;;) {
    struct pollfd waiting = {listener, POLLIN, 0};
    poll(&waiting, 1, -1);
    if (waiting.revents & POLLHUP && !(waiting.revents & POLLIN)) break; /* the last process has ended */
    memset(&asked, 0, sizeof asked);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked)) {
      if (errno == EINTR || errno == ENOENT) continue;
      break;
    }
    memset(&answer, 0, sizeof answer);
    answer.id = asked.id;
    answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    const struct call *call = known(asked.data.nr);
    path_of(call, &asked, path);
    int is_start = call && call->number == SYS_execve;
    /* The first start is that of the program itself. */
    int is_counted = of_programs ? is_start && access(path, X_OK) == 0 && started++ > 0 : call && !is_start && is_below(path);
    if (is_counted) {
      counted++;
      snprintf(line, sizeof line, "%s %s", call->name, path);
      if (log) fprintf(log, "%ld %s\n", counted, line), fflush(log);
      if (meant && chosen == 0 && strcmp(line, meant) == 0) chosen = counted;
      if (counted == chosen) {
        long half = !script && strcmp(fault, "short") == 0 ? half_write(&asked) : -1;
        if (script) run_script(script);
        else if (strcmp(fault, "kill") == 0) kill(of_programs ? (pid_t)asked.pid : -child, SIGKILL);
        else if (strcmp(fault, "die") == 0) kill_later((pid_t)asked.pid);
        else if (strcmp(fault, "term") == 0) kill(child, SIGTERM);
        else if (strcmp(fault, "int") == 0) kill(child, SIGINT);
        else if (strcmp(fault, "late") == 0) usleep(500000);
        else if (half >= 0) answer.flags = 0, answer.val = half;
        else if (strcmp(fault, "short") != 0) answer.flags = 0, answer.error = -error_number(fault);
      }
    }
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }
  int status;
  struct rusage used;
  wait4(child, &status, 0, &used);
  if (log) fprintf(log, "peak %ld\n", used.ru_maxrss);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
