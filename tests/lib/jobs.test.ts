/** The parts of `ef submit` and `ef jobs` that need no cluster: scripts in the shells that run them, records, options. */
import { expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ClusterConfig } from "../../lib/config/schema.ts";
import { parseLook, standing } from "../../lib/jobs/look.ts";
import { clusterOf } from "../../lib/jobs/place.ts";
import { type JobRecord, jobDir, newId, readRecord, readRecords, writeRecord } from "../../lib/jobs/record.ts";
import { readResult } from "../../lib/jobs/results.ts";
import {
  cancelScript,
  jobScript,
  lookScript,
  prepareScript,
  startScript,
  valuesScript,
} from "../../lib/jobs/script.ts";
import { jobResult, jobWait } from "../../lib/jobs.ts";
import { slurmOptions } from "../../lib/submit.ts";
import { Home, have, type Ran, run, until } from "../helpers.ts";
import { haveSlurm, withSlurm } from "../slurm.ts";

/** What `sh` is somewhere. */
const shells = ["dash", "bash", "ksh"].filter(have);
const hostile = 'it\'s a\n$(touch x) "dir"';

/** Run a script of the library as a cluster's `sh` does. */
const sh = (at: Home, shell: string, script: string, args: string[]): Promise<Ran> =>
  run([shell, "-c", script, "ef", ...args], { env: { ...at.env, SHELL: "/bin/bash" }, cwd: at.home });

const record = (more: Partial<JobRecord> = {}): JobRecord => ({
  ...{ version: 1, id: "train-1a2b3c4d", cluster: "local", definition: { type: "local" } as ClusterConfig },
  ...{ package_id: "ab".repeat(32), function_name: "train", kind: "python", dir: "/w/jobs/train-1a2b3c4d" },
  ...{ slurm_id: null, submitted_at: 1000, state: "running", reason: null, exit_code: null },
  ...more,
});

/** A job that runs `command` in its script, started as on a cluster. */
async function started(at: Home, shell: string, command: string, more: { env?: Record<string, string> } = {}) {
  const dir = join(at.home, hostile, "jobs/j1");
  mkdirSync(dir, { recursive: true });
  const python = join(at.dir, "bin/fake-python");
  writeFileSync(python, `#!/bin/sh\n${command}\n`);
  chmodSync(python, 0o755);
  const job = { dir, package: "/p.zip", python: { from: "python", python }, modules: [], env: {} } as const;
  writeFileSync(join(dir, "job.sh"), jobScript({ ...job, ...more }));
  const { code, stdout, stderr } = await sh(at, shell, startScript, [dir]);
  expect([code, stdout, stderr]).toEqual([0, "", ""]);
  const look = async (out = 0, err = 0, most = 1000) =>
    parseLook(Buffer.from((await sh(at, shell, lookScript, [dir, String(out), String(err), String(most)])).stdout));
  return { dir, look };
}

test.each(shells)("in %s: a job runs to its end, and is seen by pieces", async (shell) => {
  using at = new Home();
  const { dir, look } = await started(at, shell, 'printf "%s" "$X"; echo "args: $*" >&2; exit 7', {
    env: { X: hostile },
  });
  const seen = await until("its end", async () => {
    const now = await look();
    return now.status === undefined ? undefined : now;
  });
  expect(standing(seen)).toEqual({ state: "failed", exitCode: 7, reason: undefined });
  expect(seen.stdout.toString()).toBe(hostile);
  expect(seen.stderr.toString()).toBe(`args: /p.zip --into ${dir}/work --result ${dir}/result.json\n`);
  const part = await look(3, 5, 4);
  expect([part.stdout.toString(), part.stderr.toString()]).toEqual([
    hostile.slice(3, 7),
    seen.stderr.toString().slice(5, 9),
  ]);
  expect((await look(10_000, 0)).stdout).toHaveLength(0);
  for (const name of ["status", "stdout", "stderr"]) expect(statSync(join(dir, name)).size).toBeGreaterThan(0);
});

test.each(shells)("in %s: a job is cancelled with all that it started", async (shell) => {
  using at = new Home();
  const { dir, look } = await started(at, shell, `sh -c 'echo $$ >child; exec sleep 600' & wait`);
  const child = await until("the child", () => {
    const text = existsSync(join(dir, "child")) ? readFileSync(join(dir, "child"), "utf8") : "";
    return text.endsWith("\n") && Number(text);
  });
  expect(standing(await look()).state).toBe("running");
  expect((await sh(at, shell, cancelScript, [dir])).code).toBe(0);
  expect(standing(await look())).toMatchObject({ state: "cancelled", exitCode: undefined });
  await until(
    "the end of the child",
    () => !existsSync(`/proc/${child}/cmdline`) || readFileSync(`/proc/${child}/cmdline`).length === 0,
  );
});

