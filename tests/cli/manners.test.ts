/** What ef takes of a node: little of a login node, what the job has on a compute node. */
import { describe, expect, test } from "bun:test";
import { chmodSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { availableParallelism, hostname } from "node:os";
import { join } from "node:path";
import { checkConfig } from "../../lib/config/store.ts";
import { processors } from "../../lib/drivers/limits.ts";
import { isLoginNode } from "../../lib/drivers/login-node.ts";
import { withThreads } from "../../lib/drivers/uv.ts";
import { manners } from "../../lib/manners.ts";
import { Home, have, type RunOptions, until } from "../helpers.ts";
import { haveSlurm, withSlurm } from "../slurm.ts";

const node = hostname().replace(/\..*/, "");

/** A PATH of these programs. */
function withPrograms(programs: Record<string, string>): Home {
  const at = new Home({ "hf/model": "weights" });
  at.configure({ HF_HOME: "hf" });
  for (const [name, script] of Object.entries(programs)) {
    const path = join(at.dir, "bin", name);
    writeFileSync(path, `#!/bin/sh\n${script}\n`);
    chmodSync(path, 0o755);
  }
  return at;
}

/** Of its own programs only: this machine may have Slurm's. */
const only = (at: Home, env: Record<string, string> = {}) => ({ PATH: join(at.dir, "bin"), ...env });

describe("a login node", () => {
  test.each([
    ["Slurm's, and sinfo names others", { sbatch: "", sinfo: "echo cn-1; echo cn-2" }, {}, true],
    ["Slurm's, and sinfo names this one", { sbatch: "", sinfo: `echo cn-1; echo ${node}.cluster.example` }, {}, false],
    ["Slurm's, and there is no cluster", { sbatch: "", sinfo: "exit 1" }, {}, false],
    ["Slurm's, and it does not answer", { sbatch: "", sinfo: "exec /bin/sleep 60" }, {}, true],
    ["PBS's", { qsub: "" }, {}, true],
    ["LSF's", { bsub: "" }, {}, true],
    ["none", {}, {}, false],
    ["Slurm's, in a job", { sbatch: "", sinfo: "echo cn-1" }, { SLURM_JOB_ID: "1", SLURMD_NODENAME: "n1" }, false],
    ["Slurm's, in the shell that salloc starts there", { sbatch: "", sinfo: "echo cn-1" }, { SLURM_JOB_ID: "1" }, true],
    ["PBS's, in a job", { qsub: "" }, { PBS_JOBID: "1.server" }, false],
    ["LSF's, in a job", { bsub: "" }, { LSB_JOBID: "1" }, false],
    ["Grid Engine's, in a job", { qsub: "" }, { JOB_ID: "1", SGE_O_HOST: "login" }, false],
    ["PBS's, but we are told", { qsub: "" }, { EF_LOGIN_NODE: "0" }, false],
    ["none, but we are told", {}, { EF_LOGIN_NODE: "1" }, true],
  ] as const)("by the programs: %s", async (_, programs, env, expected) => {
    using at = withPrograms(programs as Record<string, string>);
    expect(await isLoginNode(only(at, env))).toBe(expected);
  });

  test("EF_LOGIN_NODE with another value is an error of the user", async () => {
    using at = withPrograms({});
    const { stderr, code } = await at.ef(["sync"], { env: { EF_LOGIN_NODE: "maybe" } });
    expect(stderr).toContain("EF_LOGIN_NODE=maybe: expected 0 or 1");
    expect(code).toBe(2);
  });

  test("few workers, unless a flag or the configuration says otherwise", async () => {
    const config = (transfer: object) =>
      checkConfig({ version: 1, scratch_base: "/s", vars: {}, ef: { transfer } }, "test");
    const [here, away] = [{ EF_LOGIN_NODE: "1" }, { EF_LOGIN_NODE: "0" }];
    expect(await manners(config({}), undefined, here)).toEqual({ isLogin: true, workers: 4 });
    expect(await manners(config({ workers: 12 }), undefined, here)).toEqual({ isLogin: true, workers: 12 });
    expect(await manners(config({ workers: "auto" }), undefined, here)).toEqual({ isLogin: true, workers: "auto" });
    expect(await manners(config({ workers: 12 }), 3, here)).toEqual({ isLogin: true, workers: 3 });
    expect(await manners(config({}), undefined, away)).toEqual({ isLogin: false });
  });
});

/** The nice value of each thread of a process (proc(5), stat: field 19). */
const niceness = (pid: number): string[] => {
  const ids = Bun.spawnSync(["ls", `/proc/${pid}/task`])
    .stdout.toString()
    .split("\n")
    .filter(Boolean);
  return ids.flatMap((id) => {
    try {
      const stat = readFileSync(`/proc/${pid}/task/${id}/stat`, "utf8");
      return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[16] ?? [];
    } catch {
      return []; // it ended
    }
  });
};

/** While it copies slowly: wait until something is so of it, then let it go. */
const whileItRuns = (what: string, ready: (pid: number) => boolean): RunOptions => ({
  async onStart(child) {
    try {
      await until(what, () => child.pid !== undefined && ready(child.pid));
    } finally {
      child.kill("SIGTERM");
    }
  },
});

/** One with more than a second's work at 100K. */
function slow(): Home {
  const at = withPrograms({});
  for (let i = 0; i < 40; i++) at.write(`hf/${i}`, "x".repeat(50_000));
  return at;
}

test.each(["sync", "push"])("%s on a login node: all threads step back, for processor and disk", async (command) => {
  using at = slow();
  if (command === "push") {
    await at.ef(["sync"]);
    for (let i = 0; i < 40; i++) writeFileSync(join(at.cache("HF_HOME"), String(i)), "y".repeat(60_000));
  }
  const isLow = (pid: number) => {
    const all = niceness(pid);
    const disk = have("ionice") ? Bun.spawnSync(["ionice", "-p", String(pid)]).stdout.toString() : "prio 7";
    return all.length > 0 && all.every((nice) => nice === "10") && disk.includes("prio 7");
  };
  const { code } = await at.ef([command, "--bwlimit", "100K"], {
    ...whileItRuns("a low priority", isLow),
    env: { EF_LOGIN_NODE: "1" },
  });
  expect(code).toBe(143);
});

test("elsewhere, and for the command of exec, the priority stays", async () => {
  using at = slow();
  const { code } = await at.ef(["sync", "--bwlimit", "100K"], {
    ...whileItRuns(
      "the first file",
      (pid) => at.exists(join(at.cache("HF_HOME"), "0")) && !niceness(pid).includes("10"),
    ),
    env: { EF_LOGIN_NODE: "0" },
  });
  expect(code).toBe(143);
  const { stdout } = await at.ef(["exec", "--", "sh", "-c", "cut -d' ' -f19 /proc/$$/stat"], {
    env: { EF_LOGIN_NODE: "1" },
  });
  expect(stdout).toBe("0\n");
});

test("past a size a job is recommended, once, and on a login node only", async () => {
  for (const command of ["sync", "push"]) {
    using at = withPrograms({});
    await at.ef(["sync"]);
    const file = join(command === "sync" ? join(at.home, "hf") : at.cache("HF_HOME"), "large");
    writeFileSync(file, "");
    truncateSync(file, 11 * 2 ** 30); // a hole
    const advice = command === "sync" ? "ef stage --job, or sbatch --wrap 'ef sync'" : "sbatch --wrap 'ef push'";
    const said = async (env: Record<string, string>) => (await at.ef([command, "--dry-run"], { env })).stderr;
    expect((await said({ EF_LOGIN_NODE: "1" })).split(advice)).toHaveLength(2);
    expect(await said({ EF_LOGIN_NODE: "0" })).not.toContain("login node");
  }
});

test.skipIf(!haveSlurm)(
  "with a real sinfo: this host is none of its nodes, a task is in a job [needs Slurm]",
  async () => {
    using at = withPrograms({});
    withSlurm(at);
    expect(await isLoginNode(at.env, "some-login-node")).toBe(true);
    expect(await isLoginNode(at.env, "n2.cluster.example")).toBe(false);
    expect(await isLoginNode({ ...at.env, SLURM_JOB_ID: "1", SLURMD_NODENAME: "n1" }, "some-login-node")).toBe(false);
  },
);

test("processors: what the job has on this node, at most those of the affinity", () => {
  const all = availableParallelism();
  expect(processors({})).toBe(all);
  expect(processors({ SLURM_CPUS_ON_NODE: "1", SLURM_CPUS_PER_TASK: "2" })).toBe(1);
  expect(processors({ SLURM_CPUS_PER_TASK: "1" })).toBe(1);
  expect(processors({ SLURM_CPUS_ON_NODE: "4096" })).toBe(all);
  for (const odd of ["", "0", "many", "-1"]) expect(processors({ SLURM_CPUS_ON_NODE: odd })).toBe(all);
  expect(withThreads({ SLURM_CPUS_ON_NODE: "1" })).toMatchObject({ UV_CONCURRENT_BUILDS: "1" });
  expect(withThreads({ SLURM_CPUS_ON_NODE: "1", UV_CONCURRENT_BUILDS: "9" })).toMatchObject({
    UV_CONCURRENT_BUILDS: "9",
  });
});

test("--bwlimit and --workers: sync, push and exec, as flags and as input", async () => {
  using at = slow();
  const rates = { bwlimit: "fast", workers: "none" };
  for (const [name, value] of Object.entries(rates)) {
    for (const command of [["sync"], ["push"], ["exec"]]) {
      const rest = command[0] === "exec" ? ["--", "true"] : [];
      const flag = await at.ef([...command, `--${name}`, value, ...rest]);
      expect([flag.code, flag.stderr]).toEqual([2, expect.stringContaining(`--${name} ${value}`)]);
      const input = at.write("input.json", { [name]: value });
      const asInput = await at.ef([...command, "--input-json", input, ...rest]);
      expect([asInput.code, asInput.stderr]).toEqual([2, expect.stringContaining(`--${name} ${value}`)]);
    }
  }
  // 2 MB at 1M: a rate that is ignored would need no second.
  const from = performance.now();
  const { code } = await at.ef(["exec", "--bwlimit", "1M", "--", "true"]);
  expect(performance.now() - from).toBeGreaterThan(1000);
  expect(code).toBe(0);
});
