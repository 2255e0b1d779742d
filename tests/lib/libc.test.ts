import { afterAll, describe, expect, test } from "bun:test";
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type Libc, libc } from "../../lib/drivers/libc.ts";
import { have } from "../helpers.ts";

const c = (await libc()) as Libc;
const modulePath = resolve(import.meta.dir, "../../lib/drivers/libc.ts");
const isRoot = process.geteuid?.() === 0;

const places: [string, string][] = [["the disk", mkdtempSync(join(realpathSync(tmpdir()), "ef libc "))]];
try {
  accessSync("/dev/shm", constants.W_OK);
  places.push(["tmpfs", mkdtempSync("/dev/shm/ef libc ")]);
} catch {
  // no shared memory here
}
afterAll(() => {
  for (const [, dir] of places) rmSync(dir, { recursive: true, force: true });
});
const disk = (places[0] as [string, string])[1];

let made = 0;
/** A new file in a directory. */
function file(dir: string, content = ""): string {
  const path = join(dir, `f${made++}`);
  writeFileSync(path, content);
  return path;
}

/** An open file, closed when disposed. */
function opened(path: string | Buffer, flags = "r+") {
  const fd = openSync(path, flags);
  return { fd, [Symbol.dispose]: () => closeSync(fd) };
}

const mtimeOf = (path: string | Buffer) => lstatSync(path, { bigint: true }).mtimeNs;
const mib = 2 ** 20;

/** The error that a call throws, as plain values. */
function thrown(run: () => unknown): Record<string, unknown> {
  try {
    run();
  } catch (error) {
    return { ...(error as object), message: (error as Error).message };
  }
  throw new Error("nothing was thrown");
}

