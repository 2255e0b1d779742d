/** The parts of the nodes in ef stage, without Slurm. */
import { afterEach, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { lock } from "../../lib/engine/lock.ts";
import { agent } from "../../lib/stage/agent.ts";
import { endAll, Nodes, seeded, words } from "../agents.ts";
import { run, until } from "../helpers.ts";
import { differences, fillTree, lookAt, setTime } from "../trees.ts";

afterEach(endAll);

test.each(Array.from({ length: 12 }, (_, i) => i + 1))(
  "trees of all kinds arrive as they are, on all nodes: %d",
  async (seed) => {
    const at = new Nodes(4);
    fillTree(at.source, seeded(seed), { sparse: seed % 4 === 0 });
    await at.start();
    expect(words(await at.round())).toEqual({ n1: "done", n2: "done", n3: "done", n4: "done" });
    for (const node of at.names) expect(at.differences(node)).toEqual([]);
    for (const node of at.names) expect(at.temps(node)).toEqual([]);
  },
);

test("an empty tree, empty directories, a FIFO, names in other encodings", async () => {
  for (const fill of [
    () => {},
    (dir: string) => mkdirSync(join(dir, "a/b/c"), { recursive: true }),
    (dir: string) => writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff, 10, 0x27])]), "x"),
    (dir: string) => symlinkSync("/nowhere\n", join(dir, "link")),
  ]) {
    const at = new Nodes(2);
    fill(at.source);
    await at.start();
    expect(words(await at.round())).toEqual({ n1: "done", n2: "done" });
    expect(at.differences("n2")).toEqual([]);
  }
  const at = new Nodes(2);
  writeFileSync(join(at.source, "file"), "x");
  expect((await run(["mkfifo", join(at.source, "pipe")], { env: process.env })).code).toBe(0);
  await at.start();
  expect(words(await at.round())).toEqual({ n1: "done", n2: "done" });
  expect(readdirSync(at.copy("n2"))).toEqual(["file"]);
});

test("what is excluded stays where it is", async () => {
  const at = new Nodes(2, { vars: { HF_HOME: { exclude: ["*.lock", "tmp/"] } } });
  for (const dir of ["tmp", "hub"]) mkdirSync(join(at.source, dir));
  for (const name of ["tmp/a", "hub/a.lock", "hub/model"]) writeFileSync(join(at.source, name), "x");
  await at.start();
  await at.round();
  expect(readdirSync(at.copy("n2"))).toEqual(["hub"]);
  expect(readdirSync(join(at.copy("n2"), "hub"))).toEqual(["model"]);
});

test("a node that has the copy hands it on, without what a job made beside it", async () => {
  const at = new Nodes(3);
  fillTree(at.source, seeded(77), { small: true });
  await at.start();
  expect(words(await at.round(["n1"]))).toEqual({ n1: "done" });
  const there = lookAt(at.source);
  writeFileSync(join(at.copy("n1"), "result of a job"), "x");
  rmSync(at.source, { recursive: true });
  expect(words(await at.round(["n1", "n2", "n3"], { read: "copy" }))).toEqual({ n1: "done", n2: "done", n3: "done" });
  const found = lookAt(at.copy("n3"));
  // The job's file is not there; the top directory has the time that it had.
  expect(differences(there, found)).toEqual([]);
});

test("a copy that a job changed is not handed on", async () => {
  const at = new Nodes(2);
  writeFileSync(join(at.source, "model"), "as it was");
  await at.start();
  await at.round(["n1"]);
  writeFileSync(join(at.copy("n1"), "model"), "as a job left it");
  const { n1, n2 } = await at.round(["n1", "n2"], { read: "copy" });
  expect(n1).toMatchObject({ word: "failed", because: "source", error: { message: expect.stringContaining("model") } });
  expect(n2).toMatchObject({ word: "failed", because: "upstream" });
  expect(existsSync(at.copy("n2"))).toBe(false);
  expect(at.temps("n2")).toEqual([]);
  expect(words(await at.round(["n2"]))).toEqual({ n2: "done" });
  expect(at.differences("n2")).toEqual([]);
});

