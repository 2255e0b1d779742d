import { expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { Home, have, until } from "../helpers.ts";

test("status: states, sizes as du has them, and the keys of euler-files", async () => {
  using at = new Home({ "hf/a": "x".repeat(100_000), "torch/b": "y", "pip/c": "z" });
  at.configure({ HF_HOME: "hf", TORCH_HOME: "torch", PIP_CACHE_DIR: "pip", GONE: "nowhere" });
  const file = join(at.home, ".euler-files.json");
  const config = JSON.parse(at.read(file));
  config.vars.PIP_CACHE_DIR.enabled = false;
  writeFileSync(file, JSON.stringify(config));
  await at.ef(["sync", "--var", "HF_HOME", "--var", "TORCH_HOME"]);
  at.write("torch/new", "");

  const { stdout, code } = await at.ef(["status", "--json"]);
  const report = JSON.parse(stdout);
  expect(report).toMatchObject({
    ok: true,
    command: "status",
    warnings: [],
    variables: [
      {
        name: "HF_HOME",
        source: join(at.home, "hf"),
        scratch: at.cache("HF_HOME"),
        status: "fresh",
        state: "fresh",
        files: 1,
      },
      { name: "TORCH_HOME", status: "stale", state: "stale" },
      { name: "PIP_CACHE_DIR", state: "disabled", last_synced: "never", scratch_size: "-" },
      { name: "GONE", status: "source-missing", source_size: "-" },
    ],
  });
  const [hf] = report.variables;
  for (const [dir, bytes, text] of [["hf", hf.source_bytes, hf.source_size]] as const) {
    expect((await at.sh("sh", `du -s --block-size=1 '${at.home}/${dir}' | cut -f1`)).stdout.trim()).toBe(String(bytes));
    expect((await at.sh("sh", `du -sh '${at.home}/${dir}' | cut -f1`)).stdout.trim()).toBe(text);
  }
  expect(hf.last_synced).toMatch(/^\d+s ago$/);
  expect(code).toBe(0);

  const table = (await at.ef(["status"])).stdout;
  expect(table).toMatch(/HF_HOME +~\/hf +1\d\dK +1\d\dK +1 +\d+s ago +fresh/);
  expect(table).toContain("stale (the source changed");
  expect(table).toContain("source missing");
});

test("status --fast counts nothing", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  const { stdout } = await at.ef(["status", "--fast", "--json"]);
  expect(JSON.parse(stdout).variables[0]).toMatchObject({ source_size: "?", scratch_size: "?", status: "not-synced" });
  expect(JSON.parse(stdout).variables[0]).not.toHaveProperty("source_bytes");
});

test("status: a damaged marker is corrupt, a held lock is syncing; nothing is made or changed", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  await at.ef(["status"]);
  expect(at.exists(at.cache("."))).toBe(false);
  await at.ef(["sync"]);
  writeFileSync(at.cache(".HF_HOME.synced"), "{");
  expect(JSON.parse((await at.ef(["status", "--json"])).stdout).variables[0]).toMatchObject({
    last_synced: "corrupt",
    status: "not-synced",
  });
  rmSync(at.cache(".HF_HOME.synced"));

  at.configure({ HF_HOME: "hf" }, { ef: { transfer: { bwlimit: "100K" } } });
  at.write("hf/slow", "x".repeat(3_000_000));
  const done = at.ef(["sync"], {
    env: { SLURM_JOB_ID: "4711" },
    async onStart(child) {
      await until("the sync to show", async () => {
        const { variables } = JSON.parse((await at.ef(["status", "--json", "--fast"])).stdout);
        return variables[0].state === "syncing" && variables[0].holder?.job === "4711";
      });
      expect((await at.ef(["status", "--fast"])).stdout).toContain("job 4711");
      child.kill("SIGTERM");
    },
  });
  expect((await done).code).toBe(143);
});

test("status: without variables it says what to do", async () => {
  using at = new Home();
  at.configure({});
  expect((await at.ef(["status"])).stdout).toContain("ef init");
});

