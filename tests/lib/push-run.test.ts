/** A push on real files while they change under its hands, and while calls fail. */
import { expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { copyingBetween, sidesOf } from "../../lib/engine/builtin.ts";
import type { Failure } from "../../lib/engine/carrying.ts";
import { settled } from "../../lib/engine/comparing.ts";
import { Gauge } from "../../lib/engine/gauge.ts";
import type { Base } from "../../lib/engine/manifest.ts";
import { stampOf } from "../../lib/engine/push-conflict.ts";
import type { PushRules } from "../../lib/engine/push-decide.ts";
import { compareContents } from "../../lib/engine/push-look.ts";
import { finish, type PushPlan, planPush } from "../../lib/engine/push-plan.ts";
import { type Pushed, runPush } from "../../lib/engine/push-run.ts";
import { summaryOf } from "../../lib/engine/push-summary.ts";
import type { Storage } from "../../lib/engine/storage.ts";

class Pair implements Disposable {
  readonly dir = mkdtempSync(join(realpathSync(tmpdir()), "ef-push-"));
  readonly source = join(this.dir, "source");
  readonly scratch = join(this.dir, "scratch");
  base: Base | undefined;

  constructor() {
    for (const dir of [this.source, this.scratch]) mkdirSync(dir);
  }

  write(side: "source" | "scratch", path: string, text: string, seconds?: number): void {
    const at = join(this[side], path);
    mkdirSync(dirname(at), { recursive: true });
    writeFileSync(at, text);
    if (seconds !== undefined) utimesSync(at, seconds, seconds);
  }

  /** On both sides, as a sync leaves them. */
  both(path: string, text: string): void {
    for (const side of ["source", "scratch"] as const) this.write(side, path, text, 1_600_000_000);
  }

  read(path: string): string {
    return readFileSync(join(this.source, path), "utf8");
  }

  async scan(side: "source" | "scratch") {
    const { source: storage } = await sidesOf("auto");
    return settled(this[side], { storage, gauge: new Gauge("auto") });
  }

  /** What is there now is what the last sync left. */
  async sync(): Promise<void> {
    const { tree } = await this.scan("source");
    this.base = { tree, scratch: tree.mtime.slice(0, tree.length) };
  }

  async plan(rules: Partial<PushRules> = {}): Promise<PushPlan> {
    const [scratch, source] = [await this.scan("scratch"), await this.scan("source")];
    const plan = planPush(
      { scratch: scratch.tree, source: source.tree, past: { base: this.base } },
      { onConflict: "both", delete: false, modes: true, groupWritable: false, ...rules },
    );
    const failures: Failure[] = [];
    await compareContents(plan, await this.moving(), failures);
    expect(failures).toEqual([]);
    finish(plan);
    return plan;
  }

  async moving(warnings: string[] = []) {
    const options = { workers: "auto" as const, verify: false, xattrs: false, durable: true };
    const cx = await copyingBetween({ source: this.scratch, target: this.source, arrivalNs: undefined }, options, {
      warnings,
      progress: { bytes: 0, files: 0 },
    });
    return { cx: { ...cx, exact: true }, gauge: new Gauge("auto"), signal: undefined };
  }

  async run(plan: PushPlan, break_: (storage: Storage) => Storage = (storage) => storage) {
    const warnings: string[] = [];
    const moving = await this.moving(warnings);
    const pushed: Pushed = await runPush(plan, {
      ...moving,
      cx: { ...moving.cx, target: break_(moving.cx.target) },
      workers: 1,
      directories: { setgid: false, groupWritable: false },
      temps: (await this.scan("source")).temps,
      stamp: stampOf(new Date(0), "h"),
      deletes: true,
    });
    return { pushed, warnings, summary: summaryOf(plan, true, pushed) };
  }

  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

const stored = (path: string) => `${path}.ef-conflict-h-19700101T000000Z`;

/** A file that a push is to bring back, planned; then something happens. */
async function surprised(happen: (pair: Pair) => void, rules: Partial<PushRules> = {}, isNew = false) {
  const pair = new Pair();
  pair.both("other", "o");
  if (!isNew) pair.both("a", "old");
  await pair.sync();
  pair.write("scratch", "a", "scratch");
  const plan = await pair.plan(rules);
  happen(pair);
  return { pair, ...(await pair.run(plan)) };
}

test("a file that changed at the source after the look is a conflict, never written over", async () => {
  const { pair, summary } = await surprised((at) => at.write("source", "a", "edited meanwhile"));
  using _ = pair;
  expect(pair.read("a")).toBe("edited meanwhile");
  expect(pair.read(stored("a"))).toBe("scratch");
  expect(summary.conflicts).toEqual([{ path: "a", why: "changed on both sides", stored: stored("a") }]);
});

test("one that came meanwhile, too; with the same contents it is none", async () => {
  const { pair, summary } = await surprised((at) => at.write("source", "a", "new there"), {}, true);
  using _ = pair;
  expect(pair.read("a")).toBe("new there");
  expect(pair.read(stored("a"))).toBe("scratch");
  expect(summary.conflicts.length).toBe(1);
  const same = await surprised((at) => at.write("source", "a", "scratch"), {}, true);
  using __ = same.pair;
  expect(same.summary.conflicts).toEqual([]);
  expect(readdirSync(same.pair.source).sort()).toEqual(["a", "other"]);
});

test("one that a job goes on writing to has the permissions that it was given at the source", async () => {
  const pair = new Pair();
  using _ = pair;
  pair.both("a", "old");
  await pair.sync();
  chmodSync(join(pair.source, "a"), 0o600);
  pair.write("scratch", "a", "scratch");
  const plan = await pair.plan();
  pair.write("scratch", "a", "scratch, and more");
  await pair.run(plan);
  expect(pair.read("a")).toBe("scratch, and more");
  expect(lstatSync(join(pair.source, "a")).mode & 0o777).toBe(0o600);
});

test("one that was deleted at the source meanwhile is not made again", async () => {
  const { pair, summary } = await surprised((at) => unlinkSync(join(at.source, "a")));
  using _ = pair;
  expect(existsSync(join(pair.source, "a"))).toBe(false);
  expect(pair.read(stored("a"))).toBe("scratch");
  expect(summary.conflicts[0]?.why).toBe("changed on scratch, deleted at the source");
});

test("one that became a link or a directory at the source stays that", async () => {
  const { pair } = await surprised((at) => {
    unlinkSync(join(at.source, "a"));
    symlinkSync("other", join(at.source, "a"));
  });
  using _ = pair;
  expect(readlinkSync(join(pair.source, "a"))).toBe("other");
  expect(pair.read("other")).toBe("o");
  expect(pair.read(stored("a"))).toBe("scratch");
  const other = await surprised((at) => {
    unlinkSync(join(at.source, "a"));
    mkdirSync(join(at.source, "a"));
  });
  using __ = other.pair;
  expect(lstatSync(join(other.pair.source, "a")).isDirectory()).toBe(true);
  expect(other.pair.read(stored("a"))).toBe("scratch");
});

test("the user has decided: source keeps its own, scratch wins", async () => {
  const change = (at: Pair) => at.write("source", "a", "edited meanwhile");
  const kept = await surprised(change, { onConflict: "source" });
  using _ = kept.pair;
  expect(readdirSync(kept.pair.source).sort()).toEqual(["a", "other"]);
  expect(kept.pair.read("a")).toBe("edited meanwhile");
  const won = await surprised(change, { onConflict: "scratch" });
  using __ = won.pair;
  expect(won.pair.read("a")).toBe("scratch");
  expect(won.summary.conflicts).toEqual([]);
});

test("a file that changes on scratch meanwhile comes as it is now; one that goes does not come", async () => {
  const { pair } = await surprised((at) => at.write("scratch", "a", "even newer"));
  using _ = pair;
  expect(pair.read("a")).toBe("even newer");
  const gone = await surprised((at) => unlinkSync(join(at.scratch, "a")));
  using __ = gone.pair;
  expect(gone.pair.read("a")).toBe("old");
  expect(gone.pushed.failures).toEqual([]);
});

test("a file to be deleted that changed at the source meanwhile is kept", async () => {
  using pair = new Pair();
  for (const name of ["a", "b", "c"]) pair.both(name, name);
  await pair.sync();
  for (const name of ["a", "b"]) unlinkSync(join(pair.scratch, name));
  const plan = await pair.plan({ delete: true });
  expect(plan.remove.length).toBe(2);
  pair.write("source", "a", "edited");
  const { warnings, summary } = await pair.run(plan);
  expect(readdirSync(pair.source).sort()).toEqual(["a", "c"]);
  expect(summary.deleted).toBe(1);
  expect(warnings).toEqual(["a: it changed at the source meanwhile, and is not deleted"]);
});

/** Calls that change something; the others read. */
const writing = [
  "open",
  "write",
  "close",
  "sync",
  "fchmod",
  "setTimesOf",
  "rename",
  "renameNew",
  "mkdir",
  "link",
  "symlink",
  "unlink",
  "chmod",
];

/** The same storage, whose n-th call of those that change something fails. */
function failingAt(nth: number, code: string, storage: Storage): { storage: Storage; calls: () => number } {
  let calls = 0;
  const proxy = new Proxy(storage, {
    get(target, key) {
      const value = Reflect.get(target, key, target) as unknown;
      if (typeof value !== "function") return value;
      return (...args: unknown[]) => {
        if (writing.includes(String(key)) && ++calls === nth) throw Object.assign(new Error(code), { code });
        return value.apply(target, args) as unknown;
      };
    },
  });
  return { storage: proxy, calls: () => calls };
}

async function prepared(): Promise<Pair> {
  const pair = new Pair();
  for (const name of ["changed", "d/edited", "d/conflict", "deleted", "kept", "mode"]) pair.both(name, `old ${name}`);
  await pair.sync();
  pair.write("scratch", "changed", "new changed");
  pair.write("scratch", "n/e/w", "new file");
  pair.write("scratch", "d/conflict", "scratch's");
  pair.write("source", "d/conflict", "the source's");
  pair.write("source", "d/edited", "edited at home");
  symlinkSync("changed", join(pair.scratch, "link"));
  unlinkSync(join(pair.scratch, "deleted"));
  return pair;
}

/** The files at the source that people see. */
const visible = (pair: Pair) =>
  readdirSync(pair.source, { recursive: true, encoding: "utf8" }).filter((path) => !/(^|\/)\.ef-/.test(path));

test.each(["EIO", "ENOSPC"])(
  "each call that fails with %s: old or new whole files, and the next push completes",
  async (code) => {
    let total = 0;
    for (let nth = 0; nth <= total; nth++) {
      using pair = await prepared();
      let seen = () => 0;
      const plan = await pair.plan({ delete: true });
      const ended = await pair
        .run(plan, (storage) => {
          const failing = failingAt(nth, code, storage);
          seen = failing.calls;
          return failing.storage;
        })
        .then(
          ({ pushed }) => pushed.failures.length,
          () => -1,
        );
      total = Math.max(total, seen());
      for (const path of visible(pair)) {
        if (lstatSync(join(pair.source, path)).isDirectory()) continue;
        const texts: Record<string, string[]> = {
          changed: ["old changed", "new changed"],
          "d/conflict": ["the source's"],
          "d/edited": ["edited at home"],
          "n/e/w": ["new file"],
          link: ["old changed", "new changed"],
          [stored("d/conflict")]: ["scratch's"],
        };
        expect(texts[path] ?? [`old ${path}`]).toContain(pair.read(path));
      }
      // Nothing is deleted before all that was to come is there.
      if (!existsSync(join(pair.source, "deleted")))
        expect([pair.read("changed"), pair.read("n/e/w")]).toEqual(["new changed", "new file"]);
      expect(nth === 0 ? ended : 0).toBe(0);
      await pair.run(await pair.plan({ delete: true }));
      expect(visible(pair).sort()).toEqual(
        [
          "changed",
          "d",
          "d/conflict",
          stored("d/conflict"),
          "d/edited",
          "kept",
          "link",
          "mode",
          "n",
          "n/e",
          "n/e/w",
        ].sort(),
      );
      expect(pair.read("changed")).toBe("new changed");
      expect(pair.read("n/e/w")).toBe("new file");
      expect(readdirSync(pair.source, { recursive: true, encoding: "utf8" }).length).toBe(visible(pair).length);
    }
    expect(total).toBeGreaterThan(20);
  },
  60_000,
);
