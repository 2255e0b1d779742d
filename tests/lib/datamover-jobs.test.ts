/** Jobs in the background, without Slurm: what their files say, also where they are damaged. */
import { beforeEach, expect, test } from "bun:test";
import { chmodSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EfError } from "../../lib/base/errors.ts";
import { Datamover } from "../../lib/datamover.ts";
import {
  cancelMoverJob,
  moveInBackground,
  moverJob,
  moverJobEnd,
  moverJobState,
  moverJobs,
  moverJobsDir,
} from "../../lib/datamover-jobs.ts";
import { Home } from "../helpers.ts";

const at = new Home();
process.on("exit", () => at[Symbol.dispose]());
const env = { HOME: at.home, PATH: "/nonexistent" };
const dir = moverJobsDir(env);
const record = {
  ...{ id: "7", argv: ["cp", "a", "b"], cwd: "/w", partition: "dm" },
  ...{ submittedMs: 1_700_000_000_000, output: join(dir, "x.out") },
};

beforeEach(() => {
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
});

const write = (name: string, text: string) => writeFileSync(join(dir, name), text);

test("its exit code is what it wrote down; nobody is asked", async () => {
  write("7.json", JSON.stringify(record));
  write("x.code", "3\n");
  expect(moverJobs(env)).toEqual([record]);
  expect(await moverJobState("7", { env })).toEqual({ ...record, state: "failed", code: 3 });
  expect((await moverJobEnd("7", { env, timeoutS: 0 })).code).toBe(3);
  expect(await cancelMoverJob("7", { env })).toMatchObject({ state: "failed", code: 3 }); // it is over: no scancel
});

test.each([
  ["of another number", { ...record, id: "8" }],
  ["a number that is none of text", { ...record, id: 7 }],
  ["no command", { ...record, argv: [] }],
  ["an argument that is no text", { ...record, argv: ["cp", null] }],
  ["no time", { ...record, submittedMs: "today" }],
  ["a time that no calendar has", { ...record, submittedMs: 1e300 }],
  ["no directory", { ...record, cwd: undefined }],
  ["no object", [record]],
  ["nothing", null],
])("a record with %s is none", (_, damaged) => {
  write("7.json", JSON.stringify(damaged));
  expect(moverJobs(env)).toEqual([]);
  expect(() => moverJob("7", env)).toThrow("Cannot find job 7");
});

test("a damaged record never does more than to be left out", () => {
  const whole = Buffer.from(JSON.stringify(record));
  for (let i = 0; i < 500; i++) {
    const bytes = Buffer.from(whole);
    for (let n = 0; n <= i % 4; n++) bytes[Math.floor(Math.random() * bytes.length)] = Math.floor(Math.random() * 256);
    write("7.json", bytes.subarray(0, i % 3 === 0 ? Math.floor(Math.random() * bytes.length) : undefined).toString());
    for (const job of moverJobs(env)) expect(new Date(job.submittedMs).toISOString()).toBeString();
  }
});

test.each(["", "256\n", "256000000000000000\n", "3", "-1\n", "0\n0\n"])("%j is no exit code", async (text) => {
  write("7.json", JSON.stringify(record));
  write("x.code", text);
  const error = await moverJobState("7", { env }).catch((error) => error);
  expect(error).toMatchObject({ code: "TOOL_MISSING" }); // Slurm is asked
});

test("where its files cannot be kept nothing is submitted", async () => {
  const bin = join(at.dir, "bin-sbatch");
  mkdirSync(bin);
  writeFileSync(join(bin, "sbatch"), `#!/bin/sh\n: >${at.dir}/submitted\necho 1\n`);
  chmodSync(join(bin, "sbatch"), 0o755);
  const link = join(at.dir, "link");
  symlinkSync("/nonexistent/x", link);
  for (const state of ["/dev/null", link]) {
    const dm = new Datamover({
      env: { ...env, PATH: `${bin}:${process.env.PATH}`, XDG_STATE_HOME: state },
      partition: "p",
    });
    const error = await moveInBackground(dm, "cp", ["a", "b"]).catch((error) => error);
    expect(error).toBeInstanceOf(EfError);
    expect(error).toMatchObject({ code: "IO", hint: expect.stringContaining("XDG_STATE_HOME") });
  }
  expect(await Bun.file(join(at.dir, "submitted")).exists()).toBe(false);
});
