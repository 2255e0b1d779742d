#!/bin/sh
# Install the outside programs that the tests use, as far as this machine allows: shells, rsync, a C compiler for small
# preload libraries; from PyPI euler-files, with which ef shares its files, uv, kslurm, whose archives ef loads, and some
# wheels, from which the tests make environments.
#
# What cannot be had is named at the end, with what is skipped because of it; it is never an error here. Nothing is done,
# and nothing is printed, when everything is there.
set -u
cd -- "$(dirname -- "$0")/.." || exit 1

cache=node_modules/.cache
venv=$cache/py
log=$cache/setup-tests.log
euler_files=euler-files==1.1.0
uv=uv==0.13.9
kslurm=kslurm==0.6.4
clustrix=clustrix==0.1.1
wheels=$cache/wheels
# Binaries, console scripts, a launcher that is no Python (ruff), packages without any binary.
packages="pip setuptools wheel numpy ruff black ipython six"

# First, since it may delete and remake node_modules, and with it the cache.
sh scripts/with-bun --version >/dev/null || exit 1
mkdir -p "$cache"

# check name | Debian packages | what is skipped without it. `check` is a command, or a file if it has a slash.
tools() {
  cat <<'END'
rsync                |rsync              |every test that copies with rsync
zsh                  |zsh                |exports and completions in zsh
fish                 |fish               |exports and completions in fish
ksh                  |ksh93u+m           |exports in ksh
csh                  |tcsh               |exports in csh
tmux                 |tmux               |the wizard and progress bars on a terminal
strace               |strace             |counting what is read and written
hyperfine            |hyperfine          |nothing; it is for measuring by hand
faketime             |faketime           |clocks that are wrong
setfacl              |acl                |ACLs
setfattr             |attr               |extended attributes
fusermount3          |fuse3              |the slow file system of the benchmark
pkg-config           |pkg-config         |the slow file system of the benchmark
/usr/include/fuse3/fuse_lowlevel.h|libfuse3-dev|the slow file system of the benchmark
gcc                  |gcc libc6-dev      |failures of system calls made by preloaded libraries
/usr/include/stdio.h |libc6-dev          |failures of system calls made by preloaded libraries
ps                   |procps             |looking for processes left behind
zstd                 |zstd               |archives by the zstd program
python3              |python3 python3-venv|every test beside euler-files, and with environments
/usr/sbin/mkfs.btrfs |btrfs-progs        |a real quota
/usr/sbin/debootstrap|debootstrap         |apptainer and images, where the machine has no apptainer of its own
skopeo               |skopeo             |images from a registry and from archives
/usr/share/lmod/lmod/libexec/lmod|lmod    |the modules of Lmod
/usr/sbin/slurmctld  |slurm-wlm          |every test on Slurm
/usr/sbin/munged     |munge              |every test on Slurm
ssh                  |openssh-client     |every test over ssh
/usr/sbin/sshd       |openssh-server     |every test over ssh
busybox              |busybox            |files of clusters whose programs are small
END
}

there() {
  case $1 in
    */*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
  esac
}

# The lines of `tools` that are not there.
missing_tools() {
  tools | while IFS='|' read -r check packages skipped; do
    check=${check%% *}
    there "$check" || printf '%s|%s|%s\n' "$check" "$packages" "$skipped"
  done
}

# How to become root, if we can: nothing to do, `sudo -n`, or not at all.
as_root=none
if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  as_root="sudo -n"
fi

apt() {
  # Another apt-get may be at work on a machine that has just started.
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" >>"$log" 2>&1 </dev/null
}

updated=no
apt_install() {
  [ "$as_root" != none ] && command -v apt-get >/dev/null || return 1
  echo "Installing $* by apt-get (log: $log) ..." >&2
  [ "$updated" = yes ] || apt update
  updated=yes
  apt install --no-install-recommends "$@" && return
  # One package that does not exist here must not cost us the others.
  for package in "$@"; do apt install --no-install-recommends "$package"; done
}

have_packages() {
  [ -e "$venv/.installed-$euler_files-$uv-$kslurm" ] && [ -x "$venv/bin/uv" ]
}

# A virtual environment, so an "externally managed" Python is no obstacle. Debian's python3 cannot put pip into it without
# the package python3-venv; then another pip may be told to install into it from outside.
install_packages() {
  rm -rf "$venv"
  echo "Installing $euler_files, $uv and $kslurm from PyPI (log: $log) ..." >&2
  {
    { python3 -m venv "$venv" && "$venv/bin/python" -m pip install --quiet "$euler_files" "$uv" "$kslurm"; } ||
      { python3 -m venv --clear --without-pip "$venv" &&
        python3 -m pip --python "$venv/bin/python" install --quiet "$euler_files" "$uv" "$kslurm"; }
  } >>"$log" 2>&1 </dev/null || return 1
  touch "$venv/.installed-$euler_files-$uv-$kslurm"
}

# The Python that the tests find: their PATH holds these directories only.
test_python=$(PATH=/usr/local/bin:/usr/bin:/bin command -v python3)

have_wheels() {
  [ -e "$wheels/.for-$packages" ]
}

get_wheels() {
  echo "Downloading wheels of $packages (log: $log) ..." >&2
  {
    # shellcheck disable=SC2086 # a list of packages
    rm -rf "$wheels" "$wheels.py" && "$test_python" -m venv "$wheels.py" &&
      "$wheels.py/bin/python" -m pip download --quiet --only-binary :all: --dest "$wheels" $packages
  } >>"$log" 2>&1 </dev/null || return 1
  rm -rf "$wheels.py"
  touch "$wheels/.for-$packages"
}

have_clustrix() {
  [ -e "$cache/clustrix/.installed-$clustrix" ]
}

# In an environment of its own: the tests pack its documentation's examples by both.
install_clustrix() {
  echo "Installing $clustrix from PyPI (log: $log) ..." >&2
  {
    rm -rf "$cache/clustrix" && "$test_python" -m venv "$cache/clustrix" &&
      "$cache/clustrix/bin/python" -m pip install --quiet "$clustrix"
  } >>"$log" 2>&1 </dev/null || return 1
  touch "$cache/clustrix/.installed-$clustrix"
}

missing=$(missing_tools)
if [ -n "$missing" ]; then
  # shellcheck disable=SC2046 # a list of packages
  apt_install $(printf '%s\n' "$missing" | cut -d '|' -f 2 | tr ' ' '\n' | sort -u)
fi

if ! have_packages && there python3; then
  install_packages || { apt_install python3-venv python3-pip && install_packages; }
fi
if ! have_wheels && [ -n "$test_python" ]; then
  get_wheels || { apt_install python3-venv python3-pip && get_wheels; }
fi

have_clustrix || [ -z "$test_python" ] || install_clustrix

missing_tools | while IFS='|' read -r check packages skipped; do
  echo "Missing: $check (Debian: $(echo $packages)). Skipped: $skipped" >&2
done
have_packages || echo "Missing: $euler_files, $uv, $kslurm. Skipped: every test beside euler-files and kslurm, and with uv" >&2
have_clustrix || echo "Missing: $clustrix. Skipped: packages beside it" >&2
have_wheels || echo "Missing: wheels of $packages. Skipped: every test with environments" >&2

sh scripts/setup-apptainer.sh
sh scripts/setup-runtimes.sh
