import { expect, test } from "bun:test";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compressTo, decompress, formatOf, type StreamOptions } from "../../lib/drivers/zstd.ts";
import { children, openFds, Place } from "../archives.ts";
import { have, until } from "../helpers.ts";
import { seeded } from "../tables.ts";

const ways: [name: string, options: StreamOptions][] = [
  ["the program", {}],
  ["the runtime", { env: { PATH: "/nonexistent" } }],
];
const usable = ways.filter(([name]) => name !== "the program" || have("zstd"));

const random = seeded(1);
const contents = Buffer.from(Array.from({ length: 5_000_000 }, () => random(40)));

async function compress(file: string, bytes: Buffer, pieceBytes: number, options: StreamOptions): Promise<void> {
  const fd = openSync(file, "wx");
  try {
    const compressor = await compressTo(fd, { level: 3, ...options });
    const memory = Buffer.alloc(pieceBytes);
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      const length = bytes.copy(memory, 0, at, at + pieceBytes);
      await compressor.write(memory.subarray(0, length)); // the same memory again: it may be used when this is done
    }
    await compressor.finish();
  } finally {
    closeSync(fd);
  }
}

async function read(file: string, format: "zstd" | "gzip" | "tar", options: StreamOptions = {}): Promise<Buffer> {
  const fd = openSync(file, "r");
  try {
    const pieces: Uint8Array[] = [];
    for await (const piece of decompress(fd, format, file, options)) pieces.push(piece);
    return Buffer.concat(pieces);
  } finally {
    closeSync(fd);
  }
}

test.each(usable)("%s: compressed and back, however it comes; the same each time", async (_, options) => {
  using place = new Place();
  for (const size of [0, 1, 70_000, contents.length]) {
    const bytes = contents.subarray(0, size);
    const [one, other] = [join(place.dir, `${size}.1`), join(place.dir, `${size}.2`)];
    await compress(one, bytes, 1 << 20, options);
    await compress(other, bytes, 77_777, options);
    if (options.env === undefined) expect(readFileSync(one).equals(readFileSync(other))).toBe(true);
    expect(formatOf(readFileSync(one))).toBe("zstd");
    expect((await read(one, "zstd")).equals(bytes)).toBe(true);
  }
});

test("gzip and plain files are read, of several parts too", async () => {
  using place = new Place();
  const file = join(place.dir, "f");
  writeFileSync(file, contents);
  expect((await read(file, "tar")).equals(contents)).toBe(true);
  place.sh("sh", "-c", "gzip -c f > f.gz; gzip -c f >> f.gz");
  expect(formatOf(readFileSync(`${file}.gz`))).toBe("gzip");
  expect((await read(`${file}.gz`, "gzip")).equals(Buffer.concat([contents, contents]))).toBe(true);
});

test.each(usable)("%s: what is damaged is an error, and gzip that is cut off", async (_, options) => {
  using place = new Place();
  const file = join(place.dir, "f.zst");
  await compress(file, contents, 1 << 20, options);
  const good = readFileSync(file);
  const bad = Buffer.from(good);
  bad.writeUInt8(bad.readUInt8(good.length >> 1) ^ 1, good.length >> 1);
  writeFileSync(`${file}.bad`, bad);
  const error = await read(`${file}.bad`, "zstd").catch((e) => e);
  expect([error.code, error.path]).toEqual(["BAD_ARCHIVE", `${file}.bad`]);
  writeFileSync(`${file}.gz`, Bun.gzipSync(contents).subarray(0, 10_000));
  expect(await read(`${file}.gz`, "gzip").catch((e) => e)).toMatchObject({ code: "BAD_ARCHIVE" });
});

test.each(usable)("%s: a full disk is an error with its name", async (_, options) => {
  const fd = openSync("/dev/full", "w");
  try {
    const compressor = await compressTo(fd, { level: 1, ...options });
    const work = async () => {
      for (let i = 0; i < 20; i++) await compressor.write(contents);
      await compressor.finish();
    };
    expect(await work().catch((error) => error)).toMatchObject({ code: "ENOSPC" });
    await compressor.stop();
  } finally {
    closeSync(fd);
  }
});

test.each(usable)("%s: left off early or aborted, nothing runs on and nothing is open", async (_, options) => {
  using place = new Place();
  const file = join(place.dir, "f.zst");
  await compress(file, Buffer.concat(Array.from({ length: 8 }, () => contents)), 1 << 20, options);
  const before = openFds();
  const fd = openSync(file, "r");
  for await (const piece of decompress(fd, "zstd", file, options)) {
    expect(piece.length).toBeGreaterThan(0);
    break;
  }
  const abort = new AbortController();
  const aborted = async () => {
    const pieces = decompress(fd, "zstd", file, { ...options, signal: abort.signal });
    abort.abort(new Error("enough"));
    for await (const _piece of pieces);
  };
  expect(await aborted().catch((error) => error)).toMatchObject({ message: "enough" });
  closeSync(fd);

  const to = openSync(join(place.dir, "to"), "wx");
  const late = new AbortController();
  const compressor = await compressTo(to, { level: 1, ...options, signal: late.signal });
  await compressor.write(contents);
  late.abort(new Error("enough"));
  expect(await compressor.finish().catch((error) => error)).toMatchObject({ message: "enough" });
  await compressor.stop();
  closeSync(to);
  await until("files are closed", () => openFds() <= before);
  expect(children()).toEqual([]);
});

test("formats are told by their first bytes", () => {
  const zeros = Buffer.alloc(512);
  expect([zeros, Buffer.from("PK"), Buffer.alloc(0)].map(formatOf)).toEqual([undefined, undefined, undefined]);
  expect(formatOf(Buffer.from("502a4d18", "hex"))).toBe("zstd"); // a frame to be skipped
  const tar = Buffer.from(zeros);
  tar.write("ustar  \0", 257);
  expect(formatOf(tar)).toBe("tar");
});
