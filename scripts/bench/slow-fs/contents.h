/* Requests about open files and directories, and extended attributes. Part of ../slow-fs.c. */

static void answer_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file, int fd)
{
	int error = errno_of(fd);
	if (!error)
		note_open(ino, fd);
	depart();
	file->fh = fd;
	file->direct_io = direct != 0;
	if (error)
		fuse_reply_err(req, error);
	else if (fuse_reply_open(req, file) == -ENOENT)
		note_close(ino, fd); /* who asked was killed meanwhile, so no release will come */
}

/* O_NOFOLLOW would refuse the name of a descriptor. O_DIRECT is for the client to mind, not for SOURCE's disk. */
static int flags_of(const struct fuse_file_info *file)
{
	return (file->flags & ~(O_NOFOLLOW | O_DIRECT)) | O_CLOEXEC;
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	fd_name path;
	arrive(OPEN);
	OWNED fd = reach(ino);
	answer_open(req, ino, file, fd < 0 ? -1 : open(NAME_OF_FD(fd, path), flags_of(file)));
}

static void on_create(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, struct fuse_file_info *file)
{
	struct fuse_entry_param entry;
	arrive(CREATE);
	OWNED parent = reach(dir);
	int fd = openat(parent, name, flags_of(file) | O_CREAT | O_NOFOLLOW, mode);
	int error = errno_of(fd);
	if (!error)
		error = hand_over(req, parent, name);
	if (!error)
		error = describe(parent, name, &entry);
	if (error) {
		if (fd >= 0)
			close(fd);
		answer(req, error);
		return;
	}
	note_open(entry.ino, fd);
	depart();
	file->fh = fd;
	file->direct_io = direct != 0;
	if (fuse_reply_create(req, &entry, file) == -ENOENT)
		note_close(entry.ino, fd);
}

static void on_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	note_close(ino, file->fh);
	fuse_reply_err(req, 0);
}

static void on_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	arrive(OPEN);
	OWNED fd = reach(ino);
	int listing = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int error = errno_of(listing);
	depart();
	file->fh = listing;
	if (error)
		fuse_reply_err(req, error);
	else if (fuse_reply_open(req, file) == -ENOENT)
		close(listing);
}

/* The positions are those of SOURCE, so each request can start anew, and what did not fit is simply read again. */
static void on_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t from, struct fuse_file_info *file)
{
	char *raw = malloc(2 * size), *packed = raw + size;
	ssize_t got = -1;
	size_t used = 0;
	bool full = false;
	(void)ino;
	arrive(READDIR);
	if (raw && lseek(file->fh, from, SEEK_SET) >= 0) {
		while (!full && (got = getdents64(file->fh, raw, size)) > 0) {
			for (ssize_t at = 0; at < got && !full;) {
				struct dirent64 *found = (struct dirent64 *)(raw + at);
				struct stat kind = { .st_ino = found->d_ino, .st_mode = DTTOIF(found->d_type) };
				size_t needs = fuse_add_direntry(req, packed + used, size - used, found->d_name, &kind,
								 found->d_off);
				full = needs > size - used;
				used += full ? 0 : needs;
				at += found->d_reclen;
			}
		}
	}
	int error = used == 0 ? errno_of(got) : 0;
	depart();
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_buf(req, packed, used);
	free(raw);
}

static void on_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	(void)ino;
	close(file->fh);
	fuse_reply_err(req, 0);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t from, struct fuse_file_info *file)
{
	static __thread char *bytes; /* kept: a new megabyte for each request costs more than the read */
	static __thread size_t room;
	(void)ino;
	arrive(READ);
	if (size > room) {
		free(bytes);
		bytes = malloc(size);
		room = bytes ? size : 0;
	}
	ssize_t got = bytes ? pread(file->fh, bytes, size, from) : -1;
	int error = errno_of(got);
	carry(READ, error ? 0 : got);
	depart();
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_buf(req, bytes, got);
}

