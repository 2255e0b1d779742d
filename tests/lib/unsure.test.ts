/** Files on scratch of which nothing tells whose they are: their contents are read. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { linkSync, mkdirSync, mkdtempSync, realpathSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sidesOf } from "../../lib/engine/builtin.ts";
import { compareTrees } from "../../lib/engine/comparing.ts";
import type { Looked, Sides, Transfer } from "../../lib/engine/engine.ts";
import { baseOf, file } from "../tables.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(realpathSync(tmpdir()), "ef-unsure-"));
  for (const side of ["source", "target"]) mkdirSync(join(dir, side));
  write("source", "f", "weights", 1_700_000_000);
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function write(side: "source" | "target", name: string, text: string, time: number): void {
  writeFileSync(join(dir, side, name), text);
  utimesSync(join(dir, side, name), time, time);
}

const transfer = (workSince = 0): Transfer => ({
  ...{ source: join(dir, "source"), target: join(dir, "target"), exclude: [], past: {}, mirror: false },
  ...{ workSince, arrivalNs: undefined, lockFd: undefined },
});

test("what a job has made shorter since the last sync is no half copy", async () => {
  write("target", "f", "wei", 1_700_000_100);
  const sides = await sidesOf("auto");
  expect((await compareTrees(transfer(), sides, {})).plan).toMatchObject({ files: 1, kept: [] });
  expect((await compareTrees(transfer(1_700_000_050), sides, {})).plan).toMatchObject({ files: 0, kept: ["f"] });
});

test("the rate is kept, and it is told how much has been read", async () => {
  const [size, time] = [3 << 20, 1_700_000_100];
  for (const side of ["source", "target"] as const)
    write(side, "f", "x".repeat(size), time - (side === "source" ? 9 : 0));
  const asked: number[] = [];
  const heard: Looked[] = [];
  const look = { onLook: (looked: Looked) => void heard.push(looked) };
  const { plan } = await compareTrees(transfer(), await sidesOf("auto"), look, async (bytes) => void asked.push(bytes));
  expect(plan).toMatchObject({ files: 0, kept: [] });
  expect(asked.reduce((a, b) => a + b, 0)).toBe(size);
  expect(heard.at(-1)).toEqual({ entries: 2, bytes: size });
});

test("after a sync that was interrupted what is shorter is a job's", async () => {
  write("target", "f", "wei", 1_700_000_100);
  const past = { intent: baseOf({ f: file(7, 1_700_000_000) }) };
  const { plan } = await compareTrees({ ...transfer(), past }, await sidesOf("auto"), {});
  expect(plan).toMatchObject({ files: 0, kept: ["f"] });
});

test("names of one file in two directories: what is read of one holds for both", async () => {
  rmSync(join(dir, "source/f"));
  for (const side of ["source", "target"] as const) {
    for (const below of ["a/s", "b/s"]) mkdirSync(join(dir, side, below), { recursive: true });
    const isJob = side === "target";
    write(side, "a/s/f", isJob ? "results" : "weights", 1_700_000_000 + (isJob ? 100 : 0));
    linkSync(join(dir, side, "a/s/f"), join(dir, side, "b/s/f"));
  }
  const { plan } = await compareTrees(transfer(), await sidesOf("auto"), {});
  expect(plan.kept.sort()).toEqual(["a/s/f", "b/s/f"]);
  expect([plan.files, plan.links]).toEqual([0, 0]);
});

test.each([
  ["source", "EIO", "a problem"],
  ["source", "ENOENT", "a problem"],
  ["target", "EIO", "a problem"],
  ["target", "EACCES", "a job's"],
] as const)("at the %s what cannot be read (%s) is %s", async (side, code, what) => {
  write("target", "f", "results", 1_700_000_100);
  const open = () => {
    throw Object.assign(new Error(`${code}: that went wrong, open`), { code });
  };
  const sides: Sides = await sidesOf("auto");
  sides[side] = new Proxy(sides[side], {
    get: (of, name) => (name === "open" ? open : ((value) => value?.bind?.(of) ?? value)(Reflect.get(of, name, of))),
  });
  const { plan } = await compareTrees(transfer(), sides, {});
  if (what === "a problem") expect(plan.problem?.message).toContain(`Cannot read ${join(dir, side)}/f: `);
  else expect(plan.problem).toBe(undefined);
  expect(plan.kept).toEqual(["f"]);
});
