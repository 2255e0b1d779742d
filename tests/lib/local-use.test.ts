import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { removeAbandoned, useCopies } from "../../lib/engine/local-use.ts";
import { pin, pins } from "../../lib/engine/pins.ts";
import { plan, type Step } from "../../lib/engine/plan.ts";
import { type Config, loadConfig, sync } from "../../mod.ts";
import { Home } from "../helpers.ts";

/** A copy that is whole. */
async function copy(): Promise<{ at: Home; config: Config; step: Step } & Disposable> {
  const at = new Home({ "hf/a": "a", "hf/sub/b": "b" });
  at.configure({ HF_HOME: "hf" });
  const env = { ...at.env };
  const config = await loadConfig(join(at.home, ".euler-files.json"));
  await sync(config, { env });
  const [step] = plan(config, env).steps;
  return { at, config, step: step as Step, [Symbol.dispose]: () => at[Symbol.dispose]() };
}

test("the last one removes the copy, in whatever order they end", async () => {
  using made = await copy();
  const uses = await Promise.all(Array.from({ length: 4 }, () => useCopies([made.step])));
  const removed = await Promise.all(uses.map((use) => use.remove()));
  expect(removed.flat()).toEqual([{ name: "HF_HOME", target: made.step.target, left: 0, first: undefined }]);
  expect(existsSync(made.step.target)).toBeFalse();
});

test("one that ends without a word is no use any more", async () => {
  using made = await copy();
  const [one, two] = [await useCopies([made.step]), await useCopies([made.step])];
  one.end();
  expect(await two.remove()).toHaveLength(1);
});

test("where the file of those who use it was cleaned away, somebody may use it all the same: it stays", async () => {
  using made = await copy();
  const { step } = made;
  const [one, two] = [await useCopies([step]), await useCopies([step])];
  rmSync(step.lock.replace(/lock$/, "use"));
  const later = await useCopies([step]);
  one.end();
  expect(await two.remove()).toEqual([]);
  expect(existsSync(join(step.target, "a"))).toBeTrue();
  expect(await later.remove()).toHaveLength(1);
});

test("a pin keeps it, and is asked for again when the marker is away", async () => {
  using made = await copy();
  const { step } = made;
  pin(step, "12");
  const use = await useCopies([step]);
  expect([await use.remove(), pins(step)]).toEqual([[], ["12"]]);
  const { removeMade } = await import("../../lib/engine/remove-made.ts");
  const marker = readFileSync(step.marker, "utf8");
  let seen: boolean | undefined;
  const isWanted = () => {
    seen = existsSync(step.marker);
    return true;
  };
  expect(await removeMade(step, isWanted)).toBeUndefined();
  expect([seen, readFileSync(step.marker, "utf8"), existsSync(join(step.target, "sub/b"))]).toEqual([
    false,
    marker,
    true,
  ]);
});

test("what only ended jobs pinned is removed; without an answer of Slurm's it stays", async () => {
  using made = await copy();
  const { at, step } = made;
  const before = process.env.PATH;
  const squeue = join(at.dir, "bin/squeue");
  mkdirSync(join(at.dir, "bin"), { recursive: true });
  try {
    process.env.PATH = `${join(at.dir, "bin")}:${before}`;
    writeFileSync(squeue, "#!/bin/sh\nexit 1\n", { mode: 0o755 });
    pin(step, "12");
    expect([await removeAbandoned([step]), existsSync(step.target)]).toEqual([[], true]);
    // As squeue(1) does of a hidden partition's jobs.
    const hidden = "#!/bin/sh\ncase \" $* \" in *' --all '*) echo 12; echo 14 ;; esac\n";
    pin(step, "13");
    writeFileSync(squeue, hidden, { mode: 0o755 });
    expect([await removeAbandoned([step]), pins(step)]).toEqual([[], ["12"]]);
    writeFileSync(squeue, "#!/bin/sh\n", { mode: 0o755 });
    expect(await removeAbandoned([step])).toHaveLength(1);
    expect([existsSync(step.target), readdirSync(join(step.lock, "..")).sort()]).toEqual([
      false,
      [".HF_HOME.lock", ".HF_HOME.use"],
    ]);
  } finally {
    process.env.PATH = before;
  }
});