test("a source that cannot be read fails on all nodes, for that reason, and nothing is seen", async () => {
  const at = new Nodes(3);
  writeFileSync(join(at.source, "model"), "x".repeat(100_000));
  await at.start();
  rmSync(at.source, { recursive: true });
  const outcomes = await at.round();
  expect(outcomes.n1).toMatchObject({ word: "failed", because: "source" });
  for (const node of ["n2", "n3"]) expect(outcomes[node]).toMatchObject({ word: "failed", because: "upstream" });
  for (const node of at.names) expect([existsSync(at.copy(node)), at.temps(node)]).toEqual([false, []]);
});

test("a copy that is there keeps what a job made and changed, and gets what is new", async () => {
  const at = new Nodes(2);
  for (const name of ["same", "changed", "updated"]) writeFileSync(join(at.source, name), `${name} 1`);
  await at.start();
  await at.round();
  at.tell({ order: "end" });
  const copy = at.copy("n2");
  const later = new Date(Date.now() + 5_000);
  writeFileSync(join(copy, "changed"), "by a job");
  utimesSync(join(copy, "changed"), later, later);
  writeFileSync(join(copy, "made"), "by a job");
  const inode = lstatSync(join(copy, "same")).ino;
  writeFileSync(join(at.source, "updated"), "updated 2");
  writeFileSync(join(at.source, "new"), "new");
  at.words.length = 0;
  for (const node of at.names) at.startOne(node);
  await until("the agents", () => at.names.every((node) => at.find("needed", node)));
  expect(words(await at.round())).toEqual({ n1: "done", n2: "done" });
  const read = (name: string) => readFileSync(join(copy, name), "utf8");
  expect(["same", "changed", "updated", "new", "made"].map(read)).toEqual([
    "same 1",
    "by a job",
    "updated 2",
    "new",
    "by a job",
  ]);
  expect(lstatSync(join(copy, "same")).ino).toBe(inode);
  expect(at.temps("n2")).toEqual([]);
});

test("a node that is stopped costs the others no more than a second round", async () => {
  const at = new Nodes(4);
  for (let i = 0; i < 60; i++) writeFileSync(join(at.source, `f${i}`), crypto.getRandomValues(new Uint8Array(60_000)));
  at.config.ef = { ...at.config.ef, transfer: { bwlimit: "1M" } };
  await at.start();
  const round = at.begin();
  await until(
    "bytes on n4",
    () => (at.words.find(({ word, node }) => word === "progress" && node === "n4") as never) && true,
  );
  at.stop("n2"); // n4 is behind it
  const ended = await until("the others", () => at.outcomes(round, ["n1", "n3", "n4"]));
  expect(words({ n1: ended.n1!, n3: ended.n3! })).toEqual({ n1: "done", n3: "done" });
  expect(ended.n4).toMatchObject({ word: "failed", because: "upstream" });
  expect(at.words).toContainEqual(expect.objectContaining({ node: "n1", word: "unreached", next: "n2" }));
  for (const node of ["n2", "n4"]) expect([existsSync(at.copy(node)), at.temps(node)]).toEqual([false, []]);
  expect(words(await at.round(["n3", "n4"], { read: "copy" }))).toEqual({ n3: "done", n4: "done" });
  expect(at.differences("n4")).toEqual([]);
});

test("a node whose disk is not to be written hands on what others need", async () => {
  const at = new Nodes(3);
  for (let i = 0; i < 5; i++) writeFileSync(join(at.source, `f${i}`), "x".repeat(50_000));
  await at.start();
  const { root } = { root: at.root("n1") };
  rmSync(root, { recursive: true });
  writeFileSync(root, "no directory"); // as a disk that fails
  const outcomes = await at.round();
  expect(outcomes.n1).toMatchObject({ word: "failed", because: "node" });
  expect(words({ n2: outcomes.n2!, n3: outcomes.n3! })).toEqual({ n2: "done", n3: "done" });
});

test("the lock of a copy that somebody else has is waited for, and what he made is fresh then", async () => {
  const at = new Nodes(2);
  writeFileSync(join(at.source, "model"), "x");
  await at.start();
  await at.round();
  at.tell({ order: "end" });
  const held = await lock(join(at.root("n2"), ".HF_HOME.lock"), { timeoutS: 10 });
  rmSync(join(at.root("n2"), ".HF_HOME.synced"));
  at.words.length = 0;
  for (const node of at.names) at.startOne(node);
  await until("the wait", () => at.find("waiting", "n2"));
  expect(at.find("fresh", "n1")).toBeDefined();
  expect(at.find("waiting", "n2")!.who).toContain(`process ${process.pid}`);
  await held[Symbol.asyncDispose]();
  await until("the answer", () => at.find("needed", "n2"));
});

