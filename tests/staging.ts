/** A HOME whose nodes each have a disk of their own, for tests of ef stage on the real Slurm. */
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Home, type Ran, type RunOptions, run } from "./helpers.ts";
import { withSlurm } from "./slurm.ts";

export const nodes = ["n1", "n2", "n3"] as const;

/** What `ef stage --json` prints of a variable on a node. */
export interface Row {
  name: string;
  node: string;
  status: string;
  target?: string;
  files: number;
  bytes: number;
  seconds: number;
  error?: { code: string; message: string; hint?: string };
}

export class Staging extends Home {
  constructor(vars: readonly string[] = ["HF_HOME"], more: object = {}, under?: string) {
    super({}, "ef stage ", under);
    withSlurm(this);
    const { ef, ...rest } = more as { ef?: object };
    for (const name of vars) mkdirSync(join(this.home, name), { recursive: true });
    for (const node of nodes) mkdirSync(this.disk(node), { recursive: true });
    this.configure(Object.fromEntries(vars.map((name) => [name, name])), {
      ...rest,
      ef: { node_local_base: join(this.dir, "disk/$SLURMD_NODENAME"), ...ef },
    });
  }

  /** The disk of a node. */
  disk(node: string): string {
    return join(this.dir, "disk", node);
  }

  source(name = "HF_HOME"): string {
    return join(this.home, name);
  }

  /** A copy on a node, or one of ef's files beside it. */
  copy(node: string, name = "HF_HOME"): string {
    return join(this.disk(node), `ef-cache-${process.geteuid?.() ?? 0}`, name);
  }

  /** All that ef has on a node's disk. */
  on(node: string): string[] {
    try {
      return readdirSync(join(this.copy(node), "..")).sort();
    } catch {
      return [];
    }
  }

  /** A command in an allocation of its own, on all three nodes unless the options say else. */
  inJob(argv: readonly string[], { options = ["-N3"], ...how }: RunOptions & { options?: readonly string[] } = {}) {
    return run(["salloc", "-Q", ...options, "--", ...argv], {
      cwd: this.home,
      ...how,
      env: { ...this.env, ...how.env },
    });
  }

  /** `ef stage --json` in a job. */
  async stage(...args: string[]): Promise<Ran & { rows: Row[]; warnings: string[]; errors: string[]; job: string }> {
    const ran = await this.inJob(["ef", "stage", "--json", ...args]);
    try {
      const { results, ...rest } = JSON.parse(ran.stdout);
      return { ...ran, rows: results, ...rest };
    } catch {
      throw new Error(`no JSON: ${ran.code}\n${ran.stdout}\n${ran.stderr}`);
    }
  }

  /** What rsync would still change to make the copy on this node the same as the source, contents included. */
  async difference(node: string, { name = "HF_HOME", from = this.source(name), args = [] as string[] } = {}) {
    const argv = ["rsync", "-aHnc", "--itemize-changes", "--delete", ...args, `${from}/`, `${this.copy(node, name)}/`];
    const { stdout, stderr } = await run(argv, { env: this.env });
    return stdout + stderr;
  }
}

/** Status by node, where there is one variable. */
export const statusOf = (rows: readonly Row[]): Record<string, string> =>
  Object.fromEntries(rows.map(({ node, status }) => [node, status]));

export const everywhere = (status: string): Record<string, string> =>
  Object.fromEntries(nodes.map((node) => [node, status]));

/** Processes whose command line has this in it, by its parts. */
export function processesWith(...parts: string[]): number[] {
  return readdirSync("/proc").flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      return parts.every((part) => argv.includes(part)) ? [Number(pid)] : [];
    } catch {
      return [];
    }
  });
}

const environmentOf = (pid: number): string[] => {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
  } catch {
    return [];
  }
};

/** The agent of this HOME on a node. */
export const agentOn = (at: Home, node: string): number | undefined =>
  processesWith("__stage-agent").find((pid) => {
    const env = environmentOf(pid);
    return env.includes(`HOME=${at.home}`) && env.includes(`SLURMD_NODENAME=${node}`) && !isSrun(pid);
  });

/** All agents of this HOME, and the srun that started them. */
export const agentsOf = (at: Home): number[] =>
  processesWith("__stage-agent").filter((pid) => environmentOf(pid).includes(`HOME=${at.home}`));

const isSrun = (pid: number): boolean => readFileSync(`/proc/${pid}/comm`, "utf8").trim() === "srun";