static void on_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t at,
		     struct fuse_file_info *file)
{
	(void)ino;
	arrive(WRITE);
	carry(WRITE, size);
	ssize_t written = pwrite(file->fh, bytes, size, at);
	int error = errno_of(written);
	depart();
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_write(req, written);
}

static void on_fsync(fuse_req_t req, fuse_ino_t ino, int only_data, struct fuse_file_info *file)
{
	(void)ino;
	arrive(FLUSH);
	answer(req, errno_of(only_data ? fdatasync(file->fh) : fsync(file->fh)));
}

static void on_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t from, off_t length,
			 struct fuse_file_info *file)
{
	(void)ino;
	arrive(FLUSH);
	answer(req, errno_of(fallocate(file->fh, mode, from, length)));
}

static void on_lseek(fuse_req_t req, fuse_ino_t ino, off_t from, int whence, struct fuse_file_info *file)
{
	(void)ino;
	arrive(SEEK);
	off_t found = lseek(file->fh, from, whence); /* SEEK_DATA or SEEK_HOLE; the kernel does the others itself */
	int error = errno_of(found);
	depart();
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_lseek(req, found);
}

/* Who waits for a lock holds no place, or the one who is to free it might get none. Polling, so that a signal ends it. */
static void on_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file, int how)
{
	(void)ino;
	arrive(LOCK);
	depart();
	int error;
	while ((error = errno_of(flock(file->fh, how | LOCK_NB))) == EWOULDBLOCK && !(how & LOCK_NB)) {
		if (fuse_req_interrupted(req)) {
			error = EINTR;
			break;
		}
		sleep_until(now_ns() + 2000000);
	}
	fuse_reply_err(req, error);
}

/* --------------------------------------------------------------- extended attributes, one of them the counters' window */

#define WINDOW "user.slow-fs"

static bool is_window(fuse_ino_t ino, const char *name)
{
	return ino == FUSE_ROOT_ID && strcmp(name, WINDOW) == 0;
}

/* `size` 0 asks how long the value is. */
static void reply_value(fuse_req_t req, int error, const char *value, ssize_t length, size_t size)
{
	if (!error && size > 0 && (size_t)length > size)
		error = ERANGE;
	if (error)
		fuse_reply_err(req, error);
	else if (size == 0)
		fuse_reply_xattr(req, length);
	else
		fuse_reply_buf(req, value, length);
}

static void on_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	if (is_window(ino, name)) {
		char text[1024];
		int length = report(text, sizeof text);
		reply_value(req, 0, text, length, size);
		return;
	}
	/* The kernel asks a FUSE for this one at each write(2); a network file system is not asked. */
	bool counts = strcmp(name, "security.capability") != 0;
	char value[XATTR_SIZE_MAX];
	fd_name path;
	if (counts)
		arrive(XATTR);
	OWNED fd = reach(ino);
	ssize_t length = getxattr(NAME_OF_FD(fd, path), name, value, size);
	int error = errno_of(length);
	if (counts)
		depart();
	reply_value(req, error, value, length, size);
}

static void on_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	char names[XATTR_LIST_MAX];
	fd_name path;
	arrive(XATTR);
	OWNED fd = reach(ino);
	ssize_t length = listxattr(NAME_OF_FD(fd, path), names, size);
	int error = errno_of(length);
	depart();
	reply_value(req, error, names, length, size);
}

static void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int how)
{
	if (is_window(ino, name)) {
		start_from_zero();
		fuse_reply_err(req, 0);
		return;
	}
	fd_name path;
	arrive(XATTR);
	OWNED fd = reach(ino);
	answer(req, errno_of(setxattr(NAME_OF_FD(fd, path), name, value, size, how)));
}

static void on_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	fd_name path;
	arrive(XATTR);
	OWNED fd = reach(ino);
	answer(req, errno_of(removexattr(NAME_OF_FD(fd, path), name)));
}