test("an agent that waits for a lock ends when it is told to", async () => {
  const at = new Nodes(1);
  mkdirSync(at.root("n1"), { mode: 0o700 });
  await using _ = await lock(join(at.root("n1"), ".HF_HOME.lock"), { timeoutS: 10 });
  at.startOne("n1");
  await until("the wait", () => at.find("waiting", "n1"));
  await at.end();
  expect(at.find("needed", "n1")).toBeUndefined();
});

test("a dry run makes nothing", async () => {
  const at = new Nodes(2);
  await at.start({ dryRun: true });
  expect(at.names.map((node) => existsSync(at.root(node)))).toEqual([false, false]);
});

test("a file that shrinks while it is read fails the copy, and nothing of it is seen", async () => {
  const at = new Nodes(2);
  writeFileSync(join(at.source, "z"), "x".repeat(100_000));
  truncateSync(join(at.source, "z"), 60_000_000);
  at.config.ef = { ...at.config.ef, transfer: { bwlimit: "8M" } };
  await at.start();
  const round = at.begin();
  await until("some progress", () => at.words.some(({ word }) => word === "progress"));
  writeFileSync(join(at.source, "z"), "short now");
  const outcomes = await until("the end", () => at.outcomes(round, at.names));
  expect(outcomes.n1).toMatchObject({
    word: "failed",
    because: "source",
    error: { message: expect.stringContaining("z") },
  });
  expect(outcomes.n2).toMatchObject({ word: "failed" });
  for (const node of at.names) expect([existsSync(at.copy(node)), at.temps(node)]).toEqual([false, []]);
});

test("with verify: checksum, what is on the disk is what was sent", async () => {
  for (const verify of ["size", "checksum"]) {
    const at = new Nodes(2, { transfer: { verify, bwlimit: "1M" } });
    fillTree(at.source, seeded(9), { small: true });
    writeFileSync(join(at.source, "a"), "right");
    writeFileSync(join(at.source, "z"), crypto.getRandomValues(new Uint8Array(1_500_000)));
    await at.start();
    const round = at.begin();
    const written = await until("the first file", () => {
      const temp = at.temps("n2").find((name) => name.includes("tmp"));
      const file = join(at.root("n2"), temp ?? "", "tree/a");
      return temp && existsSync(file) && statSync(file).size === 5 && file;
    });
    const { atime, mtime } = statSync(join(at.source, "a"));
    await until(
      "its time",
      () => statSync(written).mtimeMs === mtime.getTime() || Math.abs(statSync(written).mtimeMs - mtime.getTime()) < 1,
    );
    const times = statSync(written, { bigint: true }).mtimeNs;
    writeFileSync(written, "wrong"); // as a disk that fails
    utimesSync(written, atime, mtime);
    setTime(Buffer.from(written).toString("latin1"), times);
    const outcomes = await until("the end", () => at.outcomes(round, at.names));
    expect(outcomes.n1).toMatchObject({ word: "done" });
    const why = {
      word: "failed",
      because: "node",
      error: { code: "BAD_ARCHIVE", message: expect.stringContaining(": a is not") },
    };
    expect(outcomes.n2).toMatchObject(verify === "size" ? { word: "done" } : why);
    expect(existsSync(at.copy("n2"))).toBe(verify === "size");
  }
});

test("a directory of somebody else in the place of the copies is not used", async () => {
  const at = new Nodes(1);
  mkdirSync(at.root("n1"));
  chmodSync(at.root("n1"), 0o777);
  at.startOne("n1");
  const word = await until("the answer", () => at.find("failed", "n1"));
  expect(word.error).toMatchObject({ code: "BAD_ROOT" });
  expect(readdirSync(at.root("n1"))).toEqual([]);
  expect(statSync(at.root("n1")).mode & 0o777).toBe(0o777);
});

test("an agent to which nobody speaks, as srun was killed before it had connected, ends by itself", async () => {
  const never = { [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => {}) }) };
  const { signal } = new AbortController();
  const words: unknown[] = [];
  await agent({ node: "n1", orders: never, say: (word) => words.push(word), env: {}, signal, patienceMs: 20 });
  expect(words).toEqual([]);
});
