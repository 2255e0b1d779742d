/** ef stage in jobs of a real Slurm: three nodes, each with a disk of its own. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { buildSlowFs, SlowMount, whyNoSlowFs } from "../../scripts/bench/slow-fs.ts";
import { efArgv, isBinary, run } from "../helpers.ts";
import { haveSlurm } from "../slurm.ts";
import { everywhere, nodes, type Row, Staging, statusOf } from "../staging.ts";
import { fillTree } from "../trees.ts";

/** A job may have to wait for those of other tests, in milliseconds. */
setDefaultTimeout(180_000);

const onSlurm = (name: string, body: () => Promise<void>) => test.skipIf(!haveSlurm)(`${name} [needs Slurm]`, body);

function random(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function fill(at: Staging, name = "HF_HOME"): void {
  for (let i = 0; i < 30; i++) writeFileSync(join(at.source(name), `f${i}`), `content ${i}`);
}

onSlurm("every node gets the whole of it, and the second time nobody has to do anything", async () => {
  using at = new Staging();
  fillTree(at.source(), random(5));
  const first = await at.stage();
  expect([first.code, first.errors, first.warnings]).toEqual([0, [], []]);
  expect(statusOf(first.rows)).toEqual(everywhere("staged"));
  for (const node of nodes) expect(await at.difference(node)).toBe("");
  for (const row of first.rows) {
    expect(row.target).toBe(at.copy(row.node));
    expect(row.files).toBeGreaterThan(0);
    expect(row.bytes).toBe(first.rows[0]!.bytes);
    expect(row.seconds).toBeGreaterThan(0);
  }
  const second = await at.stage();
  expect([second.code, second.errors]).toEqual([0, []]);
  expect(statusOf(second.rows)).toEqual(everywhere("fresh"));
  expect(Object.keys(JSON.parse(second.stdout)).sort()).toEqual([
    "command",
    "errors",
    "job",
    "nodes",
    "ok",
    "results",
    "warnings",
  ]);
  const forced = await at.stage("--force");
  expect(statusOf(forced.rows)).toEqual(everywhere("staged"));
});

onSlurm("a dry run makes nothing on any node", async () => {
  using at = new Staging();
  writeFileSync(join(at.source(), "model"), "x");
  const ran = await at.stage("--dry-run");
  expect([ran.code, statusOf(ran.rows)]).toEqual([0, everywhere("dry-run")]);
  for (const node of nodes) expect(existsSync(join(at.copy(node), ".."))).toBe(false);
  expect(existsSync(at.cache("HF_HOME"))).toBe(false);
});

onSlurm(
  "which variables: those that are named, those for nodes' disks, else all; a source that is not there",
  async () => {
    using at = new Staging(["HF", "HF_HOME", "TORCH_HOME"]);
    for (const name of ["HF", "HF_HOME"]) writeFileSync(join(at.source(name), "model"), name);
    rmSync(at.source("TORCH_HOME"), { recursive: true });
    const named = await at.stage("--var", "HF");
    expect(named.rows.map(({ name, status }) => [name, status])).toEqual(nodes.map(() => ["HF", "staged"]));
    expect(at.on("n2").filter((name) => name.includes("HF_HOME"))).toEqual([]);
    const all = await at.stage();
    expect(all.rows.map(({ name, node, status }) => `${node} ${name} ${status}`)).toEqual(
      nodes.flatMap((node) => [`${node} HF fresh`, `${node} HF_HOME staged`]),
    );
    expect(all.warnings).toEqual([expect.stringContaining("TORCH_HOME: source")]);
    expect(all.code).toBe(0);
    const unknown = await at.inJob(["ef", "stage", "--var", "NO_SUCH"]);
    expect([unknown.code, unknown.stdout]).toEqual([2, ""]);

    const config = JSON.parse(at.read(join(at.home, ".euler-files.json")));
    config.ef.vars = { HF_HOME: { node_local: true } };
    at.write(".euler-files.json", config);
    const chosen = await at.stage();
    expect(new Set(chosen.rows.map(({ name }) => name))).toEqual(new Set(["HF_HOME"]));
  },
);

onSlurm("outside of a job there are no nodes", async () => {
  using at = new Staging();
  const { code, stdout, stderr } = await at.ef(["stage"]);
  expect([code, stdout]).toEqual([2, ""]);
  expect(stderr).toContain("ef stage --job");
});

onSlurm("what people read: which node reads, and what each of them has", async () => {
  using at = new Staging();
  writeFileSync(join(at.source(), "model"), "x".repeat(1000));
  const first = await at.inJob(["ef", "stage"]);
  expect([first.code, first.stdout]).toEqual([0, ""]);
  expect(first.stderr).toContain("HF_HOME: not synced yet; n1 reads it for 3 nodes\n");
  for (const node of nodes)
    expect(first.stderr).toMatch(new RegExp(`^${node} HF_HOME: complete \\(1 file, 1000 B, `, "m"));
  const second = await at.inJob(["ef", "stage"]);
  expect(second.stderr.split("\n").filter(Boolean).sort()).toEqual(nodes.map((node) => `${node} HF_HOME: fresh`));
});

onSlurm("a whole copy on scratch is what is read, and the source where it is not", async () => {
  using at = new Staging();
  for (const name of ["a", "b"]) writeFileSync(join(at.source(), name), "persistent");
  expect((await at.ef(["sync"])).code).toBe(0);
  // The same size and time: only who reads it can tell.
  const copy = join(at.cache("HF_HOME"), "a");
  const { atime, mtime } = statSync(copy);
  writeFileSync(copy, "on scratch");
  utimesSync(copy, atime, mtime);
  const fromScratch = await at.stage();
  expect(fromScratch.code).toBe(0);
  for (const node of nodes) expect(readFileSync(join(at.copy(node), "a"), "utf8")).toBe("on scratch");

  writeFileSync(join(at.source(), "c"), "new");
  const fromSource = await at.stage();
  expect([fromSource.code, statusOf(fromSource.rows)]).toEqual([0, everywhere("staged")]);
  for (const node of nodes) expect(readFileSync(join(at.copy(node), "c"), "utf8")).toBe("new");
  expect(existsSync(join(at.cache("HF_HOME"), "c"))).toBe(false);
});

const noSlowFs = whyNoSlowFs();

test.skipIf(!haveSlurm || noSlowFs !== undefined)(
  "the slow storage is read once for three nodes [needs Slurm and FUSE]",
  async () => {
    using at = new Staging();
    await using stack = new AsyncDisposableStack();
    const bytes = 3_000_000;
    mkdirSync(join(at.source(), "hub"));
    for (let i = 0; i < 20; i++)
      writeFileSync(
        join(at.source(), "hub", `f${i}`),
        Buffer.from(crypto.getRandomValues(new Uint8Array(bytes / 20 / 2))),
      );
    for (let i = 20; i < 40; i++)
      writeFileSync(join(at.source(), `f${i}`), Buffer.from(crypto.getRandomValues(new Uint8Array(bytes / 20 / 2))));
    const slow = stack.use(await SlowMount.start(buildSlowFs(at.dir), at.source(), join(at.dir, "slow")));
    at.write(".euler-files.json", {
      ...JSON.parse(at.read(join(at.home, ".euler-files.json"))),
      vars: { HF_HOME: { source: slow.path, enabled: true } },
    });
    slow.reset();
    const ran = await at.stage();
    expect(statusOf(ran.rows)).toEqual(everywhere("staged"));
    expect(slow.requests().bytesRead).toBe(bytes);
    for (const node of nodes) expect(await at.difference(node)).toBe("");
    slow.reset();
    expect(statusOf((await at.stage()).rows)).toEqual(everywhere("fresh"));
    expect(slow.requests().bytesRead).toBe(0);
  },
);

onSlurm("of twelve tasks that all call it at once one works, and all end well", async () => {
  using at = new Staging();
  for (let i = 0; i < 50; i++) writeFileSync(join(at.source(), `f${i}`), `content ${i}`);
  const script = "ef stage --json >out.$SLURM_PROCID 2>err.$SLURM_PROCID";
  const ran = await at.inJob(["srun", "-N3", "-n12", "--ntasks-per-node=4", "bash", "-c", script], {
    options: ["-N3", "-n12", "--ntasks-per-node=4"],
  });
  expect([ran.code, ran.stderr]).toEqual([0, ""]);
  const statuses = Array.from({ length: 12 }, (_, i) => {
    const { results } = JSON.parse(at.read(join(at.home, `out.${i}`)));
    return JSON.stringify(statusOf(results));
  }).sort();
  expect(statuses).toEqual([
    ...Array(11).fill(JSON.stringify(everywhere("fresh"))),
    JSON.stringify(everywhere("staged")),
  ]);
  for (const node of nodes) expect(await at.difference(node)).toBe("");
});

onSlurm("where scratch has no place for the lock of a job, all work at once, and that is right too", async () => {
  using at = new Staging(["A_HOME", "B_HOME"]);
  for (const name of ["A_HOME", "B_HOME"]) fill(at, name);
  const script = "ef stage --json >out.$SLURM_PROCID 2>err.$SLURM_PROCID";
  for (const before of [
    "export SCRATCH=/no/such/place",
    'mkdir -p "$SCRATCH/.cache/euler-files/.stage-$SLURM_JOB_ID.lock"',
  ]) {
    const argv = ["bash", "-c", `${before}; srun -N3 -n6 --ntasks-per-node=2 bash -c '${script}'`];
    const ran = await at.inJob(argv, { options: ["-N3", "-n6", "--ntasks-per-node=2"] });
    expect([ran.code, ran.stderr]).toEqual([0, ""]);
    for (let i = 0; i < 6; i++) {
      const { results, errors } = JSON.parse(at.read(join(at.home, `out.${i}`)));
      expect(errors).toEqual([]);
      expect(results.every(({ status }: Row) => ["fresh", "staged"].includes(status))).toBe(true);
    }
    for (const name of ["A_HOME", "B_HOME"])
      for (const node of nodes) expect(await at.difference(node, { name })).toBe("");
    for (const name of ["A_HOME", "B_HOME"]) writeFileSync(join(at.source(name), "more"), "x");
  }
});

onSlurm("two jobs that stage to the same nodes at once do not wait for each other for ever", async () => {
  using at = new Staging(["A_HOME", "B_HOME", "C_HOME"]);
  for (const name of ["A_HOME", "B_HOME", "C_HOME"]) fill(at, name);
  const all = await Promise.all([at.stage(), at.stage(), at.stage("--force"), at.stage()]);
  for (const { code, errors } of all) expect([code, errors]).toEqual([0, []]);
  for (const name of ["A_HOME", "B_HOME", "C_HOME"])
    for (const node of nodes) expect(await at.difference(node, { name })).toBe("");
});

onSlurm("what a job made and changed on a node stays; with mirror what is not at the source goes", async () => {
  using at = new Staging();
  for (const name of ["same", "changed", "gone"]) writeFileSync(join(at.source(), name), name);
  expect((await at.stage("--keep")).code).toBe(0);
  const later = new Date(Date.now() + 5_000);
  writeFileSync(join(at.copy("n2"), "changed"), "by a job");
  utimesSync(join(at.copy("n2"), "changed"), later, later);
  writeFileSync(join(at.copy("n2"), "made"), "by a job");
  writeFileSync(join(at.source(), "new"), "new");
  rmSync(join(at.source(), "gone"));
  const ran = await at.stage("--keep");
  expect([ran.code, statusOf(ran.rows)]).toEqual([0, everywhere("staged")]);
  const read = (node: string, name: string) => {
    const file = join(at.copy(node), name);
    return existsSync(file) ? readFileSync(file, "utf8") : undefined;
  };
  const names = ["same", "changed", "gone", "made", "new"];
  expect(names.map((name) => read("n2", name))).toEqual(["same", "by a job", "gone", "by a job", "new"]);
  expect(names.map((name) => read("n3", name))).toEqual(["same", "changed", "gone", undefined, "new"]);

  const config = JSON.parse(at.read(join(at.home, ".euler-files.json")));
  config.ef.vars = { HF_HOME: { mirror: true } };
  at.write(".euler-files.json", config);
  const mirrored = await at.stage("--keep");
  expect([mirrored.code, mirrored.errors]).toEqual([0, []]);
  expect(names.map((name) => read("n3", name))).toEqual(["same", "changed", undefined, undefined, "new"]);
  expect([read("n2", "made"), read("n2", "changed")]).toEqual(["by a job", "by a job"]);
});

onSlurm("copies are removed on all nodes; what a job made there stays", async () => {
  using at = new Staging();
  mkdirSync(join(at.source(), "hub"));
  writeFileSync(join(at.source(), "hub/model"), "x");
  const ran = await at.inJob([
    ...["bash", "-c", 'ef stage --json >staged && echo result >"$1/out" && ef stage --remove --json', "sh"],
    at.copy("n2"),
  ]);
  expect([ran.code, ran.stderr]).toEqual([0, ""]);
  const { results, errors } = JSON.parse(ran.stdout);
  expect(errors).toEqual([]);
  expect(results.map(({ node, status, left }: never) => [node, status, left])).toEqual([
    ["n1", "removed", 0],
    ["n2", "kept", 1],
    ["n3", "removed", 0],
  ]);
  expect(nodes.map((node) => existsSync(at.copy(node)))).toEqual([false, true, false]);
  expect(readFileSync(join(at.copy("n2"), "out"), "utf8")).toBe("result\n");
  expect(existsSync(join(at.copy("n2"), "hub"))).toBe(false);
  // The next one makes it whole again.
  expect(statusOf((await at.stage()).rows)).toEqual(everywhere("staged"));
  expect(await at.difference("n2", { args: ["--exclude=/out"] })).not.toContain("hub");
});

onSlurm("as a job of its own: it prints its number, and a job after it finds the copies", async () => {
  using at = new Staging();
  writeFileSync(join(at.source(), "model"), "x");
  const dry = await at.ef(["stage", "--job", "--dry-run", "--json", "--", "-N3"]);
  expect(dry.code).toBe(0);
  expect(JSON.parse(dry.stdout).command_line).toContain("-N3");
  const { stdout, code, stderr } = await at.ef(["stage", "--job", "-N3", `--output=${at.dir}/job.%j`]);
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout).toMatch(/^\d+\n$/);
  const id = stdout.trim();
  const script = 'ef exec --node-local -- sh -c \'echo "$SLURMD_NODENAME $HF_HOME $(cat "$HF_HOME/model")"\'';
  const after = ["srun", "-N3", `--dependency=afterok:${id}`, "-K", "bash", "-c", script];
  const ran = await run(after, { cwd: at.home, env: at.env });
  expect([ran.code, at.read(join(at.dir, `job.${id}`))]).toEqual([0, expect.stringContaining("n3 HF_HOME: complete")]);
  for (const node of nodes) expect(ran.stdout).toContain(`${node} ${at.copy(node)} x\n`);
  expect(ran.stderr).not.toContain("complete");
  // It was kept for jobs to come.
  expect(nodes.map((node) => existsSync(at.copy(node)))).toEqual([true, true, true]);
  expect(at.on("n1")).toContain(".HF_HOME.pin-0");
  const bad = await at.ef(["stage", "--job", "--", "--no-such-option"]);
  expect([bad.code, bad.stdout]).toEqual([1, ""]);
  expect((await at.ef(["stage", "-N3"])).code).toBe(2);
});

