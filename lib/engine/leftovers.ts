/** Temporary files that killed runs left in the trees of users. */
import { type ByteString, display } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { walk } from "../base/steps.ts";
import { mark } from "../base/trace.ts";
import { beside, type Copying } from "./copy-file.ts";
import { isResumable, nameOfBeginning, partNameOf } from "./copy-large.ts";
import { type Diff, Do } from "./diff.ts";
import { isAbandoned, partOf } from "./names.ts";
import { Flag } from "./tree.ts";

/** What is to be brought. */
type Work = Pick<Diff, "source" | "todo">;

/**
 * Remove those whose run is gone; the beginning of a large file stays for as long as that is still to be brought.
 *
 * @param temps relative paths, as a scan found them
 */
export async function removeTemps(cx: Copying, temps: readonly ByteString[], diff: Work): Promise<void> {
  if (temps.length === 0) return;
  const wanted = beginnings(diff);
  /** Files of which another version is to be brought: what was begun of an earlier one is of no more use. */
  const changed = new Set([...wanted].map(partOf));
  for (const path of temps) {
    if (wanted.has(path)) continue;
    const at = `${cx.to}/${path}`;
    try {
      const stat = await cx.target.lstat(at);
      const name = path.slice(path.lastIndexOf("/") + 1);
      const isOurs = stat.uid === BigInt(process.geteuid?.() ?? 0);
      if (!isOurs || !(changed.has(partOf(path)) || isAbandoned(name, Date.now() - Number(stat.mtimeMs)))) continue;
      const begun = stat.isFile() ? await walk(nameOfBeginning(cx.target, at)) : undefined; // a link cannot be read
      const store = begun === undefined ? undefined : beside(path, begun);
      if (store && wanted.has(store) && !temps.includes(store)) await cx.target.rename(at, `${cx.to}/${store}`);
      else await cx.target.unlink(at);
    } catch (error) {
      mark("leftover", { path: display(at), why: errnoOf(error) }); // the next run finds it again
    }
  }
}

/** Where the beginnings of the large files are that are to be brought. */
function beginnings({ source, todo }: Work): Set<ByteString> {
  const paths = new Set<ByteString>();
  for (let row = 1; row < source.length; row++) {
    if (todo[row] !== Do.copy && todo[row] !== Do.replace) continue;
    const size = source.size[row] as number;
    if (!isResumable({ size, hasHoles: source.has(row, Flag.sparse) })) continue;
    const path = source.path(row);
    const facts = { path, size, mtimeNs: source.mtime[row] as bigint, mode: source.mode[row] as number };
    paths.add(beside(path, partNameOf(facts)));
  }
  return paths;
}
