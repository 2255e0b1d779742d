/**
 * What the library does, as one script that each runtime runs: the report that it writes is to be the same in all.
 * Newer syntax than that of Node 20 (`await using`) is not for it.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as ef from "ef";

const { HOME = "", REPORT = "", FAKES = "" } = process.env;
const report: Record<string, unknown> = {};

/** What a step gives, or its error as scripts see it. */
async function note(name: string, step: () => unknown): Promise<void> {
  try {
    report[name] = await step();
  } catch (error) {
    const { name: of, code, message, hint, exit } = error as ef.EfError;
    report[name] = { error: error instanceof ef.EfError, of, code, message, hint, exit };
  }
}

const config = await ef.loadConfig();
report.names = Object.keys(ef).sort();

await note("dry run", async () => {
  const { steps, exports } = await ef.sync(config, { dryRun: true });
  return { steps, exports };
});
await note("sync", async () => {
  const types = new Set<string>();
  const { steps, exports, warnings, errors } = await ef.sync(config, {
    workers: 4,
    onEvent: ({ type }) => types.add(type),
  });
  return { steps, exports, warnings, errors, types: [...types].sort() };
});
await note("fresh", async () => (await ef.sync(config)).steps);
await note("forced", async () => (await ef.sync(config, { force: true, workers: 4 })).steps);
await note("by rsync", async () => {
  const only = await ef.sync(ef.checkConfig({ ...config, ef: { transfer: { engine: "rsync" } } }, "test"), {
    ...{ force: true, only: ["HF_HOME"] },
  });
  return only.steps;
});
await note("verify", () => ef.verify(config, { checksum: true }));

await note("node-local", async () => {
  const disk = join(HOME, "disk");
  mkdirSync(disk);
  const env = { ...process.env, TMPDIR: disk };
  const use = await ef.useLocal(config, { nodeLocal: true, env, only: ["HF_HOME"] });
  const { steps, errors } = await ef.sync(config, { nodeLocal: true, keep: false, env, only: ["HF_HOME"] });
  return { steps, errors, removed: await use.remove(), left: readdirSync(disk) };
});

const scratch = (await ef.status(config)).vars[0]?.scratch ?? "";
writeFileSync(join(scratch, "made here"), "new");
writeFileSync(join(scratch, "sub/changed"), "changed on scratch");
writeFileSync(join(HOME, "hf/sub/conflict"), "of the source");
writeFileSync(join(scratch, "sub/conflict"), "of a job");
rmSync(join(scratch, "sub/purged"));
await note("status", () => ef.status(config));
await note("different", async () =>
  (await ef.verify(config)).vars.map(({ status, findings }) => ({ status, findings })),
);
await note("push", async () => {
  const { vars, errors } = await ef.push(config, { only: ["HF_HOME"], onConflict: "scratch" });
  return { vars, errors };
});
await note("usage", () => ef.usage(join(HOME, "hf")));
await note("unknown", () => ef.sync(config, { only: ["NOPE"] }));
await note("stopped", () => ef.sync(config, { force: true, signal: AbortSignal.abort(new Error("enough")) }));
await note("no configuration", () => ef.loadConfig(join(HOME, "none.json")));
await note("an invalid one", () => ef.checkConfig({ version: 1, scratch_base: 7 }, "here.json"));

await note("lock", async () => {
  const path = join(HOME, "a lock");
  const held = await ef.lock(path, { timeoutS: 1 });
  const second = await ef.lock(path, { timeoutS: 0 }).catch((error) => error.code);
  held.assertHeld();
  await held[Symbol.asyncDispose]();
  const third = await ef.lock(path, { timeoutS: 0 });
  await third[Symbol.asyncDispose]();
  return { kind: held.kind, second, third: third.kind };
});

await note("saved", async () => {
  const { name, description, warnings } = await ef.venvSave(config, "tools", { dir: join(HOME, "env") });
  return { name, description, warnings };
});
await note("list", () => ef.venvList(config));
await note("loaded", () => ef.venvLoad(config, "tools"));
await note("exported", () => ef.venvExport(config, "tools", join(HOME, "again")));
await note("live", () => ef.venvLive());
await note("tables", () => ({
  presets: ef.presets,
  dialects: ef.dialects,
  modes: ef.pruneModes,
  conflicts: ef.onConflicts,
}));
await note("exports", () => ef.exportText("fish", { A: "it's" }, true));

