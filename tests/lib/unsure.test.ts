/** Files on scratch of which nothing tells whose they are: their contents are read. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sidesOf } from "../../lib/engine/builtin.ts";
import { compareTrees } from "../../lib/engine/comparing.ts";
import type { Looked, Sides, Transfer } from "../../lib/engine/engine.ts";

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

test("what cannot be read at the source is a problem; on scratch it is a job's", async () => {
  write("target", "f", "results", 1_700_000_100);
  const sides = await sidesOf("auto");
  const broken = (side: keyof Pick<Sides, "source" | "target">): Sides => {
    const open = () => {
      throw Object.assign(new Error("EIO: i/o error, open"), { code: "EIO" });
    };
    const storage = new Proxy(sides[side], {
      get: (of, name) => (name === "open" ? open : ((value) => value?.bind?.(of) ?? value)(Reflect.get(of, name, of))),
    });
    return { ...sides, [side]: storage };
  };
  const source = await compareTrees(transfer(), broken("source"), {});
  expect(source.plan.problem?.message).toContain(`Cannot read ${join(dir, "source")}/f: `);
  const target = await compareTrees(transfer(), broken("target"), {});
  expect([target.plan.problem, target.plan.kept]).toEqual([undefined, ["f"]]);
});
