import { expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
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
