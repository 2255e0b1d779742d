/** What goes wrong during ef stage, on a real Slurm: the report is true, nothing half is seen, and the next run completes. */
import { expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { haveOtherUser, type Ran, run, until } from "../helpers.ts";
import { haveSlurm } from "../slurm.ts";
import { agentOn, agentsOf, everywhere, nodes, type Row, Staging, statusOf } from "../staging.ts";

/** A job may have to wait for those of other tests, in milliseconds. */
setDefaultTimeout(180_000);

const onSlurm = (name: string, body: () => Promise<void>) => test.skipIf(!haveSlurm)(`${name} [needs Slurm]`, body);
const isRoot = process.geteuid?.() === 0;

/** Random bytes in files, so that it takes a while with a limit. */
function fill(at: Staging, files = 60, bytes = 50_000, name = "HF_HOME"): void {
  for (let i = 0; i < files; i++)
    writeFileSync(join(at.source(name), `f${i}`), crypto.getRandomValues(new Uint8Array(bytes)));
}

const errorOf = (rows: readonly Row[], node: string) => rows.find((row) => row.node === node)?.error;

/** Nothing there can be taken for a copy, and nothing temporary is left. */
function expectNothing(at: Staging, node: string): void {
  expect(existsSync(at.copy(node))).toBe(false);
  expect(at.on(node).filter((name) => /^\.HF_HOME\.(?:tmp|partial|synced)|stage-/.test(name))).toEqual([]);
}

async function expectCompletes(at: Staging): Promise<void> {
  const ran = await at.stage();
  expect([ran.code, ran.errors]).toEqual([0, []]);
  for (const node of nodes) expect(await at.difference(node)).toBe("");
  for (const node of nodes) expect(at.on(node).filter((name) => /tmp|partial|stage-/.test(name))).toEqual([]);
}

/** Is some of it written on a node? */
const isUnderWay = (at: Staging, node: string): boolean =>
  at.on(node).some((name) => {
    const tree = join(at.copy(node), "..", name, "tree");
    return name.startsWith(".HF_HOME.tmp-") && existsSync(tree) && readdirSync(tree).length > 0;
  });

/** Kill the agent of a node in the midst of it. */
async function killed(at: Staging, victim: string): Promise<Awaited<ReturnType<Staging["stage"]>>> {
  const running = at.stage("--bwlimit", "1M");
  await until("bytes on all nodes", () => nodes.every((node) => isUnderWay(at, node)));
  process.kill(agentOn(at, victim)!, "SIGKILL");
  return running;
}

onSlurm("an agent that is killed is named, and those behind it get the copy from another node", async () => {
  using at = new Staging();
  fill(at);
  const ran = await killed(at, "n2");
  expect([ran.code, statusOf(ran.rows)]).toEqual([1, { n1: "staged", n2: "failed", n3: "staged" }]);
  expect(ran.errors).toEqual([expect.stringMatching(/^n2: HF_HOME: The task on n2 has ended: Killed/)]);
  for (const node of ["n1", "n3"]) expect(await at.difference(node)).toBe("");
  expect(existsSync(at.copy("n2"))).toBe(false);
  await expectCompletes(at);
});

onSlurm("when the one that reads is killed, another one reads", async () => {
  using at = new Staging();
  fill(at);
  const ran = await killed(at, "n1");
  expect([ran.code, statusOf(ran.rows)]).toEqual([1, { n1: "failed", n2: "staged", n3: "staged" }]);
  for (const node of ["n2", "n3"]) expect(await at.difference(node)).toBe("");
  expect(existsSync(at.copy("n1"))).toBe(false);
  await expectCompletes(at);
});

onSlurm("a directory that cannot be used is named, and the others are served", async () => {
  using at = new Staging();
  fill(at, 5);
  symlinkSync("/tmp", join(at.copy("n1"), ".."));
  rmSync(at.disk("n3"), { recursive: true });
  const ran = await at.stage();
  expect([ran.code, statusOf(ran.rows)]).toEqual([1, { n1: "failed", n2: "staged", n3: "failed" }]);
  for (const node of ["n1", "n3"]) expect(errorOf(ran.rows, node)).toMatchObject({ code: "BAD_ROOT" });
  expect(existsSync("/tmp/HF_HOME")).toBe(false);
  rmSync(join(at.copy("n1"), ".."));
  mkdirSync(at.disk("n3"));
  await expectCompletes(at);
});

for (const full of ["n1", "n2"])
  test.skipIf(!haveSlurm || !isRoot)(
    `the full disk of ${full} is named, and the others are served [needs Slurm and root]`,
    async () => {
      using at = new Staging();
      fill(at, 40, 100_000);
      const mounted = await run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", at.disk(full)], { env: at.env });
      expect(mounted.code).toBe(0);
      try {
        const planned = await at.stage();
        expect(planned.code).toBe(1);
        expect(errorOf(planned.rows, full)).toMatchObject({ code: "NO_SPACE" });
        expectNothing(at, full);
        const others = nodes.filter((node) => node !== full);
        for (const node of others) expect(await at.difference(node)).toBe("");
        const ran = await at.stage("--no-preflight", "--force");
        expect(ran.code).toBe(1);
        expect(statusOf(ran.rows)).toEqual({ ...everywhere("staged"), [full]: "failed" });
        expect(errorOf(ran.rows, full)).toMatchObject({
          code: "NO_SPACE",
          hint: expect.stringContaining("node_local_base"),
        });
        expectNothing(at, full);
        for (const node of others) expect(await at.difference(node)).toBe("");
        expect((await run(["mount", "-o", "remount,size=50m", at.disk(full)], { env: at.env })).code).toBe(0);
        await expectCompletes(at);
      } finally {
        await run(["umount", "-l", at.disk(full)], { env: at.env });
      }
    },
  );

onSlurm(
  "a file that changes while it is read fails it for all, says which, and the next variable goes on",
  async () => {
    using at = new Staging(["HF_HOME", "Z_HOME"]);
    writeFileSync(join(at.source(), "a"), Buffer.alloc(40_000_000, "a"));
    fill(at, 3, 1000, "Z_HOME");
    const running = at.stage("--bwlimit", "8M");
    await until("bytes on all nodes", () => nodes.every((node) => isUnderWay(at, node)));
    writeFileSync(join(at.source(), "a"), "short");
    const ran = await running;
    expect(ran.code).toBe(1);
    expect(ran.rows.map(({ name, status }) => `${name} ${status}`).sort()).toEqual([
      ...nodes.map(() => "HF_HOME failed"),
      ...nodes.map(() => "Z_HOME staged"),
    ]);
    for (const { name, error } of ran.rows)
      if (name === "HF_HOME") expect(error?.message).toContain(`${at.source()}/a`);
    for (const node of nodes) expectNothing(at, node);
    await expectCompletes(at);
  },
);

/** Start it in an allocation, and wait until it copies. */
async function running(at: Staging, args: string[] = []) {
  const child: { pid?: number | undefined } = {};
  const script = 'echo $$ >pid; exec ef stage --bwlimit 500k "$@"';
  const ended = at.inJob(["bash", "-c", script, "sh", ...args], { onStart: ({ pid }) => (child.pid = pid) });
  await until("bytes on all nodes", () => nodes.every((node) => isUnderWay(at, node)));
  return { ended, pid: Number(readFileSync(join(at.home, "pid"), "utf8")) };
}

for (const [signal, code] of [
  ["SIGTERM", 143],
  ["SIGINT", 130],
] as const)
  onSlurm(`${signal} ends all agents, and leaves nothing`, async () => {
    using at = new Staging();
    fill(at);
    const { ended, pid } = await running(at);
    process.kill(pid, signal);
    const ran: Ran = await ended;
    expect([ran.code, ran.stdout]).toEqual([code, ""]);
    await until("the end of all agents", () => agentsOf(at).length === 0);
    for (const node of nodes) expectNothing(at, node);
    await expectCompletes(at);
  });

onSlurm("after SIGKILL no agent stays, and nothing of it is seen", async () => {
  using at = new Staging();
  fill(at);
  const { ended, pid } = await running(at);
  process.kill(pid, "SIGKILL");
  await ended;
  await until("the end of all agents", () => agentsOf(at).length === 0);
  for (const node of nodes) expect(existsSync(at.copy(node))).toBe(false);
  await expectCompletes(at);
});

onSlurm("scancel in the midst of it leaves nothing that could be taken for a copy", async () => {
  using at = new Staging();
  fill(at);
  const { ended } = await running(at);
  const { stdout } = await run(["squeue", "-h", "-o", "%i %Z"], { env: at.env });
  const id = stdout
    .split("\n")
    .find((line) => line.endsWith(at.home))
    ?.split(" ")[0];
  expect(id).toMatch(/^\d+$/);
  await run(["scancel", id!], { env: at.env });
  expect((await ended).code).not.toBe(0);
  await until("the end of all agents", () => agentsOf(at).length === 0);
  for (const node of nodes) expect(existsSync(at.copy(node))).toBe(false);
  await expectCompletes(at);
});

onSlurm("a node where ef does not start is named at once", async () => {
  using at = new Staging();
  fill(at, 3);
  const wrapper = join(at.dir, "bin/ef");
  const real = readFileSync(wrapper, "utf8").replace("#!/bin/sh\n", "");
  // As a node without that mount: only n3 cannot start the program that the agents are started with.
  writeFileSync(wrapper, `#!/bin/sh\n[ "$SLURMD_NODENAME" = n3 ] && exit 127\n${real}`);
  chmodSync(wrapper, 0o755);
  const mod = resolve(import.meta.dir, "../../mod.ts");
  const script = at.write(
    "script.ts",
    `import { loadConfig, stage } from ${JSON.stringify(mod)};
const { copies, errors } = await stage(await loadConfig(), { program: [${JSON.stringify(wrapper)}] });
console.log(JSON.stringify({ states: copies.map(({ state }) => state), errors }));
`,
  );
  const ran = await at.inJob([process.execPath, script]);
  const { states, errors } = JSON.parse(ran.stdout);
  expect(states).toEqual(["staged", "staged", "failed"]);
  expect(errors).toEqual(["n3: HF_HOME: The task on n3 has ended: Exited with exit code 127"]);
});

test.skipIf(!haveSlurm || !haveOtherUser)(
  "another user's directory in the place of the copies is not used [needs Slurm and root]",
  async () => {
    using at = new Staging();
    fill(at, 3);
    const planted = join(at.copy("n2"), "..");
    mkdirSync(planted);
    expect((await run(["chown", "65534", planted], { env: at.env })).code).toBe(0);
    const ran = await at.stage();
    expect([ran.code, statusOf(ran.rows)]).toEqual([1, { n1: "staged", n2: "failed", n3: "staged" }]);
    expect(errorOf(ran.rows, "n2")).toMatchObject({ code: "BAD_ROOT" });
    expect(at.on("n2")).toEqual([]);
  },
);

test.skipIf(!haveSlurm || !isRoot)(
  "a node without its slurmd is named, the others are served, and later it is too [needs Slurm and root]",
  async () => {
    const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef-cluster-"));
    const script = resolve(import.meta.dir, "../../scripts/slurm.sh");
    const cluster = join(dir, "slurm");
    try {
      expect((await run(["sh", script, "start", cluster, "18300"], { env: process.env })).code).toBe(0);
      using at = new Staging();
      at.env.SLURM_CONF = join(cluster, "slurm.conf");
      fill(at, 5);
      const pidFile = join(cluster, "slurmd-n3.pid");
      const pid = Number(readFileSync(pidFile, "utf8"));
      const lines = [
        "ef stage --json >first; echo $? >code",
        `touch down; while [ -d "$PWD" ] && [ ! -e up ]; do sleep 0.1; done`,
      ];
      const job = at.inJob([
        "bash",
        "-c",
        `while [ -d "$PWD" ] && [ ! -e killed ]; do sleep 0.1; done\n${lines.join("\n")}\nef stage --json`,
      ]);
      await until(
        "the job",
        async () => (await run(["squeue", "-h", "-t", "R"], { env: at.env })).stdout.trim() !== "",
      );
      process.kill(pid, "SIGKILL");
      at.write("killed", "");
      for (let i = 0; i < 4 && !existsSync(join(at.home, "down")); i++)
        await until("the first staging", () => existsSync(join(at.home, "down"))).catch(() => {});
      const first = JSON.parse(at.read(join(at.home, "first")));
      expect(at.read(join(at.home, "code"))).toBe("1\n");
      expect(statusOf(first.results)).toEqual({ n1: "staged", n2: "staged", n3: "failed" });
      expect(first.errors).toEqual([expect.stringMatching(/^n3: HF_HOME: Cannot start a task on n3: /)]);
      for (const node of ["n1", "n2"]) expect(await at.difference(node)).toBe("");
      expect((await run(["slurmd", "-N", "n3"], { env: { ...at.env, PATH: `${at.env.PATH}:/usr/sbin` } })).code).toBe(
        0,
      );
      at.write("up", "");
      const ran = await job;
      expect(statusOf(JSON.parse(ran.stdout).results)).toEqual({ n1: "fresh", n2: "fresh", n3: "staged" });
      expect(await at.difference("n3")).toBe("");
    } finally {
      await run(["sh", script, "stop", cluster], { env: process.env });
      rmSync(dir, { recursive: true, force: true });
    }
  },
);
