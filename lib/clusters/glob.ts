/**
 * `glob.glob(pattern, root_dir=…, recursive=True)` of Python, over a host: what may match is listed there by the shell and `find`, in one call,
 * and what does match is decided here, so that no program there has a say in it.
 *
 * Two things differ: `**` does not enter a link to a directory that it is in already, where Python goes round forty times, and no `..` can follow it.
 */
import { quote } from "../base/shell.ts";
import { forShell, matches, type Pattern, pattern } from "./fnmatch.ts";

export interface Glob {
  isAbsolute: boolean;
  /** Ends in a slash: directories only. */
  onlyDirs: boolean;
  parts: readonly Pattern[];
}

export function glob(text: string): Glob {
  const parts = text.split("/").filter((part) => part !== "");
  return { isAbsolute: text.startsWith("/"), onlyDirs: text.endsWith("/"), parts: parts.map(pattern) };
}

const isRecursive = ({ text }: Pattern) => text === "**";
const isHidden = (name: string) => name.startsWith(".");

/** How many parts stand before the first `**`: these the shell expands. */
const beforeRecursion = ({ parts }: Glob): number => {
  const at = parts.findIndex(isRecursive);
  return at < 0 ? parts.length : at;
};

/**
 * A script: `$1` is the directory. It prints names, each with a NUL before it that says of what kind it is (`d` directory, `f` something else),
 * for the parts before the first `**` all that the shell finds; and if there is one, all below these.
 *
 * `find -L` leaves out links that lead to a directory above, or to themselves: hence the list of all links, as `l`.
 */
export function globScript(wanted: Glob): string {
  const count = beforeRecursion(wanted);
  const root = wanted.isAbsolute ? "/" : "./";
  const words = wanted.parts.slice(0, count).map((part) => (part.isMagic ? forShell(part) : quote("bash", part.text)));
  const expanded = count === 0 ? (wanted.isAbsolute ? "/" : ".") : root + words.join("/");
  const below = count < wanted.parts.length;
  // Hidden directories are entered only by a part that begins with a dot.
  const prune = wanted.parts.slice(count).some(({ text }) => isHidden(text)) ? "" : "-name '.?*' -prune -o ";
  const list = (kind: string, how: string, test: string) =>
    `printf '${kind}\\0'; find ${how} "$f" -mindepth 1 ${prune}${test} 2>/dev/null; printf '\\0'`;
  const tell = `if [ -d "$f" ]; then printf "d%s\\0" "$f"; else printf "f%s\\0" "$f"; fi`;
  const links = `-type l -exec sh -c 'for f do ${tell}; done' sh {} +`;
  const lists = [list("d", "-L", "-type d -print0"), list("f", "-L", "! -type d -print0"), list("l", "-H", links)];
  const walk = `[ -d "$f" ] && { ${lists.join("; ")}; }`;
  return `LC_ALL=C; export LC_ALL; set +f
cd -- "$1" 2>/dev/null || exit 0
printf 'e\\0'
for f in ${expanded}; do
  if [ -d "$f" ]; then printf 'd%s\\0' "$f"; elif [ -e "$f" ] || [ -L "$f" ]; then printf 'f%s\\0' "$f"; fi
done
printf '\\0'
${below ? `for f in ${expanded}; do ${walk}; done` : ""}
exit 0`;
}

/** What the script has printed: paths as they were found, and which of them are directories. */
interface Found {
  expanded: Map<string, boolean>;
  below: Map<string, boolean>;
}

/** @param texts between the NULs */
export function parseFound(texts: readonly string[]): Found {
  const found: Found = { expanded: new Map(), below: new Map() };
  let kind = "";
  for (const text of texts) {
    if (kind === "") kind = text;
    else if (text === "") kind = "";
    else if (kind === "e") found.expanded.set(text.slice(1), text.startsWith("d"));
    else if (kind === "l") found.below.set(text.slice(1), text.startsWith("d"));
    else found.below.set(text, kind === "d");
  }
  return found;
}

