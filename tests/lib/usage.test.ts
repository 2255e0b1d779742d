import { expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { chmodSync, linkSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { usage } from "../../lib/engine/usage.ts";
import { Home, haveOtherUser } from "../helpers.ts";

const bytes = (...parts: (string | Buffer | number[])[]) =>
  Buffer.concat(parts.map((part) => Buffer.from(part as string)));

/** What GNU du says of a directory, in bytes that are allocated. */
function du(dir: string | Buffer): number {
  const { stdout } = spawnSync("du", ["-s", "--block-size=1", `${dir}/`], { encoding: "utf8" });
  return Number(stdout.split("\t")[0]);
}

/** Everything that is hard to count. */
function nastyTree(at: Home): string {
  const root = join(at.home, "tree");
  mkdirSync(join(root, "a/b/c/d"), { recursive: true });
  mkdirSync(join(root, "empty"));
  writeFileSync(join(root, "a/file"), "x".repeat(100_000));
  linkSync(join(root, "a/file"), join(root, "a/b/again"));
  linkSync(join(root, "a/file"), join(root, "a/b/c/and again"));
  writeFileSync(join(root, "sparse"), "");
  truncateSync(join(root, "sparse"), 500_000_000);
  writeFileSync(join(root, "with\nnewline"), "1");
  symlinkSync("/usr", join(root, "link to much"));
  symlinkSync("nowhere", join(root, "dangling"));
  symlinkSync(".", join(root, "loop"));
  const latin1 = bytes(root, "/caf", [0xe9]);
  mkdirSync(latin1);
  writeFileSync(bytes(latin1, "/na", [0xef], "ve.bin"), "y".repeat(50_000));
  writeFileSync(join(root, "\uFFFD valid but suspect"), "z");
  spawnSync("mkfifo", [join(root, "fifo")]);
  mkdirSync(join(root, "many"));
  for (let i = 0; i < 700; i++) {
    mkdirSync(join(root, `many/${i}`));
    writeFileSync(join(root, `many/${i}/f`), "1".repeat(i * 7));
  }
  return root;
}

test("usage: the same as du, on a nasty tree", async () => {
  using at = new Home();
  const root = nastyTree(at);
  const counted = await usage(root);
  expect(counted?.bytes).toBe(du(root));
  expect(counted?.complete).toBe(true);
  expect(counted?.files).toBe(1 + 1 + 1 + 3 + 1 + 1 + 1 + 700); // hard links once; links, pipes and names of bytes too
});

test("usage: the same as du, on a directory of many files", async () => {
  using at = new Home();
  const root = join(at.home, "flat");
  mkdirSync(root);
  for (let i = 0; i < 9_000; i++) writeFileSync(join(root, `${i}`), i % 3 ? "" : "full");
  expect(await usage(root)).toEqual({ bytes: du(root), files: 9_000, complete: true });
});

test("usage: a root may be a link or a file; a missing one is undefined", async () => {
  using at = new Home({ "real/file": "x" });
  symlinkSync("real", join(at.home, "link"));
  symlinkSync("nowhere", join(at.home, "dangling"));
  expect(await usage(join(at.home, "link"))).toEqual((await usage(join(at.home, "real"))) as never);
  expect((await usage(join(at.home, "real/file")))?.files).toBe(1);
  expect(await usage(join(at.home, "dangling"))).toBeUndefined();
  expect(await usage(join(at.home, "real/file/below"))).toBeUndefined();
});

test("usage: after its deadline it says that there is at least this much", async () => {
  using at = new Home();
  const root = nastyTree(at);
  const counted = await usage(root, { deadlineMs: Date.now() - 1 });
  expect(counted?.complete).toBe(false);
  expect(counted?.bytes).toBeLessThan(du(root));
});

test("usage: a signal stops it with its reason", async () => {
  using at = new Home();
  const root = nastyTree(at);
  const reason = new Error("enough");
  await expect(usage(root, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
});

test.skipIf(!haveOtherUser)(
  "usage: what may not be read is left out, and said to be [needs root and setpriv]",
  async () => {
    using at = new Home({ "open/file": "x", "closed/file": "hidden" });
    chmodSync(at.dir, 0o755);
    chmodSync(join(at.home, "closed"), 0o700);
    const module = JSON.stringify(join(import.meta.dir, "../../lib/engine/usage.ts"));
    const count = `(await import(${module})).usage(${JSON.stringify(at.home)})`;
    const script = `console.log(JSON.stringify(await ${count}))`;
    const argv = ["--reuid=65534", "--clear-groups", process.execPath, "-e", script];
    const { stdout, stderr } = spawnSync("setpriv", argv, {
      encoding: "utf8",
      env: { PATH: "/usr/bin:/bin", HOME: "/" },
    });
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toMatchObject({ files: 1, complete: false });
  },
);