describe.each(places)("on %s", (_, dir) => {
  /** Can files have `user.*` attributes here? tmpfs: since Linux 6.6. */
  const haveXattrs = (() => {
    try {
      const path = file(dir);
      c.setXattr(path, "user.probe", Buffer.from("x"));
      return c.getXattr(path, "user.probe") !== undefined;
    } catch {
      return false;
    }
  })();

  test.each([
    1_700_000_000_123_456_789n,
    0n,
    1n,
    999_999_999n,
    1_000_000_000n,
    -1n, // the last nanosecond of 1969
    -999_999_999n,
    -1_000_000_000n,
    -1_000_000_001n,
    -2_147_483_648_000_000_000n, // 1901, the first second of ext4
    2_147_483_648_000_000_001n, // 2038: more than 32 bits
    15_032_385_534_999_999_999n, // 2446, the last second but one of ext4: the last has no nanoseconds
  ])("a time of %s ns is set exactly, of a path and of an open file", (ns) => {
    const path = file(dir);
    const { atimeNs } = lstatSync(path, { bigint: true });
    c.setMtime(path, ns);
    expect(mtimeOf(path)).toBe(ns);
    using other = opened(file(dir));
    c.setMtimeFd(other.fd, ns);
    expect(fstatSync(other.fd, { bigint: true }).mtimeNs).toBe(ns);
    expect(lstatSync(path, { bigint: true }).atimeNs).toBe(atimeNs);
  });

  test("a link's own time is set, a directory's too", () => {
    const target = file(dir);
    const before = mtimeOf(target);
    symlinkSync(target, `${target}.link`);
    c.setMtime(`${target}.link`, 5n);
    symlinkSync("nowhere", `${target}.dangling`);
    c.setMtime(`${target}.dangling`, 6n);
    mkdirSync(`${target}.dir`);
    c.setMtime(`${target}.dir/`, 7n);
    const paths = [`${target}.link`, `${target}.dangling`, `${target}.dir`, target];
    expect(paths.map(mtimeOf)).toEqual([5n, 6n, 7n, before]);
  });

  test.each([
    ["not UTF-8", Buffer.from("a\xff\xfe", "latin1")],
    ["UTF-8", Buffer.from("ä€😀")],
  ])("names as bytes: %s", (_, name) => {
    const path = Buffer.concat([Buffer.from(`${dir}/bytes `), name]);
    writeFileSync(path, "x");
    c.setMtime(path, 11n);
    expect(mtimeOf(path)).toBe(11n);
    if (haveXattrs) {
      c.setXattr(path, "user.a", Buffer.from("v"));
      expect(c.listXattrs(path)).toEqual(["user.a"]);
    }
    c.setMtime(path.toString().includes("\uFFFD") ? path : path.toString(), 12n); // the same name as text
    expect(mtimeOf(path)).toBe(12n);
  });

  test("a map of data and holes, beyond 4 GiB", () => {
    using at = opened(file(dir));
    const size = 9 * 2 ** 30 + 5;
    const wanted = [0, 1 * mib, 2 ** 31, 2 ** 32 + 4 * mib, 9 * 2 ** 30].map((from) => [from, from + mib]);
    ftruncateSync(at.fd, size);
    for (const [from] of wanted) writeSync(at.fd, Buffer.alloc(mib, 1), 0, mib, from);
    const end = 9 * 2 ** 30 + mib;
    const found: number[][] = [];
    for (let from = c.nextData(at.fd, 0); from !== undefined; ) {
      const to = c.nextHole(at.fd, from) as number;
      found.push([from, to]);
      from = c.nextData(at.fd, to);
    }
    expect(found).toEqual([[0, 2 * mib], ...wanted.slice(2)]); // the first two touch
    expect(fstatSync(at.fd).size).toBe(end);
    expect(c.nextData(at.fd, 2 ** 31 + 17)).toBe(2 ** 31 + 17);
    expect(c.nextHole(at.fd, 3 * 2 ** 30 + 17)).toBe(3 * 2 ** 30 + 17);
    expect([c.nextData(at.fd, end), c.nextHole(at.fd, end)]).toEqual([undefined, undefined]);
    ftruncateSync(at.fd, 0);
    expect([c.nextData(at.fd, 0), c.nextHole(at.fd, 0)]).toEqual([undefined, undefined]);
    // As far as the file system goes: ext4 16 TiB; more than 2^52 is refused by node:fs.
    const most = dir.startsWith("/dev/shm") ? 2 ** 52 - 8192 : 2 ** 43;
    ftruncateSync(at.fd, most + 10);
    expect([c.nextData(at.fd, 5), c.nextHole(at.fd, most + 1)]).toEqual([undefined, most + 1]);
  });

  test.skipIf(!haveXattrs)("attributes: set, list, read, remove; of a path and of an open file", () => {
    const path = file(dir);
    using at = opened(path);
    expect(c.listXattrs(path)).toEqual([]);
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    c.setXattr(path, "user.bytes", bytes);
    c.setXattr(at.fd, "user.empty", new Uint8Array(0));
    c.setXattr(at.fd, "user.ünïcode", Buffer.from("ä"));
    for (const one of [path, at.fd, Buffer.from(path)]) {
      expect(c.listXattrs(one).sort()).toEqual(["user.bytes", "user.empty", "user.ünïcode"]);
      expect(c.getXattr(one, "user.bytes")).toEqual(bytes);
      expect(c.getXattr(one, "user.empty")).toEqual(new Uint8Array(0));
      expect(c.getXattr(one, "user.ünïcode")).toEqual(new Uint8Array(Buffer.from("ä")));
      expect(c.getXattr(one, "user.none")).toBeUndefined();
    }
    c.setXattr(path, "user.bytes", bytes.subarray(10, 12)); // a view into a larger buffer
    expect(c.getXattr(path, "user.bytes")).toEqual(Uint8Array.of(10, 11));
    c.removeXattr(path, "user.bytes");
    c.removeXattr(at.fd, "user.empty");
    c.removeXattr(path, "user.none");
    expect(c.listXattrs(path)).toEqual(["user.ünïcode"]);
  });

  test.skipIf(!haveXattrs)("attributes: large values and many names", () => {
    const path = file(dir);
    const limit = dir.startsWith("/dev/shm") ? 60_000 : 3500; // ext4 keeps all of them in one block of 4096
    const large = new Uint8Array(limit).fill(7);
    c.setXattr(path, "user.large", large);
    expect(c.getXattr(path, "user.large")).toEqual(large);
    c.removeXattr(path, "user.large");
    const names = Array.from({ length: 12 }, (_, i) => `user.${"n".repeat(150)}${i}`); // more than the first buffer
    for (const name of names) c.setXattr(path, name, Buffer.from(name.slice(-2)));
    expect(c.listXattrs(path).sort()).toEqual(names.sort());
    const to = file(dir);
    expect(c.copyXattrs(path, to)).toEqual([]);
    expect(c.listXattrs(to).sort()).toEqual(names.sort());
    expect(thrown(() => c.setXattr(path, "user.more", new Uint8Array(65_537)))).toMatchObject({ code: "E2BIG" });
    expect(thrown(() => c.setXattr(path, `user.${"n".repeat(251)}`, large))).toMatchObject({ code: "ERANGE" });
  });

  test.skipIf(!haveXattrs)("attributes of a link are its own: a link has none of the user", () => {
    const target = file(dir);
    c.setXattr(target, "user.a", Buffer.from("v"));
    symlinkSync(target, `${target}.link`);
    expect(c.listXattrs(`${target}.link`)).toEqual([]);
    expect(thrown(() => c.setXattr(`${target}.link`, "user.a", Buffer.from("v")))).toMatchObject({ code: "EPERM" });
    // What cannot be copied is told.
    expect(c.copyXattrs(target, `${target}.link`)).toEqual([{ name: "user.a", code: "EPERM" }]);
  });

  test.skipIf(!haveXattrs)("copyXattrs: the target has what the source has, and nothing else", () => {
    const [from, to] = [file(dir), file(dir)];
    const attributes = (path: string) =>
      Object.fromEntries(c.listXattrs(path).map((name) => [name, String(Buffer.from(c.getXattr(path, name) ?? []))]));
    c.setXattr(from, "user.same", Buffer.from("1"));
    c.setXattr(to, "user.same", Buffer.from("1"));
    c.setXattr(from, "user.differs", Buffer.from("new"));
    c.setXattr(to, "user.differs", Buffer.from("old"));
    c.setXattr(from, "user.empty", Buffer.alloc(0));
    c.setXattr(to, "user.extra", Buffer.from("gone"));
    expect(c.copyXattrs(from, to)).toEqual([]);
    expect(attributes(to)).toEqual({ "user.same": "1", "user.differs": "new", "user.empty": "" });
    expect(attributes(to)).toEqual(attributes(from));
    const { ctimeNs } = lstatSync(to, { bigint: true });
    expect(c.copyXattrs(from, to)).toEqual([]); // equal: nothing is written
    expect(lstatSync(to, { bigint: true }).ctimeNs).toBe(ctimeNs);
    using source = opened(from, "r");
    using target = opened(to);
    c.setXattr(from, "user.more", Buffer.from("2"));
    expect(c.copyXattrs(source.fd, target.fd)).toEqual([]);
    expect(attributes(to)).toEqual(attributes(from));
  });

  test.skipIf(!haveXattrs || !have("setfattr"))("copyXattrs: names that are not UTF-8 [needs setfattr]", () => {
    const [from, to] = [file(dir), file(dir)];
    const script = `setfattr -n "$(printf 'user.\\377')" -v 1 "$1"`;
    expect(Bun.spawnSync(["sh", "-c", script, "sh", from]).exitCode).toBe(0);
    for (let round = 0; round < 2; round++) expect(c.copyXattrs(from, to)).toEqual([]);
    expect(c.listXattrs(to)).toEqual(["user.\uFFFD"]);
    c.copyXattrs(file(dir), to);
    expect(c.listXattrs(to)).toEqual([]);
  });

  test.skipIf(!haveXattrs || !isRoot)("copyXattrs: what belongs to the file system stays [needs root]", () => {
    const [from, to] = [file(dir), file(dir)];
    const set = ["trusted.mine", "trusted.lov", "trusted.overlay.opaque", "trusted.SGI_ACL_FILE"];
    for (const name of set) c.setXattr(from, name, Buffer.from("x"));
    c.setXattr(to, "trusted.link", Buffer.from("x"));
    expect(c.copyXattrs(from, to)).toEqual([]);
    expect(c.listXattrs(to).sort()).toEqual(["trusted.link", "trusted.mine"]);
  });

  const haveAcls = have("setfacl") && have("getfacl");
  test.skipIf(!haveAcls)("copyXattrs: ACLs of a file and of a directory [needs setfacl]", () => {
    const acl = (path: string) =>
      String(Bun.spawnSync(["getfacl", "--omit-header", "--numeric", "--absolute-names", path]).stdout);
    const setfacl = (...args: string[]) => expect(Bun.spawnSync(["setfacl", ...args]).exitCode).toBe(0);
    const [from, to] = [file(dir), file(dir)];
    if (haveXattrs) c.setXattr(from, "user.a", Buffer.from("v"));
    chmodSync(from, 0o444); // after this ACL, no attribute of a user could be set
    setfacl("-m", "u:12345:r", from);
    expect(c.copyXattrs(from, to)).toEqual([]);
    expect(acl(to)).toBe(acl(from));
    expect(acl(to)).toContain("user:12345:r--");
    expect(lstatSync(to).mode).toBe(lstatSync(from).mode);
    expect(c.listXattrs(to)).toContain("system.posix_acl_access");
    if (haveXattrs) expect(c.getXattr(to, "user.a")).toEqual(new Uint8Array(Buffer.from("v")));
    // Back to none; of a file that may not be written, only root could take away what is the user's.
    chmodSync(to, 0o644);
    expect(c.copyXattrs(file(dir), to)).toEqual([]);
    expect(c.listXattrs(to)).toEqual([]);

    for (const name of ["acl-from", "acl-to"]) mkdirSync(join(dir, name));
    setfacl("-d", "-m", "g:54321:rwx", join(dir, "acl-from"));
    expect(c.copyXattrs(join(dir, "acl-from"), join(dir, "acl-to"))).toEqual([]);
    expect(acl(join(dir, "acl-to"))).toBe(acl(join(dir, "acl-from")));
    expect(acl(join(dir, "acl-to"))).toContain("default:group:54321:rwx");
  });

  test("copyRange: from any place to any place, less at the end; the positions stay", () => {
    const from = file(dir, "0123456789");
    const to = file(dir, "..........");
    using source = opened(from, "r");
    using target = opened(to);
    expect(c.copyRange(source.fd, 2, target.fd, 5, 3)).toBe(3);
    expect(readFileSync(to, "utf8")).toBe(".....234..");
    expect(c.copyRange(source.fd, 8, target.fd, 0, 100)).toBe(2);
    expect(c.copyRange(source.fd, 10, target.fd, 0, 100)).toBe(0);
    expect(c.copyRange(source.fd, 0, target.fd, 2 ** 33, 10)).toBe(10);
    expect(lstatSync(to).size).toBe(2 ** 33 + 10);
    writeSync(target.fd, "XY");
    expect(readFileSync(from, "utf8")).toBe("0123456789");
    using reader = opened(to, "r");
    expect(thrown(() => c.copyRange(source.fd, 0, reader.fd, 0, 1))).toMatchObject({ code: "EBADF" });
  });

  test("reflink: the same content, or told that it cannot be; syncFs", () => {
    const from = file(dir, "content");
    const to = file(dir);
    using source = opened(from, "r");
    using target = opened(to);
    const cloned = c.reflink(source.fd, target.fd);
    expect(readFileSync(to, "utf8")).toBe(cloned ? "content" : "");
    expect(thrown(() => c.reflink(source.fd, 99_999))).toMatchObject({ code: "EBADF", syscall: "ioctl" });
    c.syncFs(target.fd);
  });
});

