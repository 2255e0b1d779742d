import { expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { bytesOf } from "../../lib/base/bytes.ts";
import { EfError } from "../../lib/base/errors.ts";
import { pack } from "../../lib/engine/pack.ts";
import { Storage } from "../../lib/engine/storage.ts";
import { TarReader } from "../../lib/engine/tar-read.ts";
import { TreeWriter } from "../../lib/engine/tar-write.ts";
import { type UnpackOptions, unpack } from "../../lib/engine/unpack.ts";
import {
  asArchived,
  children,
  openFds,
  Place,
  paxRecord,
  type RawEntry,
  rawHeader,
  rawTar,
  sealed,
  sha256,
} from "../archives.ts";
import { have, until } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { differences, fillTree } from "../trees.ts";

const isRoot = process.geteuid?.() === 0;
const anyLink: UnpackOptions = { allowLink: () => true };

/** What unpacking says; undefined if it does it. Nothing beside the target may have changed. */
async function refusal(place: Place, bytes: Uint8Array, options?: UnpackOptions): Promise<EfError | undefined> {
  place.archive(bytes);
  const before = place.outside();
  const error = await unpack(place.file, place.out, options).then(
    () => undefined,
    (error) => error,
  );
  expect(place.outside()).toEqual(before);
  if (error !== undefined) expect(error).toBeInstanceOf(EfError);
  return error;
}

const formats: [program: string, argv: (from: string, to: string) => string[]][] = [
  ["tar --format=gnu", (from, to) => ["tar", "--format=gnu", "-cf", to, "-C", from, "."]],
  ["tar --format=oldgnu", (from, to) => ["tar", "--format=oldgnu", "-cf", to, "-C", from, "."]],
  ["tar --format=posix", (from, to) => ["tar", "--format=posix", "-cf", to, "-C", from, "."]],
  [
    "tar --format=posix --numeric-owner, zstd",
    (from, to) => ["tar", "--format=posix", "--zstd", "-cf", to, "-C", from, "."],
  ],
  [
    "tar of names, gzip",
    (from, to) => [
      "sh",
      "-c",
      'cd "$1" && find . -mindepth 1 -maxdepth 1 -printf "%P\\0" | tar --null -T - -czf "$2"',
      "sh",
      from,
      to,
    ],
  ],
  ...(["GNU_FORMAT", "PAX_FORMAT"] as const).map((format): (typeof formats)[number] => [
    `Python, ${format}, as kpy does`,
    (from, to) => [
      "python3",
      "-c",
      `import sys, tarfile
with tarfile.open(sys.argv[2], "w:gz", format=tarfile.${format}) as file: file.add(sys.argv[1], arcname="")`,
      from,
      to,
    ],
  ]),
];

test.skipIf(!isRoot || !have("zstd")).each(formats)("archives of %s are read [needs root]", async (what, argv) => {
  for (let seed = 1; seed <= 4; seed++) {
    using place = new Place();
    fillTree(place.source, seeded(seed), { small: true });
    // Python rounds times to what a double holds.
    if (what.startsWith("Python")) place.sh("find", place.source, "-exec", "touch", "-h", "-d@1660436891", "{}", "+");
    place.sh(...argv(place.source, place.file));
    const { files, contentBytes, sha256: sum } = await unpack(place.file, place.out, anyLink);
    const [source, out] = [asArchived(place.source), asArchived(place.out)];
    expect(differences(source, out)).toEqual([]);
    expect(files).toBe([...out.seen.values()].filter(({ kind }) => kind === "file").length);
    expect(contentBytes).toBeGreaterThan(0);
    expect(sum).toBe(sha256(place.file));
  }
});

test("simple archives in the ustar and v7 formats are read", async () => {
  for (const format of ["ustar", "v7"]) {
    using place = new Place();
    mkdirSync(join(place.source, "d/e"), { recursive: true });
    writeFileSync(join(place.source, "d/file"), "contents", { mode: 0o751 });
    place.sh("ln", join(place.source, "d/file"), join(place.source, "d/other"));
    symlinkSync("d/file", join(place.source, "link"));
    place.sh("tar", `--format=${format}`, "-cf", place.file, "-C", place.source, "d", "link");
    await unpack(place.file, place.out);
    expect(differences(asArchived(place.source), asArchived(place.out))).toEqual([]);
  }
});

test.skipIf(!isRoot)("20 random trees: unpacking what was packed gives the same [needs root]", async () => {
  for (let seed = 21; seed <= 40; seed++) {
    using place = new Place();
    fillTree(place.source, seeded(seed));
    const packed = await pack(place.source, place.file, { onOutsideLink: () => "keep" });
    const {
      files,
      contentBytes,
      sha256: sum,
    } = await unpack(place.file, place.out, { ...anyLink, sha256: packed.sha256 });
    expect(differences(asArchived(place.source), asArchived(place.out))).toEqual([]);
    expect({ files, contentBytes, sum }).toEqual({
      files: packed.files,
      contentBytes: packed.contentBytes,
      sum: packed.sha256,
    });
  }
});

const dirEntry = (name: string): RawEntry => ({ name, flag: "5", mode: 0o755 });
const linkEntry = (name: string, link: string): RawEntry => ({ name, flag: "2", link });
const fileEntry = (name: string, content = "x"): RawEntry => ({ name, content });
const hardEntry = (name: string, link: string): RawEntry => ({ name, flag: "1", link });
const pax = (...records: [string, string][]): RawEntry => ({
  name: "PaxHeaders/x",
  flag: "x",
  content: records.map(([key, value]) => paxRecord(key, value)).join(""),
});

const hostile: [what: string, entries: RawEntry[], says: RegExp][] = [
  ["an absolute path", [fileEntry("/tmp/evil")], /\/tmp\/evil: has an absolute path/],
  ["an absolute directory", [dirEntry("/etc/")], /absolute/],
  ["a path that goes up", [fileEntry("../canary/file")], /"\.\."/],
  ["a path that goes up later", [fileEntry("a/../../canary/new")], /"\.\."/],
  ["a path that goes up and comes back", [dirEntry("a"), fileEntry("a/../b")], /"\.\."/],
  ["a directory that goes up", [dirEntry("../canary/new")], /"\.\."/],
  ["no name", [fileEntry("")], /has no name/],
  ["a file that is the root", [fileEntry(".")], /has no name/],
  ["a link that is the root", [linkEntry("./", "canary")], /has no name/],
  ["a zero byte", [pax(["path", "a\0b"]), fileEntry("a")], /zero byte/],
  ["a file below a link", [dirEntry("d"), linkEntry("l", "d"), fileEntry("l/x")], /l\/x: lies below a symbolic link/],
  ["a file below a link to the outside", [linkEntry("l", "../canary"), fileEntry("l/file")], /leaves the archive/],
  ["a file far below a link", [dirEntry("d"), linkEntry("l", "d"), fileEntry("l/x/y/z")], /below a symbolic link/],
  ["a directory below a link", [dirEntry("d"), linkEntry("l", "d"), dirEntry("l/x")], /below a symbolic link/],
  ["a link below a link", [dirEntry("d"), linkEntry("l", "d"), linkEntry("l/x", "y")], /below a symbolic link/],
  ["a file below a file", [fileEntry("f"), fileEntry("f/x")], /below a file/],
  ["a file twice", [fileEntry("f"), fileEntry("f")], /f: is there twice/],
  ["a file twice, by another name", [fileEntry("f"), fileEntry("./f")], /is there twice/],
  ["a link over a file", [fileEntry("f"), linkEntry("f", "x")], /is there twice/],
  ["a file over a link", [linkEntry("f", "x"), fileEntry("f")], /is there twice/],
  ["a link over a directory", [fileEntry("d/f"), linkEntry("d", "x")], /is there twice/],
  ["a directory over a link", [linkEntry("d", "e"), dirEntry("d")], /is there twice/],
  ["a directory over a file", [fileEntry("d"), dirEntry("d")], /is there twice/],
  ["a device", [{ name: "null", flag: "3" }], /null: is a character device/],
  ["a block device", [{ name: "sda", flag: "4" }], /is a block device/],
  ["a FIFO", [{ name: "fifo", flag: "6" }], /is a FIFO/],
  ["a contiguous file", [{ name: "c", flag: "7" }], /not supported/],
  ["a sparse file", [{ name: "s", flag: "S" }], /not supported/],
  ["a sparse file in pax", [pax(["GNU.sparse.major", "1"]), fileEntry("s")], /not supported/],
  ["another volume", [{ name: "m", flag: "M" }], /not supported/],
  ["an unknown type", [{ name: "q", flag: "Q" }], /unknown type "Q"/],
  ["a hard link to the outside", [hardEntry("h", "/etc/passwd")], /absolute/],
  ["a hard link that goes up", [hardEntry("h", "../canary/file")], /"\.\."/],
  ["a hard link to a later file", [hardEntry("h", "f"), fileEntry("f")], /no file before it/],
  ["a hard link to a symbolic link", [linkEntry("l", "f"), hardEntry("h", "l")], /no file before it/],
  ["a hard link to a directory", [dirEntry("d"), hardEntry("h", "d")], /no file before it/],
  ["a hard link to itself", [hardEntry("h", "h")], /no file before it/],
  ["a hard link through a link", [fileEntry("d/f"), linkEntry("l", "d"), hardEntry("h", "l/f")], /no file before it/],
  ["a link to an absolute path", [linkEntry("l", "/etc")], /l: is a symbolic link that leaves the archive, to \/etc/],
  ["a link that goes up", [linkEntry("l", "..")], /leaves the archive/],
  ["a link that goes up from below", [linkEntry("a/b/l", "../../../canary")], /leaves the archive/],
  ["a chain of links", [dirEntry("a/b"), linkEntry("c", "a/b"), linkEntry("a/d", "../c/../..")], /leaves the archive/],
  ["a chain in another order", [linkEntry("b", "a/../.."), dirEntry("x/y"), linkEntry("a", "x")], /leaves the archive/],
  ["a loop of links", [linkEntry("a", "b"), linkEntry("b", "a")], /leaves the archive/],
  ["a link to nothing", [linkEntry("l", "")], /no name/],
  ["a size that is none", [{ ...fileEntry("f"), size: 0o70000000000 }], /cut off/],
  ["a directory with a size", [{ ...dirEntry("d"), content: "x" }], /has a size/],
  ["a link with a size", [{ ...linkEntry("l", "x"), content: "x" }], /has a size/],
  ["a pax record without end", [{ name: "x", flag: "x", content: "9 path=a" }, fileEntry("f")], /pax record/],
  ["a pax size that is none", [pax(["size", "-5"]), fileEntry("f")], /good size/],
  ["a pax size beyond all numbers", [pax(["size", "9".repeat(30)]), fileEntry("f")], /good size/],
  ["a pax time that is none", [pax(["mtime", "now"]), fileEntry("f")], /good time/],
  ["a pax header alone", [pax(["path", "a"])], /stands alone/],
  ["a pax header without bounds", [{ name: "x", flag: "x", size: 2 ** 32 }], /too long/],
  ["a long name without bounds", [{ name: "x", flag: "L", size: 2 ** 32 }], /too long/],
  ["an absolute path in pax", [pax(["path", "/etc/evil"]), fileEntry("f")], /absolute/],
  ["an absolute path for all", [{ ...pax(["path", "/etc/evil"]), flag: "g" }, fileEntry("f")], /absolute/],
  ["a long name that goes up", [{ name: "n", flag: "L", content: "../canary/file\0" }, fileEntry("f")], /"\.\."/],
  ["a long link that goes up", [{ name: "n", flag: "K", content: "../canary\0" }, linkEntry("l", "x")], /leaves/],
];
test.each(hostile)("refused: %s", async (_, entries, says) => {
  using place = new Place();
  const error = await refusal(place, rawTar([fileEntry("first"), ...entries]));
  expect([error?.code, error?.path]).toEqual(["BAD_ARCHIVE", place.file]);
  expect(error?.message).toMatch(says);
  expect(error?.message).toStartWith(`Cannot unpack ${place.file}: `);
  for (const name of readdirSync(place.out, { recursive: true }))
    expect(lstatSync(join(place.out, String(name))).isSymbolicLink()).toBe(false);
});

test("nothing of a refused file is written, and nothing after it", async () => {
  using place = new Place();
  await refusal(place, rawTar([fileEntry("a"), fileEntry("a", "twice"), fileEntry("b")]));
  expect(readdirSync(place.out)).toEqual(["a"]);
  expect(readFileSync(join(place.out, "a"), "utf8")).toBe("x");
});

test("broken ends: cut off anywhere, without zeros, or with something after them", async () => {
  using place = new Place();
  const whole = rawTar([dirEntry("d"), fileEntry("d/f", "y".repeat(700)), pax(["path", "z"]), fileEntry("g")]);
  for (let length = 0; length < whole.length; length += 100) {
    place.empty();
    const error = await refusal(place, whole.subarray(0, length));
    expect([length, error?.code]).toEqual([length, "BAD_ARCHIVE"]);
  }
  place.empty();
  const loose = Buffer.concat([whole.subarray(0, whole.length - 512), whole]);
  expect((await refusal(place, loose))?.message).toMatch(/block of zeros stands alone/);
  place.empty();
  expect((await refusal(place, Buffer.concat([whole, Buffer.from("x")])))?.message).toMatch(/after its end/);
  place.empty();
  expect((await refusal(place, Buffer.concat([whole, rawTar([fileEntry("new")])])))?.message).toMatch(/after its end/);
  place.empty();
  expect(await refusal(place, Buffer.concat([whole, Buffer.alloc(100_001)]))).toBeUndefined();
  place.empty();
  expect(await refusal(place, Buffer.alloc(10240))).toBeUndefined();
});

test("what is no archive is refused, and what is not there", async () => {
  using place = new Place();
  for (const text of ["", "hello", "#!/bin/sh\n".repeat(1000)])
    expect((await refusal(place, Buffer.from(text)))?.message).toMatch(/it is empty|no tar archive/);
  expect(await unpack(join(place.dir, "no"), place.out).catch((e) => e)).toMatchObject({ code: "IO" });
  expect(await unpack(place.source, place.out).catch((e) => e)).toMatchObject({ code: "BAD_ARCHIVE" });
  place.sh("mkfifo", join(place.dir, "fifo"));
  expect(await unpack(join(place.dir, "fifo"), place.out).catch((e) => e)).toMatchObject({ code: "BAD_ARCHIVE" });
});

test("a header that claims a petabyte takes no memory", async () => {
  using place = new Place();
  const header = rawHeader({ name: "huge" });
  header.writeUInt32BE(0x80000000, 124);
  header.writeBigUInt64BE(10n ** 15n, 128);
  const before = process.memoryUsage().rss;
  const error = await refusal(place, Buffer.concat([sealed(header), Buffer.alloc(5 << 20)]));
  expect(error?.message).toMatch(/huge: it is cut off/);
  expect(process.memoryUsage().rss - before).toBeLessThan(200 << 20);
});

/** Some of all that an archive may hold. */
function varied(): Buffer {
  return rawTar([
    { name: "./", flag: "5", mode: 0o755 },
    dirEntry("./bin/"),
    { ...fileEntry("bin/tool", "#!/bin/sh\n"), mode: 0o755 },
    linkEntry("bin/python", "python3"),
    hardEntry("bin/tool3", "bin/tool"),
    { ...pax(["comment", "for all"]), flag: "g" },
    pax(["path", `lib/${`${"long".repeat(15)}/`.repeat(2)}name`], ["mtime", "1700000000.5"]),
    fileEntry("short", "z".repeat(1500)),
    { name: "././@LongLink", flag: "L", content: `lib/${`${"other".repeat(12)}/`.repeat(2)}name\0` },
    fileEntry("lib/other", "w".repeat(512)),
    linkEntry("lib64", "lib"),
    fileEntry("empty", ""),
  ]);
}

test("2,500 archives with wrong bytes: unpacked or refused, never outside, never a crash", async () => {
  using place = new Place();
  const random = seeded(1);
  const good = varied();
  expect(await refusal(place, good)).toBeUndefined();
  const outside = place.outside();
  const kinds = new Map<string, number>();
  const interesting = ["/", "..", "../", "\0", "\xff", "2", "1", "5", "7", "L", "x", "g", "\x80"];
  for (let round = 0; round < 2500; round++) {
    const bytes = Buffer.from(good);
    for (let changes = 1 + random(4); changes > 0; changes--) {
      const at = random(bytes.length);
      if (random(2)) bytes[at] = random(256);
      else bytes.write(interesting[random(interesting.length)] ?? "", at, "latin1");
    }
    // Half of them with sums that are right again: what they say is then read.
    if (random(2))
      for (let at = 0; at < bytes.length; at += 512)
        if (bytes.toString("latin1", at + 257, at + 262) === "ustar") sealed(bytes.subarray(at, at + 512));
    place.empty();
    place.archive(bytes.subarray(0, random(10) ? bytes.length : random(bytes.length)));
    const result = await unpack(place.file, place.out).then(
      () => "unpacked",
      (error) => (error instanceof EfError ? error.code : String(error.stack)),
    );
    kinds.set(result, (kinds.get(result) ?? 0) + 1);
  }
  expect(place.outside()).toEqual(outside);
  expect([...kinds.keys()].filter((kind) => !["unpacked", "BAD_ARCHIVE", "IO"].includes(kind))).toEqual([]);
  expect(Math.min(kinds.get("unpacked") ?? 0, kinds.get("BAD_ARCHIVE") ?? 0)).toBeGreaterThan(200);
}, 120_000);

test("a changed byte or a missing end of a compressed archive is noticed", async () => {
  using place = new Place();
  const random = seeded(5);
  for (let i = 0; i < 30; i++)
    writeFileSync(join(place.source, `${i}`), Buffer.from(Array.from({ length: 3000 }, () => random(64))));
  const file = join(place.dir, "a.zst");
  const { sha256: sum } = await pack(place.source, file);
  place.sh("tar", "-czf", `${file}.gz`, "-C", place.source, ".");
  for (const path of [file, `${file}.gz`]) {
    const good = readFileSync(path);
    const expected = sha256(path);
    for (let round = 0; round < 40; round++) {
      const cut = round % 4 === 0;
      const bytes = Buffer.from(cut ? good.subarray(0, random(good.length)) : good);
      if (!cut) bytes.writeUInt8((good.readUInt8(random(good.length)) ^ (1 << random(8))) & 0xff, random(good.length));
      if (bytes.equals(good)) continue;
      place.empty();
      expect(await refusal(place, bytes, { sha256: expected })).toMatchObject({ code: "BAD_ARCHIVE" });
      place.empty();
      if (path === file) expect((await refusal(place, bytes))?.code ?? "BAD_ARCHIVE").toBe("BAD_ARCHIVE");
    }
  }
  place.empty();
  const wrong = await refusal(place, readFileSync(file), { sha256: "0".repeat(64) });
  expect(wrong?.message).toContain(`its sha256 is ${sum}, and was ${"0".repeat(64)}`);
  place.empty();
  expect(await refusal(place, readFileSync(file), { sha256: sum.toUpperCase() })).toBeUndefined();
});

test("links that leave the root are made where they are wanted; links may go on to them, not past them", async () => {
  using place = new Place();
  const asked: string[] = [];
  const allowLink = (path: string, text: string) => {
    asked.push(`${path} -> ${text}`);
    return text === "/usr/bin/python3";
  };
  const entries = [linkEntry("bin/python", "/usr/bin/python3"), linkEntry("bin/python3", "python")];
  expect(await refusal(place, rawTar(entries), { allowLink })).toBeUndefined();
  expect(asked).toEqual(["bin/python -> /usr/bin/python3"]);
  expect([readlinkSync(join(place.out, "bin/python")), readlinkSync(join(place.out, "bin/python3"))]).toEqual([
    "/usr/bin/python3",
    "python",
  ]);
  place.empty();
  const past = await refusal(place, rawTar([...entries, linkEntry("x", "bin/python/../..")]), { allowLink });
  expect(past?.message).toMatch(/x: is a symbolic link that leaves/);
});

test("modes and times: as in the archive, without set-id bits, of directories too", async () => {
  using place = new Place();
  const entries: RawEntry[] = [
    { ...dirEntry("closed"), mode: 0o500, mtime: 1000 },
    { ...dirEntry("closed/inner"), mode: 0o2555, mtime: 2000 },
    { ...fileEntry("closed/inner/f"), mode: 0o6755, mtime: 3000 },
    { ...fileEntry("implied/g"), mode: 0o400, mtime: 4000 },
    { ...linkEntry("l", "closed"), mtime: 5000 },
    { ...dirEntry("sticky"), mode: 0o1777, mtime: 6000 },
  ];
  const before = process.umask(0o077);
  try {
    expect(await refusal(place, rawTar(entries))).toBeUndefined();
  } finally {
    process.umask(before);
  }
  const seen = Object.fromEntries(
    ["closed", "closed/inner", "closed/inner/f", "implied", "implied/g", "l", "sticky"].map((path) => {
      const { mode, mtimeMs } = lstatSync(join(place.out, path));
      return [path, [(mode & 0o7777).toString(8), path === "implied" ? 0 : mtimeMs / 1000]];
    }),
  );
  expect(seen).toEqual({
    closed: ["500", 1000],
    "closed/inner": ["555", 2000],
    "closed/inner/f": ["755", 3000],
    implied: ["700", 0],
    "implied/g": ["400", 4000],
    l: ["777", 5000],
    sticky: ["1777", 6000],
  });
});

test("contents are seen before they are written, and searched wherever they are cut", async () => {
  using place = new Place();
  const needle = Buffer.from("/old/place/env");
  const random = seeded(2);
  const large = Buffer.alloc(5 << 20, "/old/place/en"); // almost
  mkdirSync(join(place.source, "d"));
  writeFileSync(join(place.source, "a"), "at the end /old/place/env");
  writeFileSync(join(place.source, "b"), "/old/place/en /old/place/en");
  writeFileSync(join(place.source, "large without"), large);
  const names = Array.from({ length: 12 }, (_, i) => `large ${i}`);
  for (const name of names) {
    const bytes = Buffer.from(large);
    needle.copy(bytes, (random(40) << 17) + random(64) - 32 + (1 << 17));
    writeFileSync(join(place.source, name), bytes);
  }
  linkSync(join(place.source, "a"), join(place.source, "second name of a"));
  place.sh("tar", "-cf", place.file, "--sort=name", "-C", place.source, ".");
  const heard: Record<string, number> = {};
  let asked = 0;
  const { mentions } = await unpack(place.file, place.out, {
    onFile(path, content) {
      expect(existsSync(join(place.out, path))).toBe(false);
      heard[path] = content.length;
    },
    find: () => (asked++ < 0 ? [] : [needle, Buffer.from("not there"), Buffer.alloc(0)]),
  });
  expect(heard).toEqual({ a: 25, b: 27 });
  expect(mentions.sort()).toEqual(["a", "second name of a", ...names].sort());
  expect(asked).toBe(15);
  expect(differences(asArchived(place.source), asArchived(place.out))).toEqual([]);
});

test("what onFile throws ends it, as it is", async () => {
  using place = new Place();
  place.archive(rawTar([fileEntry("a"), fileEntry("b")]));
  const onFile = (path: string) => {
    if (path === "b") throw new Error("not this one");
  };
  expect(unpack(place.file, place.out, { onFile })).rejects.toThrow("not this one");
  await unpack(place.file, place.out, { onFile }).catch(() => {});
  expect(existsSync(join(place.out, "b"))).toBe(false);
});

test("an abort ends the program and closes all files", async () => {
  using place = new Place();
  for (let i = 0; i < 40; i++) writeFileSync(join(place.source, `${i}`), Buffer.alloc(1 << 20, i));
  const file = join(place.dir, "a.zst");
  await pack(place.source, file);
  await unpack(file, place.out);
  for (const inParts of [false, true]) {
    if (inParts) {
      place.empty();
      truncateSync(join(place.source, "7"), 300 << 20);
      await pack(place.source, `${file}2`);
    }
    place.empty();
    const before = openFds();
    const abort = new AbortController();
    const onProgress = () => abort.abort(new Error("enough"));
    const unpacking = unpack(inParts ? `${file}2` : file, place.out, { signal: abort.signal, onProgress });
    expect(await unpacking.catch((error) => error)).toMatchObject({ message: "enough" });
    await until("files are closed", () => openFds() <= before);
    expect(children()).toEqual([]);
  }
});

test.skipIf(!have("zstd"))(
  "a program that is killed while it packs is an error, and so is one that fails",
  async () => {
    using place = new Place();
    writeFileSync(join(place.source, "f"), Buffer.alloc(1000));
    const file = join(place.dir, "a.zst");
    const real = Bun.which("zstd");
    const path = process.env.PATH;
    const bin = join(place.dir, "bin");
    mkdirSync(bin);
    const scripts: [string, RegExp][] = [
      [`"${real}" "$@" | head -c 7; kill -KILL $$`, /was ended by signal 9/],
      [`"${real}" "$@"; echo no memory >&2; exit 3`, /failed with exit code 3\n\s+no memory/],
    ];
    try {
      process.env.PATH = `${bin}:${path}`;
      for (const [script, says] of scripts) {
        writeFileSync(join(bin, "zstd"), `#!/bin/sh\n${script}\n`);
        chmodSync(join(bin, "zstd"), 0o755);
        const error = await pack(place.source, file).catch((e) => e);
        expect(error).toBeInstanceOf(EfError);
        expect(error.message).toMatch(says);
        expect(existsSync(file)).toBe(false);
      }
    } finally {
      process.env.PATH = path;
    }
  },
);

test.skipIf(!have("zstd"))("killed outright, ef leaves no program behind [needs zstd]", async () => {
  using place = new Place();
  const random = seeded(4);
  const bytes = Buffer.from(Array.from({ length: 1 << 20 }, () => random(256)));
  for (let i = 0; i < 30; i++) writeFileSync(join(place.source, `${i}`), bytes);
  const file = join(place.dir, "a.zst");
  await pack(place.source, file);
  const lib = join(import.meta.dir, "../../lib/engine");
  const stuck = "const onProgress = ({ bytes }) => { if (bytes > 0) { console.log('here'); for (;;); } };";
  const work = `import { pack } from "${lib}/pack.ts"; ${stuck} await pack(${JSON.stringify(place.source)}, ${JSON.stringify(`${file}2`)}, { onProgress });`;
  const ef = Bun.spawn([process.execPath, "-e", work], { stdout: "pipe", stderr: "inherit" });
  try {
    await ef.stdout.getReader().read();
    const programs = Bun.spawnSync(["ps", "-o", "pid=,comm=", "--ppid", String(ef.pid)])
      .stdout.toString()
      .trim();
    expect(programs).toMatch(/^\d+ zstd$/);
    ef.kill("SIGKILL");
    await ef.exited;
    await until("the program has ended", () => !existsSync(`/proc/${programs.split(" ")[0]}`));
  } finally {
    ef.kill("SIGKILL"); // it would go on for ever
  }
});

test("to slow storage: many files in flight, in their directories, the same tree", async () => {
  using place = new Place();
  for (let i = 0; i < 300; i++) {
    mkdirSync(join(place.source, `dir ${i % 30}/${i}`), { recursive: true });
    writeFileSync(join(place.source, `dir ${i % 30}/${i}/f`), Buffer.alloc(i, i));
    symlinkSync(`${i}/f`, join(place.source, `dir ${i % 30}/link ${i}`));
    linkSync(join(place.source, `dir ${i % 30}/${i}/f`), join(place.source, `dir ${i % 30}/other ${i}`));
  }
  writeFileSync(join(place.source, "large"), Buffer.alloc(3 << 20, "large"));
  place.sh("tar", "-cf", place.file, "-C", place.source, ".");
  const storage = new Storage(undefined);
  storage.useThreads();
  const writer = new TreeWriter(bytesOf(place.out), storage, anyLink);
  const reader = new TarReader();
  const bytes = readFileSync(place.file);
  for (let at = 0; at < bytes.length; at += 100_000) {
    reader.feed(bytes.subarray(at, at + 100_000));
    for (let part = reader.next(); part; part = reader.next()) await writer.add(part);
  }
  reader.finish();
  await writer.settle();
  await writer.finish(undefined);
  expect(differences(asArchived(place.source), asArchived(place.out))).toEqual([]);
});

test("what cannot be written is said with its path", async () => {
  using place = new Place();
  place.archive(rawTar([fileEntry(`d/${"n".repeat(90)}`), fileEntry("d/x")]));
  const gone = join(place.dir, "gone");
  expect(await unpack(place.file, gone).catch((e) => e)).toMatchObject({ code: "IO", path: `${gone}/d` });
  writeFileSync(join(place.out, "d"), "");
  expect(await unpack(place.file, place.out).catch((e) => e)).toMatchObject({ code: "IO", path: `${place.out}/d` });
  expect(statSync(join(place.out, "d")).size).toBe(0);
});
