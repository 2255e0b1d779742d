import { expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { jobOf, type SlurmJob } from "../../lib/drivers/slurm.ts";
import { endArgv, endMsOf, jobEnd, killWaitS } from "../../lib/drivers/slurm-time.ts";
import { Home, run, until } from "../helpers.ts";
import { haveSlurm, withSlurm } from "../slurm.ts";

test.each([
  ["1970-01-01T00:00:00", 0],
  ["2026-11-22T01:56:33\n", 1_795_312_593_000],
  ["UNLIMITED", undefined],
  ["NONE", undefined],
  ["N/A", undefined],
  ["2026-11-22", undefined],
  ["01:56:33", undefined],
  ["", undefined],
] as const)("squeue's %j is %p", (text, ms) => {
  expect(endMsOf(text)).toBe(ms);
});

const job = (env: Record<string, string>) => jobOf({ SLURM_JOB_ID: "1234", ...env }) as SlurmJob;

test("a task of an array is asked for by its index", () => {
  expect(endArgv(job({}))).toContain("--jobs=1234");
  expect(endArgv(job({ SLURM_ARRAY_JOB_ID: "1230", SLURM_ARRAY_TASK_ID: "7" }))).toContain("--jobs=1230_7");
});

/** A PATH of one program. */
function withProgram(name: string, script: string): Home {
  const at = new Home();
  const path = join(at.dir, "bin", name);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  at.env.PATH = `${join(at.dir, "bin")}:/usr/bin:/bin`;
  return at;
}

test("what the job's environment says is believed, and nobody asked", async () => {
  using at = withProgram("squeue", `echo asked >'${"$HOME"}/asked'; echo 1:00`);
  expect(await jobEnd(job({ SLURM_JOB_END_TIME: "1700000000" }), { env: at.env })).toBe(1_700_000_000_000);
  expect(at.exists(join(at.home, "asked"))).toBe(false);
});

test("a squeue that fails, hangs, or says more than asked for", async () => {
  for (const script of ["exit 1", "echo UNLIMITED", "exec sleep 60"]) {
    using at = withProgram("squeue", script);
    expect(await jobEnd(job({}), { env: at.env, timeoutS: 0.5 })).toBe(undefined);
  }
  using at = withProgram("squeue", "exit 1");
  const known = job({ SLURM_JOB_END_TIME: "1700000000" });
  expect(await jobEnd(known, { env: at.env, isAsked: true })).toBe(1_700_000_000_000);
  using two = withProgram("squeue", "date +%Y-%m-%dT%H:%M:%S; echo N/A");
  const before = Math.floor(Date.now() / 1000) * 1000;
  // Its own zone is of no account.
  const end = (await jobEnd(job({}), { env: { ...two.env, TZ: "Asia/Kolkata" } })) ?? 0;
  expect(end).toBeGreaterThanOrEqual(before);
  expect(end).toBeLessThanOrEqual(Date.now());
});

test("KillWait: what the cluster says, if it does", async () => {
  using at = withProgram("scontrol", "echo 'KillOnBadExit           = 0'; echo 'KillWait                = 45 sec'");
  expect(await killWaitS({ env: at.env })).toBe(undefined);
  expect(await killWaitS({ env: { ...at.env, SLURM_JOB_ID: "1" } })).toBe(45);
  using none = withProgram("scontrol", "exit 1");
  expect(await killWaitS({ env: { ...none.env, SLURM_JOB_ID: "1" } })).toBe(undefined);
});

test.skipIf(!haveSlurm)("the end of a real job, of one of an array, of one without a limit [needs Slurm]", async () => {
  using at = new Home({}, "ef-slurm-");
  withSlurm(at);
  const submit = async (...options: string[]) => {
    const argv = ["sbatch", "--parsable", "--output=/dev/null", ...options, "--wrap", "sleep 60"];
    return (await run(argv, { env: at.env, cwd: at.dir })).stdout.trim();
  };
  const started = Date.now();
  const [array, endless] = [await submit("--time=1:00:00", "--array=3,4"), await submit()];
  try {
    const task = { SLURM_ARRAY_JOB_ID: array, SLURM_ARRAY_TASK_ID: "4" };
    const end = await until("its start", () => jobEnd(job(task), { env: at.env }));
    expect(end).toBeGreaterThan(started + 3_500_000);
    expect(end).toBeLessThanOrEqual(Date.now() + 3_600_000);
    const never = await jobEnd(job({ SLURM_JOB_ID: endless }), { env: at.env });
    expect(never ?? Number.POSITIVE_INFINITY).toBeGreaterThan(Date.now() + 30 * 86_400_000);
    expect(await killWaitS({ env: { ...at.env, SLURM_JOB_ID: array } })).toBe(10); // scripts/slurm.sh
  } finally {
    await run(["scancel", array, endless], { env: at.env });
  }
});
