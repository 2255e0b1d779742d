/**
 * Temporary files that an rsync left which was killed, or stopped before it had noted the name: a node that fails, the kernel where
 * memory ends. It removes them itself otherwise.
 */
import { type ByteString, display } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { walk } from "../base/steps.ts";
import { mark } from "../base/trace.ts";
import { lookBelow } from "./below.ts";
import { compareContents } from "./contents.ts";
import type { Copying } from "./copy-file.ts";
import { type Diff, Do, sameTime } from "./diff.ts";
import type { Comparison } from "./engine.ts";
import type { Base } from "./manifest.ts";

/**
 * How rsync names what it writes: a point, the name without its own, a point, six of mkstemp(3) (receiver.c, get_tmpname). It cuts
 * names that would have more than 255 bytes: those are not known here, and stay.
 */
const pattern = /^\.(.+)\.[0-9A-Za-z]{6}$/s;
const point = 0x2e;

/**
 * Remove those of files that are to be brought, beside them. A job may give such names too: only what holds nothing but the beginning
 * of the source's file goes, has the mode that rsync gives to what is not whole yet, and is not being written to. That takes reading it, and as much of the source's:
 * after a kill only.
 *
 * @param base what the last sync put there; no name of it is rsync's
 * @throws the signal's reason; what cannot be read or removed stays
 */
export async function removeRsyncTemps(
  { diff, sides }: Pick<Comparison, "diff" | "sides">,
  base: Base | undefined,
  cx: Copying,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { source, target } = diff;
  const left = candidates(diff, base);
  while (left.length > 0) {
    const alike = new Uint32Array(source.length);
    const together = new Map<number, number>(); // one for each file of the source at a time
    for (const [here, row] of left.splice(0)) {
      if (together.has(row)) left.push([here, row]);
      else together.set(row, here);
    }
    for (const [row, here] of together) alike[row] = here + 1;
    const drop = (path: ByteString) => void together.delete(source.find(path) as number);
    await compareContents({ source, target, alike }, cx, sides, {
      ...{ signal, throttle: cx.throttle, onProgress: () => {}, onDifferent: drop, onProblem: drop },
    });
    for (const here of together.values()) await remove(diff, here, cx);
  }
}

/** Rows on scratch that may be such files, each with the row of what it would have become. */
function candidates({ source, target, todo }: Diff, base: Base | undefined): [here: number, row: number][] {
  const found: [number, number][] = [];
  for (let here = 1; here < target.length; here++) {
    const [start, end] = [target.nameEnd[here - 1] as number, target.nameEnd[here] as number];
    if (target.names[start] !== point || target.names[end - 7] !== point) continue; // most are none: no text is made of them
    const [, name] = pattern.exec(target.name(here)) ?? [];
    const dir = source.find(target.path(target.parent[here] as number));
    if (name === undefined || dir === undefined || target.kind(here) !== "file" || target.inode[here] !== 0) continue;
    const path = target.path(here);
    if (source.find(path) !== undefined || base?.tree.find(path) !== undefined) continue; // what the source has, or had, of that name
    for (const row of [source.child(dir, name), source.child(dir, `.${name}`)]) {
      if (row === undefined || (todo[row] !== Do.copy && todo[row] !== Do.replace)) continue;
      const isShut = (target.permissions(here) & 0o077) === 0;
      // With the source's time it has been a whole copy, and a job gave it that name.
      const isCopy = sameTime(source.mtime[row] as bigint, target.mtime[here] as bigint);
      if (!isShut || isCopy || (target.size[here] as number) > (source.size[row] as number)) continue;
      found.push([here, row]);
    }
  }
  return found;
}

async function remove({ target }: Diff, here: number, { target: storage, to }: Copying): Promise<void> {
  const at = `${to}/${target.path(here)}`;
  try {
    const stat = await walk(lookBelow(storage, to, at));
    if (!stat?.isFile() || stat.uid !== BigInt(process.geteuid?.() ?? 0)) return;
    if (Number(stat.size) === target.size[here] && stat.mtimeNs === target.mtime[here]) await storage.unlink(at);
  } catch (error) {
    mark("leftover", { path: display(at), why: errnoOf(error) }); // the next run finds it again, if there is still something to bring
  }
}