onSlurm("in a batch job with one node, and on some of its nodes", async () => {
  using at = new Staging();
  writeFileSync(join(at.source(), "model"), "x");
  const out = join(at.dir, "one");
  const wrapped = ["sbatch", "-Q", "--wait", "-N1", "-w", "n2", `--output=${out}`, "--wrap", "ef stage --json"];
  expect((await run(wrapped, { cwd: at.home, env: at.env })).code).toBe(0);
  expect(statusOf(JSON.parse(at.read(out)).results)).toEqual({ n2: "staged" });
  expect(nodes.map((node) => existsSync(at.copy(node)))).toEqual([false, true, false]);
  // n2 has it, the others get it.
  expect(statusOf((await at.stage()).rows)).toEqual({ n1: "staged", n2: "fresh", n3: "staged" });
});

onSlurm("what this way of copying does not do is said", async () => {
  using at = new Staging(["HF_HOME"], { rsync_extra_args: ["--exclude=*.lock"], ef: { transfer: { xattrs: true } } });
  writeFileSync(join(at.source(), "model"), "x");
  const { code, warnings } = await at.stage();
  expect(code).toBe(0);
  expect(warnings).toEqual([
    expect.stringContaining("rsync_extra_args"),
    expect.stringContaining("extended attributes"),
  ]);
});

