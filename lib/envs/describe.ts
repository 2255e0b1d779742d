/** What an environment is, and whether a node can run it. */
import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { isOlder, type Node, thisNode } from "../drivers/node.ts";
import type { Packed } from "../engine/pack.ts";
import { basePython, readPyvenvCfg } from "./interpreter.ts";
import { needsOf, packagesOf } from "./packages.ts";
import { oldPlaces } from "./relocating.ts";
import type { Description } from "./store.ts";

/** What is known before it is packed. */
export type Facts = Omit<Description, "sha256" | "size" | "content_bytes" | "files">;

/** @throws {EfError} NOT_RUNNABLE if `dir` is no environment */
export async function factsOf(dir: string, name: string): Promise<Facts> {
  const { version } = readPyvenvCfg(dir);
  const [base, node] = await Promise.all([basePython(dir), thisNode()]);
  const needs = needsOf(dir);
  return {
    version: 1,
    name,
    python_version: version,
    base_python: base.path,
    platform: node.platform,
    glibc: node.glibc ?? null,
    cpu: node.cpu ?? null,
    needs_glibc: needs.glibc ?? null,
    built: needs.built,
    packages: packagesOf(dir),
    places: [...new Set([dir, ...oldPlaces(dir)])],
    saved_at: Math.floor(Date.now() / 1000),
    host: hostname(),
  };
}

export function describe(facts: Facts, { sha256, sizeBytes, contentBytes, files }: Packed): Description {
  return { ...facts, sha256, size: sizeBytes, content_bytes: contentBytes, files };
}

/** Can a node run it? `maybe` where only a try can tell. */
export interface Verdict {
  runs: "yes" | "no" | "maybe";
  /** Why not, or what is in doubt. */
  why?: string;
}

type Known = Pick<
  Description,
  "base_python" | "built" | "cpu" | "glibc" | "needs_glibc" | "platform" | "python_version"
>;

/**
 * Judged by what is recorded, without starting anything.
 *
 * @param there is there a file at that path?
 */
export function judge(known: Known, node: Node, there: (path: string) => boolean = existsSync): Verdict {
  if (known.platform !== node.platform) return { runs: "no", why: `made for ${known.platform}` };
  const no = (why: string): Verdict => ({ runs: "no", why });
  if (known.needs_glibc !== null) {
    if (node.glibc === undefined) return no(`needs glibc ${known.needs_glibc}, here is another C library`);
    if (isOlder(node.glibc, known.needs_glibc)) return no(`needs glibc ${known.needs_glibc}, here is ${node.glibc}`);
  }
  if (!there(known.base_python)) return no(`its Python ${known.base_python} is not here: load it with --python`);
  const [first] = known.built;
  if (first !== undefined && known.glibc !== null && node.glibc !== undefined && isOlder(node.glibc, known.glibc))
    return { runs: "maybe", why: `${first} was built with glibc ${known.glibc}, here is ${node.glibc}` };
  if (first !== undefined && known.cpu !== null && node.cpu !== undefined && node.cpu < known.cpu)
    return { runs: "maybe", why: `${first} was built on ${known.cpu}, this is ${node.cpu}` };
  return { runs: "yes" };
}
