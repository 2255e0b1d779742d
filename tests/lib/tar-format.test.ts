import { expect, test } from "bun:test";
import { decodeHeader, decodePax, encodeEnd, encodeHeader, type TarEntry } from "../../lib/engine/tar-format.ts";
import { cleanPath, staysInside } from "../../lib/engine/tar-links.ts";
import { TarReader } from "../../lib/engine/tar-read.ts";
import { paxRecord, rawHeader, sealed } from "../archives.ts";
import { seeded } from "../tables.ts";

const file = (more: Partial<TarEntry> = {}): TarEntry => ({
  ...{ type: "file", path: "a", mode: 0o644, size: 0, mtimeS: 1_700_000_000, link: "" },
  ...more,
});

/** Entries as they are read again, in pieces of some length. */
function readAll(bytes: Buffer, pieceBytes = bytes.length): TarEntry[] {
  const reader = new TarReader();
  const entries: TarEntry[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    reader.feed(bytes.subarray(at, at + pieceBytes));
    for (let part = reader.next(); part; part = reader.next()) if (part.at === 0) entries.push(part.entry);
  }
  reader.finish();
  return entries.map((entry) => ({ ...entry, path: cleanPath(entry.path, entry.type === "dir" ? "dir" : "other") }));
}

const utf8 = (text: string) => Buffer.from(text).toString("latin1");
const long = (length: number, part = 20) =>
  `${"d".repeat(part - 1)}/`
    .repeat(length / part)
    .slice(0, length - 1)
    .concat("e");

test("what is written is read again, and takes one block where ustar can hold it", () => {
  const plain: TarEntry[] = [
    file(),
    file({ path: "-rf", mode: 0o7777, mtimeS: 0 }),
    file({ path: "a\nb 'c\" $d" }),
    file({ path: "\xff\xfe" }),
    file({ path: "x".repeat(100) }),
    file({ path: `${"x".repeat(155)}/${"y".repeat(100)}` }),
    file({ path: `${"x".repeat(100)}/${"y".repeat(99)}`, type: "dir", mode: 0o755 }),
    file({ path: "link", type: "link", mode: 0o777, link: "z".repeat(100) }),
    file({ path: "other", type: "hardlink", link: "a" }),
  ];
  const wide: TarEntry[] = [
    file({ path: "x".repeat(101) }),
    file({ path: "x".repeat(100), type: "dir" }),
    file({ path: long(300) }),
    file({ path: `${"x".repeat(156)}/y` }),
    file({ path: utf8("Grüße") }),
    file({ path: `${"x".repeat(200)}\xff` }),
    file({ path: "l", type: "link", link: "z".repeat(101) }),
    file({ path: "l", type: "link", link: utf8("→") }),
    file({ mtimeS: -1 }),
    file({ mtimeS: 8 ** 11 }),
  ];
  for (const entry of plain) expect(encodeHeader(entry).length).toBe(512);
  for (const entry of wide) expect(encodeHeader(entry).length).toBe(1536);
  for (const entry of [...plain, ...wide]) {
    const bytes = Buffer.concat([encodeHeader(entry), encodeEnd(0)]);
    for (const piece of [bytes.length, 512, 700, 1]) expect(readAll(bytes, piece)).toEqual([entry]);
  }
});

test("random entries in a row are read again, however the pieces are cut", () => {
  const random = seeded(7);
  const name = () => Array.from({ length: 1 + random(90) }, () => String.fromCharCode(48 + random(200))).join("");
  for (let round = 0; round < 50; round++) {
    const entries = Array.from({ length: 20 }, (_, i) => {
      const path = `${i}${name()}/${name()}/${name()}`;
      const type = (["file", "dir", "link", "hardlink"] as const)[random(4)] ?? "file";
      const link = type === "link" || type === "hardlink" ? name() : "";
      return file({ type, path, mode: random(0o10000), mtimeS: random(1 << 31) - 2 ** 20, link });
    });
    const all = Buffer.concat([...entries.map(encodeHeader), encodeEnd(0)]);
    expect(readAll(all, 1 + random(5000))).toEqual(entries);
  }
});

test("sizes of 8 GiB and more are in a pax record", () => {
  for (const size of [8 ** 11 - 1, 8 ** 11, 2 ** 52]) {
    const bytes = encodeHeader(file({ size }));
    const pax = new Map<string, string>();
    if (size < 8 ** 11) expect(decodeHeader(bytes)?.size).toBe(size);
    else {
      decodePax(bytes.subarray(512, 512 + (decodeHeader(bytes)?.size ?? 0)), pax);
      expect(pax).toEqual(new Map([["size", String(size)]]));
    }
  }
});

test("an archive is a whole number of records of 10 KiB, and ends with two blocks of zeros", () => {
  for (let blocks = 0; blocks < 45; blocks++) {
    const end = encodeEnd(blocks * 512);
    expect([(blocks * 512 + end.length) % 10240, end.length >= 1024]).toEqual([0, true]);
  }
});

