/* Requests about names and attributes. Part of ../slow-fs.c. */

static void on_lookup(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	arrive(LOOKUP);
	OWNED parent = reach(dir);
	answer_entry(req, parent, name, errno_of(parent));
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	(void)file;
	arrive(GETATTR);
	OWNED fd = reach(ino);
	answer_attr(req, fd);
}

static struct timespec new_time(int what, int set, int now, struct timespec given)
{
	if (!(what & set))
		given.tv_nsec = UTIME_OMIT;
	else if (what & now)
		given.tv_nsec = UTIME_NOW;
	return given;
}

static int change(int fd, const struct stat *to, int what, const struct fuse_file_info *file)
{
	fd_name path;
	NAME_OF_FD(fd, path);
	/* The owner first: changing it takes the set-user-ID bit away, which a new mode may bring. The times last. */
	if (what & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		uid_t user = what & FUSE_SET_ATTR_UID ? to->st_uid : (uid_t)-1;
		gid_t group = what & FUSE_SET_ATTR_GID ? to->st_gid : (gid_t)-1;
		if (fchownat(fd, "", user, group, AT_EMPTY_PATH) < 0)
			return errno;
	}
	if (what & FUSE_SET_ATTR_MODE && chmod(path, to->st_mode & 07777) < 0)
		return errno;
	if (what & FUSE_SET_ATTR_SIZE && (file ? ftruncate(file->fh, to->st_size) : truncate(path, to->st_size)) < 0)
		return errno;
	struct timespec times[] = {
		new_time(what, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW, to->st_atim),
		new_time(what, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW, to->st_mtim),
	};
	return errno_of(utimensat(fd, "", times, AT_EMPTY_PATH));
}

static void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *to, int what, struct fuse_file_info *file)
{
	arrive(SETATTR);
	OWNED fd = reach(ino);
	int error = fd < 0 ? errno : change(fd, to, what, file);
	if (error)
		answer(req, error);
	else
		answer_attr(req, fd);
}

static void on_mknod(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, dev_t device)
{
	arrive(CREATE);
	OWNED parent = reach(dir);
	answer_made(req, parent, name, mknodat(parent, name, mode, device));
}

static void on_mkdir(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode)
{
	arrive(MKDIR);
	OWNED parent = reach(dir);
	answer_made(req, parent, name, mkdirat(parent, name, mode));
}

static void on_symlink(fuse_req_t req, const char *to, fuse_ino_t dir, const char *name)
{
	arrive(LINK);
	OWNED parent = reach(dir);
	answer_made(req, parent, name, symlinkat(to, parent, name));
}

static void on_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t dir, const char *name)
{
	arrive(LINK);
	OWNED fd = reach(ino);
	OWNED parent = reach(dir);
	answer_entry(req, parent, name, errno_of(linkat(fd, "", parent, name, AT_EMPTY_PATH)));
}

static void on_unlink(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	arrive(REMOVE);
	OWNED parent = reach(dir);
	answer(req, errno_of(unlinkat(parent, name, 0)));
}

static void on_rmdir(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	arrive(REMOVE);
	OWNED parent = reach(dir);
	answer(req, errno_of(unlinkat(parent, name, AT_REMOVEDIR)));
}

static void on_rename(fuse_req_t req, fuse_ino_t dir, const char *name, fuse_ino_t to, const char *new, unsigned how)
{
	arrive(RENAME);
	OWNED old_parent = reach(dir);
	OWNED new_parent = reach(to);
	answer(req, errno_of(renameat2(old_parent, name, new_parent, new, how)));
}

static void on_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char text[PATH_MAX + 1];
	arrive(READLINK);
	OWNED fd = reach(ino);
	ssize_t length = readlinkat(fd, "", text, PATH_MAX);
	if (length < 0) {
		answer(req, errno);
		return;
	}
	text[length] = 0;
	depart();
	fuse_reply_readlink(req, text);
}

static void on_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs space;
	arrive(STATFS);
	OWNED fd = reach(ino);
	int error = errno_of(fstatvfs(fd, &space));
	depart();
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_statfs(req, &space);
}
