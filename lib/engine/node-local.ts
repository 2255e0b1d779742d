/**
 * Copies on this node's own disk: the same files beside them as on scratch, in a directory of our own.
 *
 * They are made from the copy on scratch where that is what the source is now, else from the source. Markers name the source
 * in any case, so a push brings changes there.
 */
import { dirname, isAbsolute, join } from "node:path";
import { EfError } from "../base/errors.ts";
import { type Env, expandPath, realPath } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { describeMount, isNetwork, mountOf, mounts } from "../drivers/filesystem.ts";
import { ownDirectory } from "./own-directory.ts";
import { placesIn, type Step } from "./plan.ts";
import { sameDirectory } from "./roots.ts";

/** Names of what says where it is, for hints. */
const named = "TMPDIR (in a job SLURM_TMPDIR) or ef.node_local_base";

/**
 * The directory of the copies on this node: below `ef.node_local_base`, else `$SLURM_TMPDIR`, `$TMPDIR` or /tmp.
 *
 * @throws {EfError} BAD_ROOT, UNSET_VARIABLE
 */
export function localRoot({ ef }: Config, env: Env): string {
  const written = ef?.node_local_base;
  const base = written ? expandPath(written, env, "ef.node_local_base") : env.SLURM_TMPDIR || env.TMPDIR || "/tmp";
  if (!isAbsolute(base))
    throw new EfError("BAD_ROOT", `Cannot keep copies on this node in ${base}: it is not an absolute path`, {
      hint: `set ${named}`,
      path: base,
    });
  return join(base, `ef-cache-${process.geteuid?.() ?? 0}`);
}

/**
 * The same, made where it is not there.
 *
 * @returns a warning where that is no disk of this node
 * @throws {EfError} BAD_ROOT
 */
export function makeLocalRoot(root: string): string | undefined {
  ownDirectory(root, named);
  const mount = mountOf(realPath(root), mounts());
  return mount && isNetwork(mount)
    ? `${root} is on ${describeMount(mount)}, which is no disk of this node: set ${named}`
    : undefined;
}

/**
 * The copy of a variable on this node, to be read from `from`.
 *
 * @param step of the copy on scratch
 * @throws {EfError} BAD_ROOT where it is that copy itself, which whoever uses it last would remove
 */
export function localStep(step: Step, root: string, from: string): Step {
  const scratch = dirname(step.target);
  if (sameDirectory(scratch, root))
    throw new EfError("BAD_ROOT", `Cannot keep copies on this node in ${root}: it holds those on scratch`, {
      hint: `set ${named} to a directory on this node's own disk`,
      path: root,
    });
  return { ...step, base: root, ...placesIn(root, step.name), from };
}
