import { expect, test } from "bun:test";
import {
  appendFileSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Home, have } from "../helpers.ts";

const old = 1_700_000_000;

/** A cache of old files, synced; then all that tells what ef put on scratch is purged. */
async function forgotten(more: object = {}): Promise<Home> {
  const at = new Home();
  for (const name of ["edited", "grown", "touched", "stale", "half", "d/empty", "d/plain"]) {
    const path = at.write(`hf/${name}`, `weights of ${name}`);
    utimesSync(path, old, old);
  }
  linkSync(join(at.home, "hf/edited"), join(at.home, "hf/other name"));
  at.configure({ HF_HOME: "hf" }, more);
  await at.ef(["sync"]);
  forget(at);
  return at;
}

function forget(at: Home): void {
  rmSync(at.cache(".HF_HOME.synced"));
  rmSync(at.cache(".HF_HOME.manifest"));
}

for (const engine of ["builtin", "rsync"])
  test(`marker and manifest are purged: what a job wrote is kept, and nothing is copied in vain: ${engine}`, async () => {
    using at = await forgotten({ ef: { transfer: { engine } } });
    const copy = (name: string) => join(at.cache("HF_HOME"), name);
    writeFileSync(copy("edited"), "results of edited"); // of the same size
    appendFileSync(copy("grown"), ", and a job's");
    utimesSync(copy("touched"), old + 60, old + 60);
    utimesSync(copy("stale"), old - 60, old - 60);
    writeFileSync(copy("half"), "weights of");
    writeFileSync(copy("d/empty"), "");
    const { ino } = statSync(copy("touched"));
    const { stderr, stdout, code } = await at.ef(["sync", "--shell", "bash"]);
    expect(stderr).toContain("younger on scratch than at the source, and kept as it is there: edited and 2 others");
    expect(stderr).toContain("complete (3 files"); // stale, half and d/empty
    expect([stdout, code]).toEqual([`export HF_HOME='${at.cache("HF_HOME")}'\n`, 0]);
    for (const name of ["edited", "other name"]) expect(at.read(copy(name))).toBe("results of edited");
    expect(at.read(copy("grown"))).toBe("weights of grown, and a job's");
    for (const name of ["touched", "stale", "half", "d/empty"]) expect(at.read(copy(name))).toBe(`weights of ${name}`);
    expect(statSync(copy("touched")).ino).toBe(ino);

    expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
    expect((await at.ef(["sync", "--force"])).stderr).toContain("complete (nothing to copy");
    // Both sides may have changed, as far as ef knows: a push stores the job's beside the source's.
    const pushed = await at.ef(["push"]);
    expect(pushed.code).toBe(1);
    expect(pushed.stderr).toContain("edited.ef-conflict-");
    expect(at.read(join(at.home, "hf/edited"))).toBe("weights of edited");
  });

test("a copy by another program that was interrupted: what it has not all of is copied", async () => {
  using at = new Home({ "hf/a": "weights", "hf/b": "weights" });
  at.configure({ HF_HOME: "hf" });
  for (const name of ["a", "b"]) utimesSync(join(at.home, "hf", name), old, old);
  mkdirSync(at.cache("HF_HOME"), { recursive: true });
  writeFileSync(join(at.cache("HF_HOME"), "a"), "weights");
  writeFileSync(join(at.cache("HF_HOME"), "b"), "wei");
  const { stderr } = await at.ef(["sync"]);
  expect(stderr).toContain("complete (1 file, 7 B");
  expect(at.read(join(at.cache("HF_HOME"), "b"))).toBe("weights");
});

test("files that take the time of their arrival are compared by contents, and stay", async () => {
  using at = await forgotten({ ef: { transfer: { times: "arrival" } } });
  const { ino } = statSync(join(at.cache("HF_HOME"), "d/plain"));
  const { stderr } = await at.ef(["sync"]);
  expect(stderr).toContain("complete (nothing to copy");
  expect(statSync(join(at.cache("HF_HOME"), "d/plain")).ino).toBe(ino);
  expect((await at.ef(["sync", "--force"])).stderr).toContain("complete (nothing to copy");
});

test.skipIf(!have("rsync"))(
  "with -L a job's file in the place of a link is kept, what rsync put there is not",
  async () => {
    using at = new Home({ "hf/blob": "weights" });
    for (const name of ["edited", "plain"]) {
      symlinkSync("blob", join(at.home, "hf", name));
      lutimesSync(join(at.home, "hf", name), old, old);
    }
    utimesSync(join(at.home, "hf/blob"), old, old);
    at.configure({ HF_HOME: "hf" }, { rsync_extra_args: ["-L"] });
    expect((await at.ef(["sync"])).code).toBe(0);
    forget(at);
    writeFileSync(join(at.cache("HF_HOME"), "edited"), "results");
    const { stderr, code } = await at.ef(["sync"]);
    expect([stderr, code]).toEqual([expect.stringContaining("kept as it is there: edited\n"), 0]);
    for (const [name, text] of [
      ["edited", "results"],
      ["plain", "weights"],
    ] as const)
      expect(at.read(join(at.cache("HF_HOME"), name))).toBe(text);
  },
);

test("ef verify calls the same what a sync would leave as it is", async () => {
  using at = await forgotten();
  utimesSync(join(at.cache("HF_HOME"), "touched"), old + 60, old + 60);
  expect((await at.ef(["verify"])).stderr).toContain("HF_HOME: same");
  writeFileSync(join(at.cache("HF_HOME"), "grown"), "a job's");
  const { stderr, code } = await at.ef(["verify"]);
  expect(stderr).toMatch(/changed[^\n]*\n? *[^\n]*grown/);
  expect(code).toBe(1);
});