/** The paths that match, in no order, each once. */
export function globbed(wanted: Glob, found: Found): string[] {
  const count = beforeRecursion(wanted);
  const head = wanted.parts.slice(0, count);
  const results = new Set<string>();
  const add = (path: string, isDir: boolean) => {
    if (path === "" || (wanted.onlyDirs && !isDir)) return; // the directory itself has no name
    results.add(wanted.onlyDirs && !path.endsWith("/") ? `${path}/` : path);
  };
  const starts: string[] = [];
  for (const [path, isDir] of found.expanded) {
    const names = count === 0 ? [] : path.slice(wanted.isAbsolute ? 1 : 2).split("/");
    if (!head.every((part, i) => nameMatches(part, names[i] ?? ""))) continue;
    if (count === wanted.parts.length) add((wanted.isAbsolute ? "/" : "") + names.join("/"), isDir);
    else if (isDir) starts.push(path);
  }
  if (count === wanted.parts.length) return [...results];
  const tail = wanted.parts.slice(count);
  const children = childrenOf(found.below);
  for (const start of starts) {
    const shown = start === "." ? "" : wanted.isAbsolute ? start : start.slice(2);
    walk({ at: start, shown, isDir: true }, tail, { children, add, onlyDirs: wanted.onlyDirs });
  }
  return [...results];
}

/** Names that a part takes: hidden ones only where it begins with a dot, and `.` and `..` never by a pattern. */
function nameMatches(part: Pattern, name: string): boolean {
  if (!part.isMagic) return part.text === name;
  if (name === "." || name === ".." || (isHidden(name) && !isHidden(part.text))) return false;
  return matches(part, name);
}

type Children = Map<string, { name: string; path: string; isDir: boolean }[]>;

function childrenOf(below: ReadonlyMap<string, boolean>): Children {
  const children: Children = new Map();
  for (const [path, isDir] of below) {
    const slash = path.lastIndexOf("/");
    const parent = slash === 0 ? "/" : path.slice(0, slash);
    const list = children.get(parent) ?? [];
    if (list.length === 0) children.set(parent, list);
    list.push({ name: path.slice(slash + 1), path, isDir });
  }
  return children;
}

interface Place {
  /** As `find` has printed it. */
  at: string;
  /** As it is given back; empty for the directory itself. */
  shown: string;
  isDir: boolean;
}

interface Walk {
  children: Children;
  add: (path: string, isDir: boolean) => void;
  onlyDirs: boolean;
}

/** Match the parts from the first on below `place`, as Python's `_iglob` does it. */
function walk(place: Place, parts: readonly Pattern[], context: Walk): void {
  const [part, ...rest] = parts;
  if (part === undefined) context.add(place.shown, place.isDir);
  if (part === undefined || !place.isDir) return;
  const inside = (name: string) =>
    (place.shown === "" || place.shown.endsWith("/") ? place.shown : `${place.shown}/`) + name;
  const entries = context.children.get(place.at) ?? [];
  if (isRecursive(part)) {
    // `a/**` gives `a/` too.
    if (rest.length > 0) walk(place, rest, context);
    else context.add(inside(""), true);
    for (const { name, path, isDir } of entries) {
      if (isHidden(name)) continue;
      if (isDir) walk({ at: path, shown: inside(name), isDir }, parts, deeper(context, inside(name), rest));
      else if (rest.length === 0) context.add(inside(name), false);
    }
    return;
  }
  if (part.text === ".") walk({ ...place, shown: inside(".") }, rest, context);
  for (const { name, path, isDir } of entries) {
    if (nameMatches(part, name)) walk({ at: path, shown: inside(name), isDir }, rest, context);
  }
}

/** Below a `**` at the end, a directory stands for itself without the slash. */
function deeper(context: Walk, own: string, rest: readonly Pattern[]): Walk {
  if (rest.length > 0 || context.onlyDirs) return context;
  return { ...context, add: (path, isDir) => context.add(path === `${own}/` ? own : path, isDir) };
}