test.skipIf(!have("tmux"))("status --watch redraws until Ctrl-C", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  mkdirSync(join(at.dir, "tmux"));
  const tmux = (line: string) => at.sh("sh", `tmux -f /dev/null -L '${at.dir.replaceAll(/\W/g, "")}' ${line}`);
  await tmux(`new-session -d -x 120 -y 20 'ef status --watch --fast; echo "ended $?" ; sleep 60'`);
  try {
    await until("the first look", async () => (await tmux("capture-pane -p")).stdout.includes("not synced"));
    await at.ef(["sync"]);
    await until("the second look", async () => (await tmux("capture-pane -p")).stdout.includes("fresh"));
    await tmux("send-keys C-c");
    await until("the end", async () => (await tmux("capture-pane -p")).stdout.includes("ended 130"));
  } finally {
    await tmux("kill-server");
  }
});

test("status: one variable that cannot be told here does not hide the others; paths cannot break the table", async () => {
  using at = new Home({ "hf\n\u001b[31m/a": "1" });
  at.configure({ HF_HOME: "hf\n\u001b[31m" });
  const file = join(at.home, ".euler-files.json");
  const config = JSON.parse(at.read(file));
  config.vars.TORCH_HOME = { source: "$UNSET/x", enabled: false };
  writeFileSync(file, JSON.stringify(config));
  mkdirSync(at.cache(".HF_HOME.lock"), { recursive: true });
  const { stdout, code } = await at.ef(["status"]);
  expect(stdout).toContain("~/hf??[31m");
  expect(stdout).toMatch(/TORCH_HOME .*disabled/);
  expect(code).toBe(0);
});

/** What `status --json` says. */
async function report(at: Home, args: readonly string[] = [], env: Record<string, string> = {}) {
  const { stdout, stderr, code } = await at.ef(["status", "--json", ...args], { env });
  expect(stderr).toBe("");
  expect(code).toBe(0);
  const json = JSON.parse(stdout);
  return { ...json, one: json.variables[0] };
}

test("status: purged, with how many files of those that ef put there", async () => {
  using at = new Home({ "hf/a": "1", "hf/b/c": "2", "hf/b/d/e": "3", "hf/gone": "4" });
  symlinkSync("a", join(at.home, "hf/link"));
  mkdirSync(join(at.home, "hf/empty"));
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  const copy = at.cache("HF_HOME");
  const { one: fresh } = await report(at);
  expect(fresh).toMatchObject({ state: "fresh", status: "fresh" });
  expect(fresh).not.toHaveProperty("gone_files");

  unlinkSync(join(copy, "a"));
  const { one } = await report(at);
  expect(one).toMatchObject({ state: "purged", status: "stale", gone_files: 1, of_files: 5 });
  rmSync(join(copy, "b"), { recursive: true });
  unlinkSync(join(copy, "link"));
  const { stdout } = await at.ef(["status"]);
  expect(stdout).toContain("  purged (4 of 5 files gone)\n");

  const { one: fast } = await report(at, ["--fast"]);
  expect(fast).toMatchObject({ state: "stale", status: "stale" });
  expect(fast).not.toHaveProperty("gone_files");

  rmSync(copy, { recursive: true });
  expect((await report(at)).one).toMatchObject({ state: "purged", gone_files: 5, of_files: 5, scratch_size: "-" });
  await at.ef(["sync"]);
  expect((await report(at)).one).toMatchObject({ state: "fresh" });
});

test("status: what is stale and not purged: directories, the source, a job's files, an old marker", async () => {
  using at = new Home({ "hf/a": "1", "hf/b/c": "2" });
  mkdirSync(join(at.home, "hf/empty"));
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  rmSync(join(at.cache("HF_HOME"), "empty"), { recursive: true });
  expect((await report(at)).one).toMatchObject({ state: "stale" });
  await at.ef(["sync"]);
  writeFileSync(join(at.cache("HF_HOME"), "b/job"), "");
  expect((await report(at)).one).toMatchObject({ state: "stale" });
  at.write("hf/new", "");
  unlinkSync(join(at.home, "hf/b/c")); // the copy has it still
  expect((await report(at)).one).toMatchObject({ state: "stale" });
  await at.ef(["sync"]);
  unlinkSync(join(at.cache("HF_HOME"), "b/c")); // which the source has no more either: nothing to fetch again
  expect((await report(at)).one).toMatchObject({ state: "stale" });
  at.configure({ HF_HOME: "hf" }, { skip_if_fresh_seconds: 0 });
  expect((await report(at)).one).toMatchObject({ state: "stale", why: "its marker has aged" });
  unlinkSync(join(at.cache("HF_HOME"), "a"));
  expect((await report(at)).one).toMatchObject({ state: "purged", gone_files: 1 });
  // without its manifest nobody knows what was there
  unlinkSync(at.cache(".HF_HOME.manifest"));
  expect((await report(at)).one).toMatchObject({ state: "stale" });
});

