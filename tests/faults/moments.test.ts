/** What tests/faults/races.test.ts found, each at its moment: a change just before a call of ef that is named. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { isBinary } from "../helpers.ts";
import { lookAt } from "../trees.ts";
import { canFail, efWith } from "./calls.ts";
import { arranged, copy, type Scenario, scenarios, source } from "./scenarios.ts";

setDefaultTimeout(120_000);

const scenarioOf = (name: string) => scenarios.find((each) => each.name === name) as Scenario;

test.skipIf(!isBinary || !canFail)(
  "mirror: what vanishes while it is copied is known as ef's, and deleted by the next sync [needs seccomp and gcc]",
  async () => {
    const { at, args } = await arranged(scenarioOf("a sync that updates and mirrors, after a purge"));
    using _ = at;
    const call = `openat ${source(at)}/hub/two`;
    const { code, stderr } = await efWith(at, args, call, { script: `rm -rf '${source(at)}/hub'` });
    expect([code, stderr]).toEqual([0, expect.stringContaining("1 file vanished at the source")]);
    expect(lookAt(join(copy(at), "hub")).seen.has("two")).toBe(true);
    expect((await at.ef(args)).code).toBe(0);
    expect(existsSync(join(copy(at), "hub"))).toBe(false);
  },
);

test.skipIf(!isBinary || !canFail)(
  "what takes the place of a directory while it is copied is named, and the copy not said to be whole [needs seccomp and gcc]",
  async () => {
    const { at, args } = await arranged(scenarioOf("the first sync"));
    using _ = at;
    const there = `'${copy(at)}/hub'`;
    const script = `cd '${at.dir}' && mkdir -p other/deep && rm -rf ${there} && ln -s "$PWD/other" ${there}`;
    const { code, stdout, stderr } = await efWith(at, args, `chmod ${copy(at)}/hub/deep`, { script });
    expect(stderr).toContain("something of another type is there, and not ef's");
    expect([code, stdout]).toEqual([1, "false\n"]);
    expect(readlinkSync(join(copy(at), "hub"))).toBe(join(at.dir, "other"));
  },
);

test.skipIf(!isBinary || !canFail)(
  "a directory of the source that goes while it is pushed to: what did not get there is named [needs seccomp and gcc]",
  async () => {
    const { at, args } = await arranged(scenarioOf("a push"));
    using _ = at;
    const script = `rm -rf '${source(at)}/hub'`;
    const { code, stderr } = await efWith(at, args, `openat ${copy(at)}/hub/two`, { script });
    expect(stderr).toContain("hub/two: the directory where it goes is gone");
    expect(code).toBe(1);
    const again = await at.ef(args);
    expect([again.code, again.stderr]).toEqual([
      1,
      expect.stringContaining("changed on scratch, deleted at the source"),
    ]);
  },
);

test.skipIf(!isBinary || !canFail)(
  "a directory of the source that becomes a link during a push: the copy is not fresh after it [needs seccomp and gcc]",
  async () => {
    const { at, args } = await arranged(scenarioOf("a push"));
    using _ = at;
    at.configure({ HF_HOME: "hf" });
    const script = `rm -rf '${source(at)}/hub'; ln -s elsewhere '${source(at)}/hub'`;
    const { code, stderr } = await efWith(at, args, `chmod ${source(at)}/made`, { script });
    expect([code, stderr]).toEqual([0, stderr]);
    expect((await at.ef(["sync"])).code).toBe(0);
    expect(readlinkSync(join(copy(at), "hub"))).toBe("elsewhere");
  },
);