test("numbers in base 256, sums of signed bytes and headers of version 7 are read", () => {
  const header = rawHeader({ name: "big" });
  header.writeUInt32BE(0x80000000, 124);
  header.writeBigUInt64BE(2n ** 40n, 128);
  Buffer.from("ffffffffffffffffffffffff", "hex").copy(header, 136);
  expect(decodeHeader(sealed(header))).toMatchObject({ name: "big", size: 2 ** 40, mtimeS: -1 });

  const bytes = rawHeader({ name: "\xff\xff" });
  bytes.fill(0x20, 148, 156);
  const signed = bytes.reduce((sum, byte) => sum + (byte > 127 ? byte - 256 : byte), 0);
  bytes.write(`${signed.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  expect(decodeHeader(bytes)?.name).toBe("\xff\xff");

  const old = rawHeader({ name: "dir/", flag: "\0" });
  old.fill(0, 257);
  expect(readAll(Buffer.concat([sealed(old), encodeEnd(0)]))).toMatchObject([{ type: "dir", path: "dir" }]);
});

test("times of pax records are rounded down", () => {
  const table: [string, number][] = [
    ["1660436891.999999999", 1660436891],
    ["-0.5", -1],
    ["-7", -7],
    ["-7.000", -7],
    ["7.", 7],
    ["1.5e-05", 0],
  ];
  for (const [text, seconds] of table) {
    const content = paxRecord("mtime", text);
    const parts = [
      rawHeader({ name: "x", flag: "x", content }),
      Buffer.from(content.padEnd(512, "\0")),
      rawHeader({ name: "f" }),
    ];
    expect(readAll(Buffer.concat([...parts, encodeEnd(0)]))).toMatchObject([{ path: "f", mtimeS: seconds }]);
  }
});

test("every changed byte of a header is noticed", () => {
  const header = encodeHeader(file({ path: "name", size: 5 }));
  for (let i = 0; i < 512; i++) {
    const bytes = Buffer.from(header);
    bytes[i] = (bytes[i] as number) ^ 0x41;
    const read = () => decodeHeader(bytes);
    if (i >= 148 && i < 156) continue;
    expect(read).toThrow(/checksum/);
  }
});

test("pax records: taken as they are, or refused", () => {
  const read = (text: string) => {
    const records = new Map([["mtime", "1"]]);
    decodePax(Buffer.from(text, "latin1"), records);
    return Object.fromEntries(records);
  };
  expect(read(paxRecord("path", "a=b\nc\xff") + paxRecord("size", "5"))).toEqual({
    mtime: "1",
    path: "a=b\nc\xff",
    size: "5",
  });
  expect(read(paxRecord("mtime", ""))).toEqual({});
  const bad = [
    "7 a=b\n",
    "5 a=b\n",
    "06 a=b\n",
    "6 a=bc",
    "x",
    "6 =bc\n",
    "6 abc\n",
    "-6 a=b\n",
    "99999999999999 a=b\n",
    "3 \n",
    "0 \n",
    " ",
  ];
  for (const text of bad) expect(() => read(text)).toThrow("pax");
});

test("paths are cleaned, or refused", () => {
  const clean: [string, "dir" | "other", string][] = [
    ["a", "other", "a"],
    ["./a//b/./c", "other", "a/b/c"],
    ["a/", "dir", "a"],
    ["./", "dir", ""],
    [".", "dir", ""],
    ["", "dir", ""],
    ["/", "dir", ""],
    ["..a/b../...", "other", "..a/b../..."],
    ["a\nb/..\nc", "other", "a\nb/..\nc"],
  ];
  for (const [path, type, result] of clean) expect(cleanPath(path, type)).toBe(result);
  const bad = [
    "",
    ".",
    "./",
    "/",
    "/a",
    "//a",
    "..",
    "../a",
    "a/..",
    "a/../b",
    "./..",
    "a\0b",
    "a/",
    "a/.",
    "\n/../b",
    "a\n/..",
  ];
  for (const path of bad) expect(() => cleanPath(path, "other")).toThrow();
  for (const path of ["/a", "..", "a/../b", "../", "//", "/."]) expect(() => cleanPath(path, "dir")).toThrow();
});

test("links: inside, or not", () => {
  const links: Record<string, string | null> = {
    "a/up": "..",
    deep: "a/b/c",
    loop: "loop",
    python: null,
    python3: "python",
    "a/out": "/etc",
  };
  const at = (path: string) => links[path];
  const table: [path: string, text: string, inside: boolean][] = [
    ["x", "a/b", true],
    ["x", "nowhere/at/all", true],
    ["x", ".", true],
    ["a/x", "..", true],
    ["x", "..", false],
    ["a/x", "../..", false],
    ["a/x", "../../name/a", false],
    ["x", "/a", false],
    ["x", "a/up/..", false],
    ["x", "a/up/a/up", true],
    ["x", "deep/../../..", true],
    ["x", "deep/../../../..", false],
    ["x", "loop", false],
    ["x", "python3", true],
    ["x", "python/..", false],
    ["x", "python3/lib", false],
    ["x", "a/out", false],
    ["x", "./a//../a/./b/", true],
  ];
  for (const [path, text, inside] of table)
    expect([path, text, staysInside(path, text, at)]).toEqual([path, text, inside]);
});