test.skipIf(places.length < 2)("between two file systems [needs /dev/shm]", () => {
  const [from, to] = [file(disk, "content"), file((places[1] as [string, string])[1])];
  using source = opened(from, "r");
  using target = opened(to);
  expect(c.reflink(source.fd, target.fd)).toBeFalse();
});

test("errors: code, number, call and path, as node:fs has them", () => {
  const missing = join(disk, "missing");
  const theirs = thrown(() => lstatSync(missing));
  const ours = thrown(() => c.setMtime(missing, 0n));
  expect(ours).toEqual({
    ...theirs,
    syscall: "utimensat",
    message: `ENOENT: No such file or directory, utimensat '${missing}'`,
  });
  const bytes = Buffer.concat([Buffer.from(missing), Buffer.of(0xff)]);
  expect(thrown(() => c.setMtime(bytes, 0n))).toMatchObject({ code: "ENOENT", path: `${missing}\uFFFD` });
  const bad = { code: "EBADF", errno: -9 };
  expect(thrown(() => c.setMtimeFd(99_999, 0n))).toEqual({
    ...bad,
    syscall: "futimens",
    message: "EBADF: Bad file descriptor, futimens",
  });
  expect(thrown(() => c.nextData(99_999, 0))).toMatchObject({ ...bad, syscall: "lseek" });
  expect(thrown(() => c.listXattrs(99_999))).toMatchObject({ ...bad, syscall: "listxattr" });
  expect(thrown(() => c.syncFs(99_999))).toMatchObject({ ...bad, syscall: "syncfs" });
  expect(thrown(() => c.setMtime(`${file(disk)}/below`, 0n))).toMatchObject({ code: "ENOTDIR" });
  expect(thrown(() => c.setMtime("/".padEnd(5000, "x"), 0n))).toMatchObject({ code: "ENAMETOOLONG" });
  expect(thrown(() => c.listXattrs(missing))).toMatchObject({ code: "ENOENT", path: missing });
  expect(thrown(() => c.copyXattrs(missing, disk))).toMatchObject({ code: "ENOENT", path: missing });
  expect(thrown(() => c.copyXattrs(disk, missing))).toMatchObject({ code: "ENOENT", path: missing });
  expect(thrown(() => c.setXattr(disk, "nonsense", Buffer.from("x")))).toMatchObject({ code: "ENOTSUP", errno: -95 });
});