onSlurm("options of the job's own steps are nothing for those of ef", async () => {
  using at = new Staging();
  writeFileSync(join(at.source(), "model"), "x");
  const env = {
    SLURM_NTASKS: "1",
    SLURM_LABELIO: "1",
    SLURM_UNBUFFEREDIO: "1",
    SLURM_EXACT: "1",
    SLURM_CPU_BIND: "cores",
  };
  const ran = await at.inJob([
    "env",
    ...Object.entries(env).map(([key, value]) => `${key}=${value}`),
    "ef",
    "stage",
    "--json",
  ]);
  expect([ran.code, statusOf(JSON.parse(ran.stdout).results)]).toEqual([0, everywhere("staged")]);
});

onSlurm("the secret of a run is in no command line and in no environment", async () => {
  using at = new Staging();
  for (let i = 0; i < 30; i++)
    writeFileSync(join(at.source(), `f${i}`), crypto.getRandomValues(new Uint8Array(50_000)));
  const seen: string[] = [];
  const running = at.stage("--bwlimit", "1M");
  let isOver = false;
  void running.finally(() => (isOver = true));
  while (!isOver) {
    const { stdout } = await run(["ps", "-eo", "args"], { env: at.env });
    seen.push(...stdout.split("\n").filter((line) => line.includes("__stage-agent")));
    await Bun.sleep(20);
  }
  expect((await running).code).toBe(0);
  expect(seen.length).toBeGreaterThan(0);
  for (const line of new Set(seen)) expect(line).not.toMatch(/[0-9a-f]{64}/);
});

