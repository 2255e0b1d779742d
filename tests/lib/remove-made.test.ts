import { expect, test } from "bun:test";
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { readBase, unknownTime } from "../../lib/engine/manifest.ts";
import { plan, type Step } from "../../lib/engine/plan.ts";
import { removeMade } from "../../lib/engine/remove-made.ts";
import { loadConfig, sync } from "../../mod.ts";
import { Home } from "../helpers.ts";

async function copied(at: Home): Promise<Step> {
  at.configure({ HF_HOME: "hf" }, { ef: { vars: { HF_HOME: { exclude: ["*.lock"] } } } });
  const env = { ...at.env };
  const config = await loadConfig(join(at.home, ".euler-files.json"));
  await sync(config, { env });
  return plan(config, env).steps[0] as Step;
}

const remove = (step: Step) => removeMade(step, () => false);

test("links, hard links, names that are no text, and what is never copied: all of it goes", async () => {
  using at = new Home({ "hf/a": "a", "hf/sub/b": "b" });
  symlinkSync("nowhere", join(at.home, "hf/link"));
  linkSync(join(at.home, "hf/a"), join(at.home, "hf/sub/same"));
  writeFileSync(Buffer.concat([Buffer.from(`${at.home}/hf/`), Buffer.from([0xff, 0x0a, 0x27])]), "odd");
  const step = await copied(at);
  writeFileSync(join(step.target, "sub/x.lock"), "");
  expect(await remove(step)).toMatchObject({ left: 0 });
  expect([existsSync(step.target), readdirSync(join(step.lock, ".."))]).toEqual([false, [".HF_HOME.lock"]]);
});

test("what a job changed, added or put in the place of something stays; the note of it keeps the rest from being missed", async () => {
  using at = new Home({ "hf/a": "a", "hf/same size": "a", "hf/sub/b": "b", "hf/sub/c": "c", "hf/turned": "t" });
  const step = await copied(at);
  const there = (path: string) => join(step.target, path);
  writeFileSync(there("same size"), "b");
  writeFileSync(there("sub/new"), "new");
  rmSync(there("turned"));
  mkdirSync(there("turned"));
  writeFileSync(there("turned/x"), "x");
  const { mtime } = statSync(there("sub/c"));
  writeFileSync(there("sub/c"), "longer");
  utimesSync(there("sub/c"), mtime, mtime);
  expect(await remove(step)).toMatchObject({ left: 4, first: "same size" });
  expect(readdirSync(step.target, { recursive: true }).sort()).toEqual([
    "same size",
    "sub",
    "sub/c",
    "sub/new",
    "turned",
    "turned/x",
  ]);
  const base = readBase(step.manifest);
  const timeOf = (path: string) => base?.scratch[base.tree.find(path) ?? -1];
  expect([timeOf("a"), timeOf("sub/b")]).toEqual([unknownTime, unknownTime]);
  expect([timeOf("same size"), timeOf("sub/c")]).not.toContain(unknownTime);
  expect([existsSync(step.marker), existsSync(step.partial)]).toEqual([false, false]);
});

test("without a note of what ef put there, all of it stays", async () => {
  using at = new Home({ "hf/a": "a" });
  const step = await copied(at);
  writeFileSync(step.manifest, "damaged");
  expect(await remove(step)).toMatchObject({ left: 1, first: "a" });
  expect(existsSync(join(step.target, "a"))).toBeTrue();
});

test("a link in the place of the copy is not followed", async () => {
  using at = new Home({ "hf/a": "a" });
  const step = await copied(at);
  rmSync(step.target, { recursive: true });
  symlinkSync(join(at.home, "hf"), step.target);
  await remove(step);
  expect(at.read(join(at.home, "hf/a"))).toBe("a");
});
