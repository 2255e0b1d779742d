/* What the kernel knows by a number, and the answers it gets. Part of ../slow-fs.c. */

/*
 * Kept by file handle, not by descriptor (a tree may have more files than a process may open) and not by path (it may be
 * renamed). The handle is the identity: all hard links of a file have the same one, and it says whether an inode number
 * is in use for the second time. A handle of a file that is unlinked but open cannot be opened any more, hence `anchor`.
 */
struct object {
	struct object *next;
	uint64_t known; /* how often the kernel was told of it and has not forgotten */
	int opened;
	int anchor; /* a descriptor, while `opened` is above 0 */
	struct file_handle handle; /* last: its bytes follow */
};

#define SLOTS (1 << 20)
static struct object *objects[SLOTS];
static pthread_mutex_t objects_mutex = PTHREAD_MUTEX_INITIALIZER;
static int root_fd;
static dev_t root_dev;

/* A descriptor that is closed when the variable goes out of scope. */
#define OWNED __attribute__((cleanup(close_owned))) int
static void close_owned(int *fd)
{
	int kept = errno;
	if (*fd >= 0)
		close(*fd);
	errno = kept;
}

static struct object **slot_of(const struct file_handle *handle)
{
	uint64_t hash = 14695981039346656037u; /* FNV-1a */
	for (unsigned i = 0; i < handle->handle_bytes; i++)
		hash = (hash ^ handle->f_handle[i]) * 1099511628211u;
	return &objects[(hash ^ hash >> 32) % SLOTS];
}

static bool same_handle(const struct file_handle *a, const struct file_handle *b)
{
	return a->handle_type == b->handle_type && a->handle_bytes == b->handle_bytes &&
	       memcmp(a->f_handle, b->f_handle, a->handle_bytes) == 0;
}

/* An O_PATH (or better) descriptor of an object, for the caller to close; -1 and errno. */
static int reach(fuse_ino_t ino)
{
	if (ino == FUSE_ROOT_ID)
		return dup(root_fd);
	struct object *object = (struct object *)ino;
	pthread_mutex_lock(&objects_mutex);
	int fd = object->opened > 0 ? dup(object->anchor) : -1;
	pthread_mutex_unlock(&objects_mutex);
	return fd >= 0 ? fd : open_by_handle_at(root_fd, &object->handle, O_PATH | O_CLOEXEC);
}

/*
 * An object that is gone cannot be reached, and what is then tried on descriptor -1 gives EBADF, which nothing else gives
 * here. A server says ESTALE, and the kernel looks the path up once more.
 */
static int errno_of(long long result)
{
	if (result >= 0)
		return 0;
	return errno == EBADF ? ESTALE : errno;
}

/* Some system calls take no O_PATH descriptor, but all take this name of it, which leads to a symlink itself. */
#define NAME_OF_FD(fd, text) (snprintf(text, sizeof text, "/proc/self/fd/%d", fd), text)
typedef char fd_name[32];

/* Fill in what the kernel wants to know of a name, and note that it knows the object from now on. Returns an errno. */
static int describe(int dir, const char *name, struct fuse_entry_param *entry)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} found = { .handle.handle_bytes = MAX_HANDLE_SZ };
	int mount_id;
	memset(entry, 0, sizeof *entry);
	entry->attr_timeout = entry->entry_timeout = cache_s;
	OWNED fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstatat(fd, "", &entry->attr, AT_EMPTY_PATH) < 0)
		return errno_of(-1);
	if (entry->attr.st_dev != root_dev)
		return EXDEV; /* another file system is mounted there */
	if (name_to_handle_at(fd, "", &found.handle, &mount_id, AT_EMPTY_PATH) < 0)
		return errno;

	struct object **slot = slot_of(&found.handle);
	pthread_mutex_lock(&objects_mutex);
	struct object *object = *slot;
	while (object && !same_handle(&object->handle, &found.handle))
		object = object->next;
	if (!object && (object = calloc(1, sizeof *object + found.handle.handle_bytes))) {
		memcpy(&object->handle, &found, sizeof found.handle + found.handle.handle_bytes);
		object->next = *slot;
		*slot = object;
	}
	if (object)
		object->known++;
	pthread_mutex_unlock(&objects_mutex);
	entry->ino = (fuse_ino_t)object;
	return object ? 0 : ENOMEM;
}

static void on_forget(fuse_req_t req, fuse_ino_t ino, uint64_t times)
{
	struct object *object = (struct object *)ino;
	pthread_mutex_lock(&objects_mutex);
	if (ino != FUSE_ROOT_ID && (object->known -= times) == 0) {
		struct object **link = slot_of(&object->handle);
		while (*link != object)
			link = &(*link)->next;
		*link = object->next;
		free(object);
	}
	pthread_mutex_unlock(&objects_mutex);
	fuse_reply_none(req);
}

static void note_open(fuse_ino_t ino, int fd)
{
	struct object *object = (struct object *)ino;
	pthread_mutex_lock(&objects_mutex);
	if (object->opened++ == 0)
		object->anchor = dup(fd);
	pthread_mutex_unlock(&objects_mutex);
}

static void note_close(fuse_ino_t ino, int fd)
{
	struct object *object = (struct object *)ino;
	pthread_mutex_lock(&objects_mutex);
	if (--object->opened == 0)
		close(object->anchor);
	pthread_mutex_unlock(&objects_mutex);
	close(fd);
}

/* -------------------------------------------------------------------------------------------------------- the answers */

static void answer(fuse_req_t req, int error)
{
	depart();
	fuse_reply_err(req, error);
}

static void answer_attr(fuse_req_t req, int fd)
{
	struct stat attr;
	int error = errno_of(fstatat(fd, "", &attr, AT_EMPTY_PATH));
	depart();
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_attr(req, &attr, cache_s);
}

static void answer_entry(fuse_req_t req, int dir, const char *name, int error)
{
	struct fuse_entry_param entry;
	if (!error)
		error = describe(dir, name, &entry);
	depart();
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_entry(req, &entry);
}

/* What a request made belongs to who asked, not to root; a set-group-ID directory has already given it its own group. */
static int hand_over(fuse_req_t req, int dir, const char *name)
{
	const struct fuse_ctx *caller = fuse_req_ctx(req);
	struct stat parent;
	if (caller->uid == 0 && caller->gid == 0)
		return 0;
	if (fstatat(dir, "", &parent, AT_EMPTY_PATH) < 0)
		return errno;
	gid_t group = parent.st_mode & S_ISGID ? (gid_t)-1 : caller->gid;
	return errno_of(fchownat(dir, name, caller->uid, group, AT_SYMLINK_NOFOLLOW));
}

static void answer_made(fuse_req_t req, int dir, const char *name, int result)
{
	int error = errno_of(result);
	answer_entry(req, dir, name, error ? error : hand_over(req, dir, name));
}
