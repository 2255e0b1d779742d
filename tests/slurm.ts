/** The real Slurm of scripts/slurm.sh: three compute nodes (n1 n2 n3; 16 processors each) and a data mover node (dm1). */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Home } from "./helpers.ts";

/** Of the cluster: `nodes/n1` … are the disks of its nodes. */
export const slurmDir = resolve(import.meta.dir, "../node_modules/.cache/slurm");
const conf = join(slurmDir, "slurm.conf");

/** Is it running? For `test.skipIf(!haveSlurm)("… [needs Slurm]", …)`; by hand start it with: sh scripts/slurm.sh start */
export const haveSlurm =
  existsSync(conf) &&
  Bun.spawnSync(["timeout", "5", "sinfo", "-h", "-o", "%D"], { env: { ...process.env, SLURM_CONF: conf } }).exitCode ===
    0;

/** What a process needs to talk to it. */
export const slurmEnv = { SLURM_CONF: conf };

/** Let a throw-away HOME talk to it. */
export function withSlurm(at: Home): void {
  Object.assign(at.env, slurmEnv);
}
