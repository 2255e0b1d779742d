import { expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { bytesOf } from "../../lib/base/bytes.ts";
import { walk } from "../../lib/base/steps.ts";
import { Contents, type Seen } from "../../lib/engine/archive-contents.ts";
import { type PackOptions, type PackProgress, pack } from "../../lib/engine/pack.ts";
import { Storage } from "../../lib/engine/storage.ts";
import { asArchived, children, openFds, Place, sha256 } from "../archives.ts";
import { have, haveOtherUser, until } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { differences, fillTree } from "../trees.ts";

const keep: PackOptions = { onOutsideLink: () => "keep" };
const isRoot = process.geteuid?.() === 0;

/** As Python 3 reads an archive; "data" where it is the filter, and fully trusted else. */
const python = (filter: string) =>
  `import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], **({"filter": "${filter}"} if hasattr(tarfile, "data_filter") else {}))`;

test.skipIf(!isRoot || !have("zstd"))(
  "20 random trees: GNU tar and Python make the same of the archive, and it is the same when made again [needs root, zstd]",
  async () => {
    for (let seed = 1; seed <= 20; seed++) {
      using place = new Place();
      fillTree(place.source, seeded(seed));
      const [first, second] = [join(place.dir, "1.tar.zst"), join(place.dir, "2.tar.zst")];
      const packed = await pack(place.source, first, keep);
      expect(await pack(place.source, second, keep)).toEqual(packed);
      expect(readFileSync(first).equals(readFileSync(second))).toBe(true);
      expect(packed).toMatchObject({
        sha256: sha256(first),
        sizeBytes: lstatSync(first).size,
        dropped: [],
        skipped: [],
      });
      expect(lstatSync(first).mode & 0o777).toBe(0o600);

      const source = asArchived(place.source);
      place.sh("zstd", "-qd", first, "-o", place.file);
      place.sh("tar", "-x", "-p", "-f", place.file, "-C", place.out);
      expect(differences(source, asArchived(place.out))).toEqual([]);
      const other = join(place.dir, "python");
      mkdirSync(other);
      place.sh("python3", "-c", python("fully_trusted"), place.file, other);
      const made = asArchived(other);
      for (const { seen } of [source, made]) // it gives links no time
        for (const entry of seen.values()) if (entry.kind === "link") entry.mtimeNs = 0n;
      expect(differences(source, made)).toEqual([]);
    }
  },
  60_000,
);

test.skipIf(!have("zstd") || !have("python3"))(
  "without links that leave it, Python's filter for data takes it [needs zstd, python3]",
  async () => {
    using place = new Place();
    mkdirSync(join(place.source, "bin"));
    writeFileSync(join(place.source, "bin/tool"), "#!/bin/sh\n", { mode: 0o755 });
    linkSync(join(place.source, "bin/tool"), join(place.source, "bin/tool3"));
    symlinkSync("bin", join(place.source, "sbin"));
    symlinkSync("/usr/bin/python3", join(place.source, "bin/python"));
    const { dropped } = await pack(place.source, `${place.file}.zst`);
    expect(dropped).toEqual(["bin/python"]);
    place.sh("zstd", "-qd", `${place.file}.zst`);
    place.sh("python3", "-c", python("data"), place.file, place.out);
    unlinkSync(join(place.source, "bin/python"));
    chmodSync(place.source, 0o700);
    const expected = asArchived(place.source);
    const found = asArchived(place.out);
    for (const { seen } of [expected, found])
      for (const name of ["bin", "sbin"]) (seen.get(name) as { mtimeNs: bigint }).mtimeNs = 0n; // a name less; no time for links
    expect(differences(expected, found)).toEqual([]);
  },
);

test.skipIf(!have("zstd"))("entries come in byte order, each directory before what it holds [needs zstd]", async () => {
  using place = new Place();
  for (const dir of ["b", "a", "a/z", "B"]) mkdirSync(join(place.source, dir));
  for (const file of ["a/z/1", "a-b", "a/é", "b/x", "B/y", "-n"]) writeFileSync(join(place.source, file), file);
  await pack(place.source, `${place.file}.zst`);
  place.sh("zstd", "-qd", `${place.file}.zst`);
  const names = place.sh("tar", "-tf", place.file, "--quoting-style=literal").trim().split("\n");
  expect(names).toEqual(["-n", "B/", "B/y", "a/", "a/z/", "a/z/1", "a/é", "a-b", "b/", "b/x"]);
});

test("of a tree, only names, contents, modes, links and whole seconds count", async () => {
  using place = new Place();
  const file = join(place.source, "f");
  const sums = [];
  for (const time of [1_700_000_000.1, 1_700_000_000.9, 1_700_000_001]) {
    writeFileSync(file, "x");
    utimesSync(file, time, time);
    const to = `${place.file}${time}`;
    sums.push((await pack(place.source, to)).sha256);
    unlinkSync(file);
  }
  expect([sums[0] === sums[1], sums[1] === sums[2]]).toEqual([true, false]);
});

test("links that leave the root are dropped, kept or followed, as asked", async () => {
  using place = new Place();
  const { dir, source, out } = place;
  writeFileSync(join(dir, "outside"), "contents");
  mkdirSync(join(source, "d/e"), { recursive: true });
  symlinkSync("../outside", join(source, "file"));
  symlinkSync(join(dir, "outside"), join(source, "absolute"));
  symlinkSync("../jail", join(source, "directory"));
  symlinkSync("../nowhere", join(source, "dangling"));
  symlinkSync("d/e", join(source, "inside"));
  symlinkSync("inside/../../..", join(source, "by another"));
  const outside = ["absolute", "by another", "dangling", "directory", "file"];
  const unpackNames = async (
    name: string,
    onOutsideLink?: (path: string, text: string) => "keep" | "follow" | "drop",
  ) => {
    const file = join(dir, name);
    const packed = await pack(source, file, onOutsideLink ? { onOutsideLink } : {});
    const { unpack } = await import("../../lib/engine/unpack.ts");
    place.empty();
    await unpack(file, out, { allowLink: () => onOutsideLink !== undefined });
    return { ...packed, names: readdirSync(out).sort() };
  };
  const dropped = await unpackNames("dropped");
  expect([dropped.dropped.sort(), dropped.names]).toEqual([outside, ["d", "inside"]]);

  const heard: string[] = [];
  const kept = await unpackNames("kept", (path, text) => {
    heard.push(`${path} -> ${text}`);
    return "keep";
  });
  expect([kept.dropped, kept.names]).toEqual([[], [...outside, "d", "inside"].sort()]);
  expect(readlinkSync(join(out, "directory"))).toBe("../jail");
  expect(heard).toContain("directory -> ../jail");

  // as `python3 -m venv` makes them: `python` comes before what it leads to
  mkdirSync(join(source, "bin"));
  symlinkSync("python3", join(source, "bin/python"));
  symlinkSync(join(dir, "outside"), join(source, "bin/python3"));
  const chain = await unpackNames("chain", (path) => (path === "bin/python3" ? "keep" : "drop"));
  expect(chain.dropped).not.toContain("bin/python");
  expect(readlinkSync(join(out, "bin/python"))).toBe("python3");
  rmSync(join(source, "bin"), { recursive: true });

  const followed = await unpackNames("followed", () => "follow");
  expect(followed).toMatchObject({ files: 2, contentBytes: 16 });
  expect([followed.followed.sort(), followed.dropped.sort()]).toEqual([
    ["absolute", "file"],
    ["by another", "dangling", "directory"],
  ]);
  expect(lstatSync(join(out, "file")).isFile()).toBe(true);
  expect(readFileSync(join(out, "absolute"), "utf8")).toBe("contents");
});

test("what is excluded and what is no file is not in it, and is told", async () => {
  using place = new Place();
  for (const name of ["cache", "cache/deep", "kept"]) mkdirSync(join(place.source, name));
  for (const name of ["cache/a", "cache/deep/b", "kept/c", "kept/d.pyc"]) writeFileSync(join(place.source, name), name);
  place.sh("mkfifo", join(place.source, "kept/pipe"));
  const exclude = (path: string) => path === "cache" || path.endsWith(".pyc");
  const packed = await pack(place.source, place.file, { exclude });
  expect(packed).toMatchObject({ files: 1, contentBytes: 6, skipped: ["kept/pipe"] });
  const { unpack } = await import("../../lib/engine/unpack.ts");
  await unpack(place.file, place.out);
  expect(readdirSync(place.out, { recursive: true }).sort()).toEqual(["kept", "kept/c"]);
});

const changes: [string, (file: string) => void][] = [
  ["longer", (file) => appendFileSync(file, "more")],
  ["shorter", (file) => writeFileSync(file, "less")],
  ["another time", (file) => utimesSync(file, 1, 1)],
  ["gone", (file) => unlinkSync(file)],
  ["a directory", (file) => void Bun.spawnSync(["sh", "-c", 'rm "$1" && mkdir "$1"', "sh", file])],
  ["a link", (file) => void Bun.spawnSync(["ln", "-sf", "/etc/passwd", file])],
  ["a FIFO", (file) => void Bun.spawnSync(["sh", "-c", 'rm "$1" && mkfifo "$1"', "sh", file])],
];
test.each(changes)("a file that becomes %s meanwhile is named, and no archive is left", async (_, change) => {
  using place = new Place();
  for (let i = 0; i < 20; i++) writeFileSync(join(place.source, `${i + 10}`), Buffer.alloc(100_000, i));
  const changed = join(place.source, "25");
  let once = false;
  const onProgress = () => {
    if (!once) change(changed);
    once = true;
  };
  const packing = pack(place.source, place.file, { onProgress });
  expect(await packing.catch((error) => error)).toMatchObject({ code: "TRANSFER_PARTIAL", path: changed });
  expect(existsSync(place.file)).toBe(false);
});

test.skipIf(!haveOtherUser)("a file or directory that cannot be read is named [needs root]", async () => {
  for (const [mode, path] of [
    ["file", "dir/file"],
    ["dir", "dir"],
  ] as const) {
    using place = new Place();
    mkdirSync(join(place.source, "dir"));
    writeFileSync(join(place.source, "dir/file"), "secret");
    place.sh("chown", "-R", "65534:65534", place.dir);
    chmodSync(join(place.source, path), 0);
    const script = `import { pack } from "${import.meta.dir}/../../lib/engine/pack.ts";
      const error = await pack(${JSON.stringify(place.source)}, ${JSON.stringify(place.file)}).catch((error) => error);
      console.log(error.code, error.path);`;
    const argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", process.execPath, "-e", script];
    expect([mode, place.sh(...argv).trim()]).toEqual([mode, `IO ${join(place.source, path)}`]);
    expect(existsSync(place.file)).toBe(false);
  }
});

test("never over something, and never a root that is none", async () => {
  using place = new Place();
  writeFileSync(place.file, "mine");
  symlinkSync("nowhere", `${place.file}.link`);
  for (const file of [place.file, `${place.file}.link`])
    expect(await pack(place.source, file).catch((error) => error)).toMatchObject({ code: "EXISTS", path: file });
  expect(readFileSync(place.file, "utf8")).toBe("mine");
  for (const root of [place.file, join(place.dir, "missing")])
    expect(await pack(root, `${place.file}.new`).catch((error) => error)).toMatchObject({ code: "IO", path: root });
  expect(existsSync(`${place.file}.new`)).toBe(false);
});

test("an abort ends the compressor, closes all files and removes the archive", async () => {
  using place = new Place();
  const random = seeded(3);
  const bytes = Buffer.from(Array.from({ length: 1 << 20 }, () => random(256)));
  for (let i = 0; i < 40; i++) writeFileSync(join(place.source, `${i}`), bytes);
  await pack(place.source, `${place.file}.first`); // what is opened once for all
  const before = openFds();
  const abort = new AbortController();
  const onProgress = ({ files }: PackProgress) => {
    if (files > 10) abort.abort(new Error("enough"));
  };
  const packing = pack(place.source, place.file, { signal: abort.signal, onProgress, level: 1 });
  expect(packing).rejects.toThrow("enough");
  await packing.catch(() => {});
  await until("files are closed", () => openFds() <= before);
  expect([existsSync(place.file), children()]).toEqual([false, []]);
});

test("progress goes up to all there is", async () => {
  using place = new Place();
  for (let i = 0; i < 30; i++) writeFileSync(join(place.source, `${i}`), Buffer.alloc(1000 * i));
  linkSync(join(place.source, "29"), join(place.source, "30"));
  const heard: PackProgress[] = [];
  const packed = await pack(place.source, place.file, { onProgress: (progress) => void heard.push(progress) });
  expect(packed).toMatchObject({ files: 31, contentBytes: 435_000 });
  expect(heard.at(-1)).toEqual({ bytes: 435_000, files: 31, totalBytes: 435_000, totalFiles: 31 });
});

test("from slow storage: many files ahead, the same contents in the same order", async () => {
  using place = new Place();
  const random = seeded(9);
  const sizes = Array.from({ length: 600 }, (_, i) => (i % 97 === 0 ? 3 << 20 : 1 + random(20_000)));
  sizes[300] = 17 << 20;
  const files: Seen[] = sizes.map((size, i) => {
    const path = join(place.source, `${i}`);
    writeFileSync(path, Buffer.alloc(size, i));
    return { path: bytesOf(path), size, mtimeNs: lstatSync(path, { bigint: true }).mtimeNs };
  });
  const storage = new Storage(undefined);
  storage.useThreads();
  const contents = new Contents(storage, files);
  let ahead = 0;
  for (const [i, { size }] of files.entries()) {
    const found = await contents.take(i);
    if (found) {
      ahead++;
      expect([i, found.length, found.every((byte) => byte === i % 256)]).toEqual([i, size, true]);
    } else {
      const open = await walk(contents.open(files[i] as Seen));
      const into = Buffer.alloc(size);
      for (let at = 0; at < size; ) at += await walk(open.read(into, at, size - at));
      await walk(open.check());
      await walk(open.close());
      expect([i, into.every((byte) => byte === i % 256)]).toEqual([i, true]);
    }
  }
  expect(ahead).toBe(599);
  await contents.landed();
});
