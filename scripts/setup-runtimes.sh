#!/bin/sh
# Fetch the runtimes that the built library is tested in, besides Bun and the machine's own Node, from the npm registry:
# Node 20, Node 22 and Deno, each one executable below node_modules/.cache/runtimes. Nothing of their packages is run.
#
# What cannot be had is named at the end, with what is skipped because of it; it is never an error here. Nothing is done,
# and nothing is printed, when everything is there.
set -u
cd -- "$(dirname -- "$0")/.." || exit 1

runtimes=node_modules/.cache/runtimes
log=node_modules/.cache/setup-runtimes.log
mkdir -p "$runtimes"

case $(uname -m) in
  x86_64) node=x64 deno=x64-glibc ;;
  aarch64) node=arm64 deno=arm64-glibc ;;
  *) node=unknown deno=unknown ;;
esac

# name | package | the executable in it
wanted() {
  cat <<END
node-20|node-linux-$node@20.20.2|bin/node
node-22|node-linux-$node@22.23.3|bin/node
deno|@deno/linux-$deno@2.9.6|deno
END
}

# Under a temporary name until it has run once, and marked with what it is: another version is another mark.
fetch() {
  temporary=$(mktemp -d "$runtimes/fetch-XXXXXX") || return 1
  echo "Fetching $2 from the npm registry (log: $log) ..." >&2
  (cd "$temporary" && npm pack --silent "$2" && tar -xzf ./*.tgz "package/$3") >>"$log" 2>&1 </dev/null &&
    chmod 755 "$temporary/package/$3" && "$temporary/package/$3" --version >>"$log" 2>&1 &&
    mv -f "$temporary/package/$3" "$runtimes/$1" && echo "$2" >"$runtimes/$1.version"
  code=$?
  rm -rf "$temporary"
  return $code
}

wanted | while IFS='|' read -r name package executable; do
  [ -x "$runtimes/$name" ] && [ "$(cat "$runtimes/$name.version" 2>/dev/null)" = "$package" ] && continue
  fetch "$name" "$package" "$executable" || echo "Missing: $package. Skipped: the library in $name" >&2
done