test("a job that was killed from outside is lost, one whose number another process has too", async () => {
  using at = new Home();
  const { dir, look } = await started(at, "sh", "exec sleep 600");
  await until("its start", async () => (await look()).phase === "running");
  const [pid = "", start = "", host = ""] = readFileSync(join(dir, "pid"), "utf8").trim().split(" ");
  process.kill(-Number(pid), "SIGKILL");
  expect(await until("its end", async () => (await look()).alive === "no")).toBe(true);
  expect(standing(await look())).toMatchObject({ state: "lost", reason: "it was ended from outside (running)" });
  writeFileSync(join(dir, "pid"), `${process.pid} ${start} ${host}\n`);
  expect((await look()).alive).toBe("no");
  writeFileSync(join(dir, "pid"), `${pid} ${start} another-node\n`);
  expect((await look()).alive).toBe("elsewhere");
  const { code, stderr } = await sh(at, "sh", cancelScript, [dir]);
  expect([code, stderr]).toEqual([3, "it runs on another-node\n"]);
  expect(
    standing(parseLook(Buffer.from((await sh(at, "sh", lookScript, [join(at.dir, "gone"), "0", "0", "9"])).stdout))),
  ).toEqual({
    ...{ state: "lost", exitCode: undefined, reason: "its directory is gone" },
  });
});

test("what is known of a job that has ended stays true when its directory is gone", async () => {
  using at = new Home();
  const dir = join(at.home, "gone");
  for (const known of [
    { id: "a", state: "completed", exit_code: 0 },
    { id: "b", state: "failed", reason: "Cannot submit it" },
  ] as const) {
    writeRecord(at.env, record({ dir, ...known }));
    expect(await jobWait(known.id, { env: at.env })).toMatchObject({ state: known.state, ok: false });
    expect(readRecord(known.id, at.env)).toMatchObject(known);
  }
});

test.skipIf(!haveSlurm)("a result that the node has written and that is not seen here yet is waited for", async () => {
  using at = new Home();
  withSlurm(at);
  const dir = join(at.home, "job");
  mkdirSync(dir);
  const ended = { dir, slurm_id: "999999", state: "completed", exit_code: 0 } as const;
  writeRecord(at.env, record({ ...ended, definition: { type: "slurm" } }));
  setTimeout(() => {
    writeFileSync(join(dir, "result.json"), '{"ok": true, "value": 7}\n');
    writeFileSync(join(dir, "status"), "0\n");
  }, 400);
  expect(await jobResult("train-1a2b3c4d", { env: at.env })).toMatchObject({ ok: true, value: 7 });
});

test("a job that Slurm starts once more begins anew", async () => {
  using at = new Home();
  const { dir, look } = await started(at, "sh", "echo one");
  const ended = () => until("its end", async () => (await look()).status !== undefined);
  await ended();
  mkdirSync(join(dir, "work"));
  writeFileSync(join(dir, "result.json"), "old");
  writeFileSync(join(dir, "result.pickle"), "old");
  rmSync(join(dir, "status"));
  await sh(at, "sh", startScript, [dir]);
  await ended();
  for (const name of ["work", "result.json", "result.pickle"]) expect(existsSync(join(dir, name))).toBe(false);
});

test.each(shells)("in %s: values of variables, those of login shells too", async (shell) => {
  using at = new Home({ ".profile": 'echo noise; export FAR="/scratch/$USER x"\n' });
  at.env.NEAR = "a 'b'";
  const { stdout } = await sh(at, shell, valuesScript, ["NEAR", "FAR", "NOWHERE"]);
  expect(stdout.split("\0")).toEqual(["a 'b'", "/scratch/ x", "", ""]);
});

test.each(shells)("in %s: the work directory is made for its owner alone, and programs are found", async (shell) => {
  using at = new Home();
  const work = join(at.home, "new", "work dir");
  const { code, stdout } = await sh(at, shell, prepareScript, [work, "sh", "no such program"]);
  expect(code).toBe(0);
  expect(stdout.split("\n")).toEqual([`work=${work}`, expect.stringMatching(/^sh=\/.*\/sh$/), "no such program=", ""]);
  for (const dir of [work, join(work, "jobs"), join(work, "packages")]) expect(statSync(dir).mode & 0o777).toBe(0o700);
});