test("a name with a zero byte is refused: C would take the part before it", () => {
  const path = file(disk);
  const before = mtimeOf(path);
  for (const bad of [`${path}\0x`, Buffer.from(`${path}\0`)]) {
    expect(thrown(() => c.setMtime(bad, 5n))).toMatchObject({ code: "ERR_INVALID_ARG_VALUE" });
  }
  expect(mtimeOf(path)).toBe(before);
});

test("/proc has no attributes: none are listed, none are taken away from the target", () => {
  const to = file(disk);
  expect(c.listXattrs("/proc/self/status")).toEqual([]);
  expect(c.getXattr("/proc/self/status", "user.a")).toBeUndefined();
  expect(c.copyXattrs("/proc/self/status", to)).toEqual([]);
});

test("errno stays right while the engine compiles, collects and runs other threads", async () => {
  const code = `
    const c = await (await import(${JSON.stringify(modulePath)})).libc();
    const calls = [
      [() => c.setMtime("/nonexistent/x", 0n), "ENOENT"], [() => c.setMtimeFd(99999, 0n), "EBADF"],
      [() => c.setMtime("/etc/hosts/x", 0n), "ENOTDIR"], [() => c.setMtime("/".padEnd(5000, "x"), 0n), "ENAMETOOLONG"],
      [() => c.setXattr(${JSON.stringify(disk)}, "nonsense", new Uint8Array(1)), "ENOTSUP"],
    ];
    let wrong = 0;
    const keep = [];
    for (let i = 0; i < 20000; i++) {
      const [run, code] = calls[(i * 7 + (i >> 3)) % calls.length];
      try { run(); wrong++; } catch (error) { if (error.code !== code) wrong++; }
      keep[i % 100] = new Array(1000).fill(i);
      if (i % 4000 === 0) Bun.gc(true);
    }
    postMessage(wrong);`;
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const workers = Array.from({ length: 4 }, () => new Worker(url));
  const wrong = await Promise.all(
    workers.map(
      (worker) =>
        new Promise((done, fail) => {
          worker.onmessage = ({ data }) => done(data);
          worker.onerror = ({ message }) => fail(new Error(message));
        }),
    ),
  );
  expect(wrong).toEqual([0, 0, 0, 0]);
  for (const worker of workers) worker.terminate();
});

test("is asked for once", () => {
  expect(libc()).toBe(libc());
});

test.skipIf(!have("node"))("under Node there is none [needs node]", async () => {
  const dir = join(disk, "node");
  const entry = join(disk, "entry.ts");
  writeFileSync(entry, `import { libc } from ${JSON.stringify(modulePath)};\nconsole.log(String(await libc()));\n`);
  const built = await Bun.build({ entrypoints: [entry], target: "node", outdir: dir, naming: "[name].mjs" });
  expect(built.success).toBeTrue();
  const { stdout, stderr, exitCode } = Bun.spawnSync(["node", join(dir, "entry.mjs")]);
  expect(String(stderr)).toBe("");
  expect(String(stdout)).toBe("undefined\n");
  expect(exitCode).toBe(0);
});
