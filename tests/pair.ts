/** Two real directories and ef's own engine between them, without locks, markers and the room: what `ef sync` does inside. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { baseOf, plannedTimes } from "../lib/engine/base.ts";
import { type BuiltinOptions, builtinEngine, copyingBetween, sidesOf } from "../lib/engine/builtin.ts";
import { type Carried, carryOut } from "../lib/engine/carry.ts";
import type { Copying } from "../lib/engine/copy-file.ts";
import type { CompareOptions, Comparison, Transfer } from "../lib/engine/engine.ts";
import { bringFiles } from "../lib/engine/files.ts";
import { Gauge } from "../lib/engine/gauge.ts";
import type { Base } from "../lib/engine/manifest.ts";
import { type Look, lookAt } from "./trees.ts";

const plain: BuiltinOptions = { workers: "auto", verify: false, xattrs: false };

/** A source and a target, and what is known of the syncs between them. */
export class Pair implements Disposable {
  readonly dir = mkdtempSync(join(realpathSync(tmpdir()), "ef-engine-"));
  readonly source = join(this.dir, "src");
  readonly target = join(this.dir, "dst");
  base: Base | undefined;

  constructor() {
    for (const dir of [this.source, this.target]) mkdirSync(dir);
  }

  transfer(more: Partial<Transfer> = {}): Transfer {
    return {
      source: this.source,
      target: this.target,
      exclude: [],
      past: { base: this.base },
      mirror: false,
      workSince: 0,
      arrivalNs: undefined,
      lockFd: undefined,
      ...more,
    };
  }

  /** Compare, copy, compare again. */
  async sync(
    options: Partial<BuiltinOptions> = {},
    more: Partial<Transfer> = {},
  ): Promise<{ first: Comparison; after: Comparison; warnings: string[] }> {
    const engine = builtinEngine({ ...plain, ...options });
    const transfer = this.transfer(more);
    const first = await engine.compare(transfer, { allNames: true });
    if (first.plan.problem) throw first.plan.problem;
    const { warnings } = await engine.copy(transfer, first, {});
    const intent = baseOf(first.diff, this.base, plannedTimes(first.diff, transfer.arrivalNs));
    const after = await engine.compare({ ...transfer, past: { base: this.base, intent } }, { allNames: true });
    this.base = baseOf(after.diff, this.base);
    return { first, after, warnings };
  }

  /** Compare only. */
  async compare(options: CompareOptions = {}): Promise<Comparison> {
    return builtinEngine(plain).compare(this.transfer(), { sides: await sidesOf("auto"), ...options });
  }

  /** Carry out a comparison with another way of copying. */
  async carry(
    { diff }: Comparison,
    change: (cx: Copying) => unknown,
    workers: number | "auto" = "auto",
  ): Promise<Carried> {
    const options = { signal: undefined, progress: { bytes: 0, files: 0 }, warnings: [] };
    const cx = await copyingBetween(this.transfer(), plain, options);
    change(cx);
    const gauge = new Gauge(workers);
    return carryOut(diff, cx, {
      gauge,
      signal: undefined,
      arrival: undefined,
      directories: { setgid: false, groupWritable: false },
      async files(job, failures) {
        // Threads are for quick storage: what a busy machine has made of the calls so far is forgotten.
        const { source, target } = typeof workers === "number" ? await sidesOf(workers) : cx;
        return bringFiles(job, failures, { ...cx, source, target }, { gauge, signal: undefined, workers });
      },
    });
  }

  look(side: "source" | "target", options?: Parameters<typeof lookAt>[1]): Look {
    return lookAt(this[side], options);
  }

  [Symbol.dispose](): void {
    Bun.spawnSync(["chmod", "-R", "u+rwX", this.dir]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}