await note("execute", () =>
  ef.execute(["sh", "-c", 'echo "$X" >"$1"; exit 7', "sh", join(HOME, "executed")], {
    env: { ...process.env, X: "seen" },
  }),
);
report.executed = readFileSync(join(HOME, "executed"), "utf8");
await note("killed", () => ef.execute(["sh", "-c", "kill -9 $$"], { env: process.env }));
await note("cannot start", () => ef.execute(["nowhere"], { env: process.env }));

await note("moved", async () => {
  const dm = new ef.Datamover({ dir: FAKES });
  const listing = await dm.dtls(join(HOME, "hf")).communicate();
  const copied = await ef.waitfor(dm.dtcp("-r", join(HOME, "hf/sub"), join(HOME, "moved")));
  const failed = await dm.dtls(join(HOME, "nothing")).communicate();
  const sleeping = dm.dttar("-cf", "-", "-C", HOME, "hf");
  sleeping.kill();
  return { listing: listing.stdout, copied, failed: failed.code ?? failed, killed: (await sleeping.wait()) !== 0 };
});
await note("no tool", () => new ef.Datamover({ dir: FAKES }).run("dtnope").wait());

await note("workspaces", async () => {
  const ws = new ef.Workspace();
  const made = await ws.allocate("data", { days: 10 });
  const again = await ws.allocate("data", { days: 10 });
  const listed = (await ws.list()).map(({ id, path, extensionsLeft }) => ({ id, path, extensionsLeft }));
  const text = await ws.ws_find("data").communicate();
  await ws.release("data");
  return { made: [made.path, again.path], listed, text, after: await ws.list() };
});
await note("a name that is none", () => new ef.Workspace().allocate("../x"));

await note("packed", async () => {
  const file = join(HOME, "code/task.py");
  const { packageId, metadata } = await ef.packageFunction({ file, functionName: "main", cwd: join(HOME, "code") });
  return { packageId, metadata };
});
await note("submitted", async () => {
  const [file, cwd] = [join(HOME, "code/task.py"), join(HOME, "code")];
  const { packagePath } = await ef.packageFunction({ file, functionName: "main", cwd, args: [21] });
  const { id } = await ef.submit(config, packagePath, { cluster: "local" });
  const { ok, value } = await ef.jobWait(id);
  return { ok, value, listed: ef.jobs().map((job) => job.id === id), state: (await ef.jobState(id)).state };
});
await note("cluster files", async () => {
  const files = await ef.ClusterFilesystem.open(config, "local", { workDir: join(HOME, "hf") });
  const seen = [
    await files.exists("sub"),
    await files.isDir("large"),
    await files.glob("**/*"),
    await files.countFiles(),
  ];
  await files[Symbol.asyncDispose]();
  return seen;
});
await note("a bundle", async () => {
  writeFileSync(join(HOME, "code/script.ts"), "export const one: number = 1;\n");
  const { functionName } = await ef.packageScript({ file: join(HOME, "code/script.ts"), cwd: join(HOME, "code") });
  return functionName;
});
await note("no Python", () => {
  writeFileSync(join(HOME, "code/broken.py"), "def main(:\n  pass\n");
  return ef.packageFunction({ file: join(HOME, "code/broken.py"), functionName: "main", cwd: join(HOME, "code") });
});
await note("settings", async () => {
  await ef.updateConfig(ef.configPath(), (raw) => ef.setKey(raw, "parallel_jobs", "7"));
  return ef.getKey((await ef.loadConfig()) as never, "parallel_jobs");
});
await note("migrate", async () => {
  const { steps: _, ...result } = (await ef.migrate(await ef.loadConfig(), {
    ...{ what: "HF_HOME", to: join(HOME, "project/hf"), checksum: true, configFile: ef.configPath() },
  })) as never as Record<string, unknown>;
  return result;
});
await note("shell", () => ef.shellInit({ shell: "zsh", program: "/opt/ef" }));
await note("doctor", async () => (await ef.doctor()).map(({ name }) => name));

writeFileSync(`${REPORT}.part`, JSON.stringify(report, null, 2));
renameSync(`${REPORT}.part`, REPORT);