test.skipIf(process.geteuid?.() !== 0)("a work directory of somebody else is refused", async () => {
  using at = new Home();
  const work = join(at.home, "work");
  mkdirSync(work);
  Bun.spawnSync(["chown", "65534", work]);
  const { code, stderr } = await sh(at, "sh", prepareScript, [work, "sh"]);
  expect([code, stderr]).toEqual([1, "it belongs to somebody else\n"]);
});

test("records: private, found by their beginning, and never damaged ones", () => {
  using at = new Home();
  writeRecord(at.env, record());
  writeRecord(at.env, record({ id: "train-1a2b9999", submitted_at: 2000 }));
  const dir = jobDir(at.env, "train-1a2b3c4d");
  expect(statSync(dir).mode & 0o777).toBe(0o700);
  expect(statSync(join(dir, "job.json")).mode & 0o777).toBe(0o600);
  expect(readRecords(at.env).map(({ id }) => id)).toEqual(["train-1a2b9999", "train-1a2b3c4d"]);
  expect(readRecord("train-1a2b3", at.env).id).toBe("train-1a2b3c4d");
  for (const [id, why] of [
    ["train", "several begin so"],
    ["", "from here"],
    ["..", "from here"],
    ["../x", "from here"],
    ["nope", "from here"],
  ] as const)
    expect(() => readRecord(id, at.env)).toThrow(why);
  for (const text of ["", "{", "[]", "null", '{"version":1}', JSON.stringify(record({ id: "other" }))]) {
    writeFileSync(join(dir, "job.json"), text);
    expect(readRecords(at.env).map(({ id }) => id)).toEqual(["train-1a2b9999"]);
  }
  expect(newId("Class.method ü")).toMatch(/^Class-method-[0-9a-f]{8}$/);
  expect(newId("-")).toMatch(/^job-[0-9a-f]{8}$/);
});

test("results: values keep their digits; errors, pickles, scripts, damaged ones", () => {
  using at = new Home();
  const ended = record({ state: "completed", exit_code: 0 });
  writeRecord(at.env, ended);
  const path = join(jobDir(at.env, ended.id), "result.json");
  const result = (text: string) => {
    writeFileSync(path, text);
    return readResult(at.env, ended);
  };
  expect(result('{"ok": true, "value": [12345678901234567890, {"a": 1.0}]}\n')).toMatchObject({
    ...{ ok: true, valueText: '[12345678901234567890, {"a": 1.0}]', exitCode: 0 },
  });
  expect(result('{"ok": true, "pickle": "result.pickle", "type": "numpy.ndarray"}')).toMatchObject({
    pickle: { path: join(jobDir(at.env, ended.id), "result.pickle"), type: "numpy.ndarray" },
  });
  const error = { type: "ValueError", message: "no", traceback: "…" };
  expect(result(JSON.stringify({ ok: false, error }))).toMatchObject({ ok: false, error });
  expect(() => result('{"ok": tr')).toThrow(`${path} is damaged`);
  expect(readResult(at.env, { ...ended, id: "none" })).toMatchObject({ ok: false, reason: "it left no result" });
  expect(readResult(at.env, { ...ended, id: "none", kind: "script" })).toMatchObject({ ok: true });
});

test("options of sbatch: the definition, the call over it, more at the end", () => {
  const definition = {
    type: "slurm",
    partition: "normal",
    time: "60",
    nodes: 2,
    sbatch_args: ["--exclusive"],
  } as ClusterConfig;
  const options = { resources: { time: "30", gpus: "a100:1", memory: "16G" }, sbatchArgs: ["--hold"] };
  expect(slurmOptions(definition, options)).toEqual([
    ...["--nodes=2", "--time=30", "--gpus=a100:1", "--mem=16G", "--partition=normal", "--exclusive", "--hold"],
  ]);
});

test("clusters: the only one, local without any, misspelled ones", () => {
  const config = (clusters: object) => ({ ef: { clusters } }) as never;
  expect(clusterOf(config({ euler: { type: "slurm" } })).name).toBe("euler");
  expect(clusterOf(undefined, "local").definition).toEqual({ type: "local" });
  expect(() => clusterOf(undefined)).toThrow("Cannot tell on which cluster");
  expect(() => clusterOf(config({ a: {}, b: {} }))).toThrow("Cannot tell on which cluster");
  expect(() => clusterOf(config({ euler: {} }), "eulr")).toThrow("Cannot find the cluster eulr");
});
