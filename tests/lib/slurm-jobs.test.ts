import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  cancel,
  isOver,
  jobState,
  moverPartition,
  outsideJob,
  parseJobId,
  parsePartitions,
  parseSacct,
  parseScontrol,
  partitions,
  sbatchArgv,
  scriptOf,
  submit,
  waitForJob,
} from "../../lib/drivers/slurm-jobs.ts";
import { have, run, until } from "../helpers.ts";
import { haveSlurm, slurmEnv } from "../slurm.ts";

const env = { PATH: process.env.PATH, ...slurmEnv };
const dir = mkdtempSync(join(tmpdir(), "ef slurm "));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const line =
  "JobId=18 JobName=a b UserId=root(0) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) ExitCode=7:0 " +
  "StartTime=2026-11-22T01:00:02 EndTime=2026-11-22T01:00:02 ReqNodeList=(null) NodeList=dm1 BatchHost=dm1 ";
const endMs = new Date("2026-11-22T01:00:02").getTime();

test.each([
  [line, { state: "failed", exitCode: 7, reason: "NonZeroExitCode", nodes: "dm1", endMs }],
  [
    line.replace("7:0", "0:9"),
    { state: "failed", exitCode: 0, signal: 9, reason: "NonZeroExitCode", nodes: "dm1", endMs },
  ],
  [
    line
      .replace("FAILED Reason=NonZeroExitCode", "PENDING Reason=Nodes required for job are DOWN")
      .replace("=dm1", "="),
    { state: "pending", reason: "Nodes required for job are DOWN", nodes: undefined, endMs },
  ],
  [line.replace("FAILED Reason=NonZeroExitCode", "COMPLETING Reason=None"), { state: "running", nodes: "dm1", endMs }],
  [
    line.replace("FAILED Reason=NonZeroExitCode", "NEW_STATE Reason=None"),
    { state: "unknown", exitCode: 7, nodes: "dm1", endMs },
  ],
])("scontrol: %s", (text, expected) => {
  expect(parseScontrol(text)).toEqual(expected as never);
});

test("scontrol: what is no job", () => {
  expect(parseScontrol("No jobs in the system\n")).toBeUndefined();
});

test.each([
  [
    "COMPLETED|0:0|n[1-2]|2026-11-22T01:00:02\n",
    { state: "completed", exitCode: 0, reason: "COMPLETED", nodes: "n[1-2]", endMs },
  ],
  ["CANCELLED by 1000|0:15||Unknown\n", { state: "cancelled", exitCode: 0, signal: 15, reason: "CANCELLED by 1000" }],
  ["", undefined],
])("sacct: %j", (text, expected) => {
  expect(parseSacct(text)).toEqual(expected as never);
});

test.each([
  ["1234\n", "1234"],
  ["1234;alpha\n", "1234"],
  ["a site's greeting\n1234\n", "1234"],
  ["sbatch: error\n", undefined],
])("sbatch --parsable: %j", (text, id) => {
  expect(parseJobId(text)).toBe(id as never);
});

test.each([
  [
    "normal*|up\ndatamover|down\nnormal*|up\n",
    [
      { name: "normal", isDefault: true, isUp: true },
      { name: "datamover", isDefault: false, isUp: false },
    ],
  ],
  ["", []],
])("sinfo: %j", (text, expected) => {
  expect(parsePartitions(text)).toEqual(expected);
});

test.each([
  [["normal", "datamover"], "datamover"],
  [["data", "dtn"], "dtn"],
  [["notchpeak", "notchpeak-dtn"], "notchpeak-dtn"],
  [["Data_Transfer"], "Data_Transfer"],
  [["normal", "gpu", "bigdata", "database"], undefined],
])("the mover among %j", (names, expected) => {
  const others = names.map((name) => ({ name, isDefault: false, isUp: true }));
  expect(moverPartition(others)).toBe(expected as never);
  expect(moverPartition(others.map((each) => ({ ...each, isDefault: true })))).toBeUndefined();
});

test("a job's own variables are taken out, and nothing else", () => {
  const job = { SLURM_JOB_ID: "1", SLURM_NTASKS: "4", SLURMD_NODENAME: "n1", SRUN_DEBUG: "3", PMI_RANK: "0" };
  expect(outsideJob({ ...job, SLURM_CONF: "/c", SLURMX: "x", PATH: "/bin" })).toEqual({
    SLURM_CONF: "/c",
    SLURMX: "x",
    PATH: "/bin",
  });
  expect(outsideJob({ SLURM_PARTITION: "mine" })).toEqual({ SLURM_PARTITION: "mine" });
  expect(outsideJob({ SLURM_LABELIO: "1", SLURM_STDOUTMODE: "none", PATH: "/bin" })).toEqual({ PATH: "/bin" });
});