const dayMs = 86_400_000;

test("status: when the first files are purged, by a rule of the configuration", async () => {
  using at = new Home({ "hf/a": "1", "hf/b/old": "2", "torch/x": "3" });
  const daysAgo = (path: string, days: number) => {
    const time = new Date(Date.now() - days * dayMs);
    utimesSync(join(at.home, path), time, time);
  };
  daysAgo("hf/b/old", 10.5);
  daysAgo("torch/x", 20);
  const vars = { HF_HOME: "hf", TORCH_HOME: "torch" };
  at.configure(vars, { ef: { purge: { days: 14, rule: "mtime" } } });
  await at.ef(["sync"]);
  const { variables, purge } = await report(at);
  expect(purge).toEqual({ days: 14, rule: "mtime" });
  expect(variables[0].purged_in_days).toBeCloseTo(3.5, 1);
  expect(variables[0].purge_due_files).toBe(0);
  expect(variables[1].purged_in_days).toBeCloseTo(-6, 1);
  expect(variables[1].purge_due_files).toBe(1);
  const { stdout } = await at.ef(["status"]);
  expect(stdout).toContain(`
TORCH_HOME: 1 file is due to be purged now
HF_HOME: first files are purged in 3 days
  (14 days by mtime: ef.purge in the configuration)
`);
  const fast = await report(at, ["--fast"]);
  expect(fast.variables[0]).not.toHaveProperty("purged_in_days");
  at.configure(vars, { ef: { purge: { days: 0 } } });
  expect((await at.ef(["status"])).stdout).not.toContain("purge");
});

const fakes = resolve(import.meta.dir, "../fakes/quota");

/** Quota programs on PATH that know one limit of the user, in KiB and files. */
function withQuota(at: Home, kib: number, files: number): Record<string, string> {
  const state = join(at.dir, "quota");
  writeFileSync(state, `user ${process.geteuid?.()} 0 ${kib} 0 ${files} 0\n`);
  return { PATH: `${fakes}:${at.env.PATH}`, EF_FAKE_QUOTA: state, EF_FAKE_QUOTA_DIR: at.scratch };
}

test("status: quotas, each once; none with --fast", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  const env = withQuota(at, 2 ** 31, 1_000_000);
  const { quota, warnings } = await report(at, [], env);
  expect(warnings).toEqual([]);
  // lquota is asked everywhere, quota where the file system may have one
  expect(quota).toEqual([
    {
      tool: expect.stringMatching(/^l?quota$/),
      scope: "user",
      used_bytes: expect.any(Number),
      limit_bytes: 2 ** 41,
      left_bytes: expect.any(Number),
      used_files: expect.any(Number),
      limit_files: 1_000_000,
      left_files: expect.any(Number),
    },
  ]);
  const { stdout } = await at.ef(["status"], { env });
  expect(stdout).toMatch(/^quota \(l?quota, user\): \d+K of 2\.0T, \d+ of 1M files$/m);
  expect(await report(at, ["--fast"], env)).not.toHaveProperty("quota");
  expect((await at.ef(["status"], { env: withQuota(at, 4, 10) })).stdout).toMatch(/of 10 files \(used up\)$/m);
});

test("status: quota programs that hang are not waited for, nor left behind", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  const hang = join(at.dir, "hang");
  const { warnings, quota, one } = await report(at, [], { ...withQuota(at, 1, 1), EF_FAKE_QUOTA_HANG: hang });
  expect(warnings).toContain("lquota: no answer within 5 s");
  expect(quota).toEqual([]);
  expect(one).toMatchObject({ state: "fresh", files: 1 });
  const pids = readFileSync(hang, "utf8").trim().split("\n");
  await until("their end", () => pids.every((pid) => !existsSync(`/proc/${pid}`)));
});

test("status: a file where the directory of the copies would be: nothing is synced", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  writeFileSync(join(at.scratch, ".cache"), "in the way");
  const { stdout, code } = await at.ef(["status", "--json"]);
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ variables: [{ name: "HF_HOME", last_synced: "never" }] });
});