test.skipIf(!haveSlurm || isBinary)("from a script, in a job [needs Slurm, on the sources]", async () => {
  using at = new Staging();
  writeFileSync(join(at.source(), "model"), "x");
  const mod = resolve(import.meta.dir, "../../mod.ts");
  const script = at.write(
    "script.ts",
    `import { loadConfig, stage, unstage } from ${JSON.stringify(mod)};
const events = [];
const program = ${JSON.stringify(efArgv)};
const { copies, errors } = await stage(await loadConfig(), { program, onEvent: ({ type }) => events.push(type) });
const gone = await unstage(await loadConfig(), { program });
console.log(JSON.stringify({ copies: copies.map(({ node, state }) => [node, state]), errors, events, gone: gone.copies.map(({ state }) => state) }));
`,
  );
  const ran = await at.inJob([process.execPath, script]);
  expect([ran.code, ran.stderr]).toEqual([0, ""]);
  const said = JSON.parse(ran.stdout);
  expect(said.copies).toEqual(nodes.map((node) => [node, "staged"]));
  expect(said.errors).toEqual([]);
  expect(said.events).toContain("spreading");
  expect(said.gone).toEqual(["removed", "removed", "removed"]);
});

onSlurm("sbcast instead of connections brings the same", async () => {
  using at = new Staging(["HF_HOME"]);
  writeFileSync(join(at.source(), "model"), "x");
  chmodSync(join(at.source(), "model"), 0o640);
  const ran = await at.stage("--spread", "sbcast");
  expect([ran.code, ran.errors]).toEqual([0, []]);
  for (const node of nodes) expect(await at.difference(node)).toBe("");
});