test("sbatch's command line", () => {
  expect(sbatchArgv({ options: ["--time=1"], name: "j", output: "/o", cwd: "/w" })).toEqual(
    ["sbatch", "--parsable", "--job-name=j", "--output=/o", "--chdir=/w", "--time=1"], // options last: the caller's win
  );
});

/** Of a job of one hostile argument: also what sbatch takes for options. */
const hostile = [
  "it's",
  "",
  "-x",
  '$HOME `id` "q" \\',
  "a\n#SBATCH --begin=now+1hour\n#BSUB -J spoof\n#PBS -N spoof\n",
];

test("a script gives the arguments back byte for byte", async () => {
  const script = scriptOf(["printf", "[%s]", ...hostile]);
  const { stdout } = await run(["sh", "-c", script], { env });
  expect(stdout).toBe(hostile.map((arg) => `[${arg}]`).join(""));
});

test.skipIf(!haveSlurm)("submit, wait: the arguments, the name and the exit code [needs Slurm]", async () => {
  const output = join(dir, "hostile");
  const argv = ["sh", "-c", 'printf "[%s]" "$SLURM_JOB_NAME" "$@"; exit 7', "sh", ...hostile];
  const id = await submit({ argv, name: "ef-test", output, cwd: "/", options: ["--partition=datamover"], env });
  const states: string[] = [];
  const end = await waitForJob(id, { env, pollMs: 100, onState: ({ state }) => states.push(state) });
  expect(end).toMatchObject({ state: "failed", exitCode: 7, nodes: "dm1" });
  expect(states.at(-1)).toBe("failed");
  expect(readFileSync(output, "utf8")).toBe(["ef-test", ...hostile].map((arg) => `[${arg}]`).join(""));
});

test.skipIf(!haveSlurm)("cancel: one that waits, one that runs, one that is gone [needs Slurm]", async () => {
  const job = { argv: ["sleep", "600"], output: "/dev/null", env };
  const queued = await submit({ ...job, options: ["--begin=now+1hour"] });
  expect(await jobState(queued, { env })).toMatchObject({ state: "pending", reason: "BeginTime" });
  const running = await submit({ ...job, options: ["--partition=datamover"] });
  await until("the job to run", async () => (await jobState(running, { env })).state === "running");
  for (const id of [queued, running]) {
    await cancel(id, { env });
    expect(await waitForJob(id, { env, pollMs: 100 })).toMatchObject({ state: "cancelled" });
    await cancel(id, { env });
  }
});

test.skipIf(!haveSlurm)("a job that nobody knows is over, in an unknown state [needs Slurm]", async () => {
  const state = await jobState("99999999", { env });
  expect(state.state).toBe("unknown");
  expect(isOver(state)).toBe(true);
});

test.skipIf(!have("scontrol"))("a controller that does not answer is no end of a job", async () => {
  const conf = join(dir, "slurm.conf");
  await Bun.write(conf, "ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=1\nMessageTimeout=1\n");
  const state = await jobState("1", { env: { ...env, SLURM_CONF: conf } });
  expect(state.state).toBe("unreachable");
  expect(isOver(state)).toBe(false);
});

test.skipIf(!haveSlurm)("waiting can be stopped [needs Slurm]", async () => {
  const id = await submit({ argv: ["true"], output: "/dev/null", options: ["--begin=now+1hour"], env });
  const stop = new AbortController();
  const waiting = waitForJob(id, { env, signal: stop.signal, onState: () => stop.abort(new Error("enough")) });
  expect(waiting).rejects.toThrow("enough");
  await waiting.catch(() => {});
  await cancel(id, { env });
});

test.skipIf(!haveSlurm)("the partitions of this Slurm [needs Slurm]", async () => {
  expect(await partitions({ env })).toEqual([
    { name: "normal", isDefault: true, isUp: true },
    { name: "datamover", isDefault: false, isUp: true },
  ]);
});

test("without Slurm: an error that says so", async () => {
  expect(submit({ argv: ["true"], env: { PATH: dir } })).rejects.toMatchObject({ code: "TOOL_MISSING", exit: 2 });
});

test.skipIf(!haveSlurm)("sbatch's own words come with the error [needs Slurm]", async () => {
  expect(submit({ argv: ["true"], options: ["--partition=nope"], env })).rejects.toThrow("invalid partition");
});
