#!/bin/sh
# Give the tests a real apptainer, images to build from, a container registry, and Environment Modules. setup-tests.sh
# calls it, after it has installed debootstrap and skopeo.
#
# Everything lies in node_modules/.cache/apptainer; nothing else of the machine is changed. Where it has no apptainer of
# its own, Debian's is used, which only the unstable suite has. Its libc is too new for other suites, so it gets a root
# of its own (debootstrap), which a wrapper enters in a user and mount namespace. Debian and root are needed for that.
#
# What cannot be had is named at the end, with what is skipped because of it; it is never an error here. Nothing is done,
# and nothing is printed, when everything is there. Each thing is made under another name and then renamed, so what is
# there is whole.
set -u
cd -- "$(dirname -- "$0")/.." || exit 1

recipe=1 # another number: everything is made again
cache=$PWD/node_modules/.cache
dir=$cache/apptainer
log=$cache/setup-apptainer.log
apptainer=$dir/bin/apptainer
# The images must hold the Python of the environments that tests make; see setup-tests.sh.
test_path=/usr/local/bin:/usr/bin:/bin # what programs find in a test
test_python=$(PATH=$test_path command -v python3)
minor=$("${test_python:-false}" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
codename=$(. /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}")

# What this script makes, below $dir.
images="sandbox base.sif nopython.sif"
archives="base.oci.tar base.docker.tar registry"
packages="environment-modules"

have() {
  for name in "$@"; do [ -e "$dir/$name" ] || return 1; done
}

have_apptainer() {
  have $images && PATH=$test_path "$apptainer" --version >/dev/null 2>&1
}

is_made() {
  [ -e "$dir/.for-$recipe-$minor" ] && have_apptainer && have $archives $packages
}

# make NAME COMMAND...: run it with the name to make appended; it may fail, and then nothing is there.
make() {
  name=$1
  shift
  have "$name" && return
  mkdir -p "$(dirname "$dir/$name")"
  "$@" "$dir/$name.tmp" >>"$log.${name##*/}" 2>&1 </dev/null && mv "$dir/$name.tmp" "$dir/$name" && return
  rm -rf --one-file-system "$dir/$name.tmp"
  return 1
}

# The mirror that this machine's apt uses, for there may be no other that it reaches.
mirror() {
  apt-get indextargets --format '$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n "s/^Debian|$codename|main|//p" | head -n 1
}

# debootstrap, in a mount namespace: one that is killed leaves no /proc in a directory that is removed later. There the
# directory is /mnt, for debootstrap takes no path with a space.
bootstrap() {
  suite=$1 include=$2 root=$3
  mkdir "$root" && unshare --mount sh -c 'mount --bind -- "$1" /mnt && shift && exec debootstrap "$@"' sh "$root" \
    --variant=minbase --include="$include" "$suite" /mnt "$mirror" || return 1
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/man \
    "$root"/usr/share/locale
}

# squashfuse: images are mounted instead of unpacked at each run.
make_root() {
  bootstrap unstable apptainer,squashfuse "$1" || return 1
  echo '127.0.0.1 localhost' >"$1/etc/hosts"
  : >"$1/etc/resolv.conf"
}

# An image of this machine's own suite. Without what only makes it large: each build compresses all of it again. And
# without device nodes: nobody may make those in a user namespace.
make_sandbox() {
  bootstrap "$codename" python3 "$1" || return 1
  rm -rf "$1"/dev/* "$1"/usr/lib/*/gconv "$1"/usr/lib/*/perl-base "$1"/usr/bin/perl* "$1"/usr/share/zoneinfo \
    "$1"/var/lib/dpkg/info "$1"/var/cache/debconf
  [ -x "$1/usr/bin/python$minor" ] || { echo "$codename has no Python $minor"; return 1; }
}

# The files of a package, which needs no root and starts no service.
unpack() {
  package=$1 to=$2
  mkdir "$to.deb" && chmod 755 "$to.deb" && (cd "$to.deb" && apt-get -q download "$package") &&
    dpkg -x "$to.deb/$package"_*.deb "$to"
  code=$?
  rm -rf "$to.deb"
  return $code
}

# The machine's apptainer if it can run something here, else a wrapper around Debian's.
make_apptainer() {
  if [ -n "$own" ]; then
    printf '#!/bin/sh\nexec %s "$@"\n' "$(quoted "$own")" >"$1"
  else
    write_wrapper >"$1"
  fi
  chmod 755 "$1" && PATH=$test_path "$1" exec "$dir/sandbox" python3 --version
}

quoted() {
  printf "'"
  printf %s "$1" | sed "s/'/'\\\\''/g"
  printf "'"
}

write_wrapper() {
  cat <<END
#!/bin/sh
# Debian's apptainer in its own root, with the directories of this machine at the same paths.
export EF_ROOT=$(quoted "$dir/root")
END
  cat <<'END'
export EF_CWD="$PWD"
export PATH="$PATH:/usr/sbin:/sbin" # pivot_root, which users need not find

# In a user namespace root has every capability, whatever this machine's root lacks. All ids are mapped, or unpacking an
# image fails when it gives files to others than root. Only a process outside the namespace may write that map: one that
# waits until this process has become unshare. It is nobody's child, so nobody has to wait for it.
(
  (
    tries=0
    until printf '0 0 65536' >/proc/$$/gid_map && printf '0 0 65536' >/proc/$$/uid_map || [ $tries = 500 ]; do
      tries=$((tries + 1))
      sleep 0.01
    done
  ) </dev/null >/dev/null 2>&1 &
)

# The first shell runs before there is a map, so it has no capability; the second gets them all. apptainer refuses to run
# below chroot(2) ("weak chrooted environment"), hence pivot_root(2). The working directory stays.
exec unshare --user --mount --propagation private sh -c '
  tries=0
  until read -r _ </proc/self/uid_map || [ $tries = 500 ]; do
    tries=$((tries + 1))
    sleep 0.01
  done
  exec sh -c "$@"
' sh '
  mount --bind "$EF_ROOT" "$EF_ROOT" || exit
  for dir in /* /var/tmp; do
    case $dir in /bin | /sbin | /lib* | /usr | /etc | /var | /boot | /run | /lost+found) continue ;; esac
    if [ -d "$dir" ]; then mkdir -p "$EF_ROOT$dir" && mount --rbind "$dir" "$EF_ROOT$dir" || exit; fi
  done
  # This root is itself below one of those directories, where it has been copied with all that was mounted in it so far.
  umount -l "$EF_ROOT$EF_ROOT" 2>/dev/null
  cd "$EF_ROOT" && mkdir -p .host && pivot_root . .host && umount -l /.host || exit
  cd "$EF_CWD" 2>/dev/null || cd /
  unset EF_ROOT EF_CWD
  exec /usr/bin/apptainer "$@"
' sh "$@"
END
}

# build FROM OUT: quick rather than small.
build() {
  "$apptainer" build --force --mksquashfs-args "-comp gzip -Xcompression-level 1" "$2" "$1"
}

make_nopython() {
  tree=$1.tree
  rm -rf "$tree"
  mkdir -p "$tree/bin" "$tree/etc" "$tree/tmp" && cp "$dir"/busybox-static/bin/busybox "$tree/bin/" &&
    for tool in sh ls cat cp mv rm mkdir ln tar gzip sed env id chmod true; do
      ln -s busybox "$tree/bin/$tool" || return 1
    done && build "$tree" "$1"
  code=$?
  rm -rf "$tree"
  return $code
}

make_oci() {
  umoci=$dir/umoci/usr/bin/umoci
  "$umoci" init --layout "$1" && "$umoci" new --image "$1:$minor-slim" &&
    "$umoci" insert --image "$1:$minor-slim" "$dir/sandbox" / &&
    "$umoci" config --image "$1:$minor-slim" --config.cmd python3
}

# make_archive FORMAT OUT
make_archive() {
  skopeo --insecure-policy copy "oci:$dir/oci:$minor-slim" "$1:$2:python:$minor-slim"
}

# What a registry stores, put there by a registry.
make_registry() {
  mkdir "$1" && cat >"$1.yml" <<END || return 1
version: 0.1
storage: {filesystem: {rootdirectory: $(quoted_yaml "$1")}}
http: {addr: "127.0.0.1:0"}
END
  timeout 60 "$dir/docker-registry/usr/bin/docker-registry" serve "$1.yml" >"$1.said" 2>&1 &
  registry=$!
  tries=0
  until port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$1.said") && [ -n "$port" ] ||
    [ $tries = 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
  done
  skopeo --insecure-policy copy --dest-tls-verify=false "oci:$dir/oci:$minor-slim" \
    "docker://127.0.0.1:$port/python:$minor-slim"
  code=$?
  kill "$registry"
  wait "$registry" 2>/dev/null
  rm -f "$1.yml" "$1.said"
  return $code
}

quoted_yaml() {
  printf '"'
  printf %s "$1" | sed 's/[\\"]/\\&/g'
  printf '"'
}

# The reason why there can be no apptainer; empty if it can be made.
obstacle() {
  if [ -z "$minor" ]; then
    echo "it needs python3"
  elif [ -z "$codename" ] || [ "$(id -u)" != 0 ]; then
    echo "it needs Debian and root"
  elif ! [ -x /usr/sbin/debootstrap ]; then
    echo "it needs debootstrap"
  elif ! unshare --user --mount true 2>/dev/null; then
    echo "it needs user namespaces"
  elif [ -z "$mirror" ]; then
    echo "apt has no mirror of Debian $codename"
  fi
}

make_all() {
  rm -rf --one-file-system "$dir"/*.tmp* "$dir"/bin/*.tmp
  [ -e "$dir/.for-$recipe-$minor" ] || rm -rf --one-file-system "$dir"
  mkdir -p "$dir"
  touch "$dir/.for-$recipe-$minor"
  rm -f "$log".*

  mirror=$(mirror)
  if [ -z "$mirror" ] && [ "$(id -u)" = 0 ] && [ -n "$codename" ]; then
    apt-get -q update >>"$log.update" 2>&1 </dev/null
    mirror=$(mirror)
  fi
  reason=$(obstacle)
  if [ -z "$reason" ]; then
    echo "Making apptainer and images (log: $log.*) ..." >&2
    make sandbox make_sandbox &
    own=$(command -v apptainer)
    if [ -z "$own" ]; then make root make_root & fi
  fi
  for package in environment-modules busybox-static umoci docker-registry; do make "$package" unpack "$package"; done
  wait
  [ -z "$reason" ] || return

  # A cluster's own may be there and be of no use, where it is not set up for this user.
  if ! make bin/apptainer make_apptainer && [ -n "$own" ]; then
    own=
    make root make_root
    make bin/apptainer make_apptainer
  fi
  have bin/apptainer || return
  make base.sif build "$dir/sandbox"
  make nopython.sif make_nopython
  have $archives || make oci make_oci
  make base.oci.tar make_archive oci-archive
  make base.docker.tar make_archive docker-archive
  make registry make_registry
  if have $archives; then rm -rf "$dir/oci"; fi
}

is_made && exit
mkdir -p "$cache"
# One at a time, where there is flock; what a killed one left running holds the lock too.
exec 9>"$dir.lock"
if command -v flock >/dev/null; then flock 9; fi
reason=
is_made || make_all

have_apptainer ||
  echo "Missing: apptainer (${reason:-see $log.*}). Skipped: every test that builds or runs an image" >&2
have $archives ||
  echo "Missing: a container registry (Debian: skopeo umoci docker-registry). Skipped: images from it and archives" >&2
have $packages || echo "Missing: Debian's environment-modules. Skipped: what ef reads of its modules" >&2
