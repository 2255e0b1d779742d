import { expect, test } from "bun:test";
import {
  checkExtraArgs,
  effectOf,
  listArgv,
  nameList,
  parseDeleted,
  parseItem,
  parseProgress,
  parseSkipped,
  parseVersion,
  treeArgv,
  unescapeName,
} from "../../lib/drivers/rsync.ts";

test("argv of a tree: contents to contents, hostile names after --, what ef reads last", () => {
  const argv = treeArgv({
    source: "/home/a b/-x",
    target: "/scratch/$t/",
    exclude: ["/.locks/", "- odd"],
    filterStdin: true,
    tempDir: "/scratch/.tmp",
    setgid: true,
    nanoseconds: true,
    bytesPerS: 200 * 1024 ** 2,
    extraArgs: ["--compress"],
  });
  expect(argv).toEqual([
    "rsync",
    "-rlptHS",
    "--chmod=Dg+s",
    "--temp-dir=/scratch/.tmp",
    "--modify-window=-1",
    "--bwlimit=204800",
    "--filter=merge -",
    "--exclude=/.locks/",
    "--exclude=- odd",
    "--compress",
    "--8-bit-output",
    "--info=NONE,PROGRESS2",
    "--no-human-readable",
    "--outbuf=Line",
    "--",
    "/home/a b/-x/",
    "/scratch/$t/",
  ]);
});

test("argv of a tree: a dry run writes nothing and needs no temporary directory", () => {
  const argv = treeArgv({ source: "/s", target: "/t", tempDir: "/x", dryRun: true });
  expect(argv).toContain("--dry-run");
  expect(argv.join(" ")).not.toContain("temp-dir");
});

test("argv of a list: never recursive, whatever the user's arguments; never in place of what is new there", () => {
  const argv = listArgv({
    source: "/s",
    target: "/t",
    which: "new",
    extraArgs: ["-a"],
    xattrs: true,
    nanoseconds: true,
  });
  expect(argv).toEqual([
    "rsync",
    "-lpt",
    "--no-implied-dirs",
    "--ignore-times",
    "--ignore-existing",
    "--modify-window=-1",
    "-AX",
    "-a",
    "--no-recursive",
    "--from0",
    "--files-from=-",
    "--8-bit-output",
    "--info=NONE,PROGRESS2",
    "--no-human-readable",
    "--outbuf=Line",
    "--",
    "/s/",
    "/t/",
  ]);
  expect(listArgv({ source: "/s", target: "/t", which: "over" })).not.toContain("--ignore-existing");
  expect(listArgv({ source: "/s", target: "/t", which: "differing" })).not.toContain("--ignore-times");
  expect(listArgv({ source: "/s", target: "/t", which: "differing", directories: {} })).toContain("-lptd");
});

test("a list of names: bytes, none of them a comment", () => {
  expect(nameList(["#a", "caf\xe9/n\nl"])).toEqual(Buffer.from("./#a\0./caf\xe9/n\nl\0", "latin1"));
});

test.each<[string, ReturnType<typeof effectOf>]>([
  ["", "neither"],
  ["-z", "neither"],
  ["-zWPv", "neither"],
  ["--compress-level=3 --bwlimit 100 -T /x", "neither"],
  ["--info=progress2 --no-whole-file --inplace", "neither"],
  ["--chmod=F640", "attributes"],
  ["--chmod F640 -z", "attributes"],
  ["--no-perms", "attributes"],
  ["-O", "attributes"],
  ["-av", "attributes"],
  ["--delete", "selection"],
  ["-z --max-size=1", "selection"],
  ["-zu", "selection"],
  ["-c", "selection"],
  ["-f -_x", "selection"],
  ["--exclude *.o", "selection"],
  ["--no-times", "selection"],
  ["-L", "selection"],
  ["--no-such-option", "selection"],
  ["/another/source", "selection"],
  ["-", "selection"],
])("what %j changes: %s", (args, effect) => {
  expect(effectOf(args.split(" ").filter(Boolean))).toBe(effect);
});

test.each([["--exclude=!"], ["--filter", "!"], ["-f", "clear"], ["-f!"], ["-z", "--include=!"]])(
  "arguments that would clear ef's own patterns are refused: %s %s",
  (...args: unknown[]) => {
    expect(() => checkExtraArgs(args.filter((arg) => typeof arg === "string"))).toThrow("clears ef's own patterns");
  },
);

test.each([
  ["rsync  version 3.1.0  protocol version 31\n", 30_100],
  ["rsync  version 3.2.7  protocol version 31\nCopyright", 30_207],
  ["rsync  version v3.4.1  protocol version 32", 30_401],
  ["openrsync: protocol version 29, rsync version 2.6.9 compatible\n", undefined],
  ["", undefined],
])("version of %j", (text, number) => {
  expect(parseVersion(text)?.number).toBe(number as number);
});

test.each([
  [
    ">f+++++++++ 123 a/new\\#012line",
    { kind: "file", action: "copy", isNew: true, sizeBytes: 123, name: "a/new\\#012line" },
  ],
  [">f.st...... 9 old file", { kind: "file", action: "copy", isNew: false, sizeBytes: 9, name: "old file" }],
  ["cd+++++++++ 4096 dir/", { kind: "dir", action: "create", isNew: true, sizeBytes: 4096, name: "dir/" }],
  ["cL+++++++++ 5 l -> t", { kind: "link", action: "create", isNew: true, sizeBytes: 5, name: "l -> t" }],
  ["hf+++++++++ 2 g => f", { kind: "file", action: "create", isNew: true, sizeBytes: 2, name: "g => f" }],
  [".d..t...... 4096 ./", { kind: "dir", action: "touch", isNew: false, sizeBytes: 4096, name: "./" }],
] as const)("item %j", (line, item) => {
  expect(parseItem(line)).toEqual(item);
});

test("lines that are no items", () => {
  expect(parseItem("created directory /x")).toBeUndefined();
  expect(parseSkipped('skipping non-regular file "a "b""')).toBe('a "b"');
  expect(parseDeleted("*deleting   old/file")).toBe("old/file");
});

test("names: rsync's escapes and bytes come back", () => {
  expect(unescapeName("a\\#012b\xff")).toEqual(Buffer.from([0x61, 0x0a, 0x62, 0xff]));
});

test("progress: the last reading of a piece counts, with and without grouped digits", () => {
  const text =
    "\r              1  20%    0.00kB/s    0:00:00  \r      1,234,567  90%   12.00MB/s    0:00:01 (xfr#7, to-chk=5/7)\r";
  expect(parseProgress(text)).toEqual({ bytes: 1_234_567, files: 7 });
  expect(parseProgress("sending incremental file list\n")).toBeUndefined();
});
