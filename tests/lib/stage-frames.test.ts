import { expect, test } from "bun:test";
import { BrokenFrame, contentOf, FrameReader, frame, mostBytes, packedOf } from "../../lib/stage/frames.ts";

function framesOf(bytes: Buffer, step: number): Buffer[] {
  const reader = new FrameReader();
  const found: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += step) {
    reader.feed(bytes.subarray(at, at + step));
    for (let one = reader.next(); one; one = reader.next()) found.push(one);
  }
  expect(reader.isEmpty).toBe(true);
  return found;
}

test("frames come out as they went in, in whatever pieces they travel", async () => {
  const contents = [Buffer.from("table"), Buffer.alloc(0), Buffer.alloc(70_000, "ab"), Buffer.from("end")];
  const packed = await packedOf(contents[2]!);
  expect(packed!.length).toBeLessThan(1000);
  const sent = [
    frame("table", contents[0]!),
    frame("data", contents[1]!),
    frame("data", contents[2]!, packed),
    frame("end", contents[3]!),
  ];
  for (const step of [1, 7, 16, 17, 1000, 1 << 20]) {
    const found = framesOf(Buffer.concat(sent), step);
    expect(found.map((one) => one.equals(sent[found.indexOf(one)]!))).toEqual([true, true, true, true]);
    const inside = await Promise.all(found.map(contentOf));
    expect(inside.map(({ kind }) => kind)).toEqual(["table", "data", "data", "end"]);
    expect(inside.every(({ content }, i) => content.equals(contents[i]!))).toBe(true);
  }
});

test("what does not get shorter is not compressed", async () => {
  const random = crypto.getRandomValues(new Uint8Array(50_000));
  expect(await packedOf(Buffer.from(random))).toBeUndefined();
});

test("each byte that changes on the way is noticed", async () => {
  const content = Buffer.from("some content ".repeat(20));
  const sent = [frame("data", content), frame("data", content, await packedOf(content))];
  for (const [whole, bit] of sent.flatMap((one) => [[one, 0x01] as const, [one, 0x80] as const])) {
    for (let at = 0; at < whole.length; at++) {
      if (at === 2 || at === 3) continue; // always zero, and not looked at
      const bytes = Buffer.from(whole);
      bytes[at] = (bytes[at] as number) ^ bit;
      const found = (async () => {
        const reader = new FrameReader();
        reader.feed(bytes);
        const one = reader.next();
        if (!one || !reader.isEmpty) throw new BrokenFrame("of another length");
        const { kind, content: said } = await contentOf(one);
        if (kind !== "data" || !said.equals(content)) throw new Error(`byte ${at} was taken`);
        // zstd has bits that mean nothing.
        if (whole !== sent[0]) throw new BrokenFrame("the same content");
      })();
      await expect(found).rejects.toBeInstanceOf(BrokenFrame);
    }
  }
});

test("a frame that would unpack to more than it says is broken", async () => {
  const bomb = Buffer.alloc(1 << 22);
  const bytes = frame("data", bomb, await packedOf(bomb));
  bytes.writeUInt32LE(10_000, 4);
  await expect(contentOf(bytes)).rejects.toBeInstanceOf(BrokenFrame);
});

test("no memory is asked for on the word of a header", () => {
  for (const [content, body] of [
    [mostBytes + 1, 10],
    [10, 2 ** 32 - 1],
    [mostBytes, mostBytes + 2000],
  ]) {
    const header = frame("data", Buffer.alloc(0));
    header.writeUInt32LE(content!, 4);
    header.writeUInt32LE(body!, 8);
    const reader = new FrameReader();
    reader.feed(header);
    expect(() => reader.next()).toThrow(BrokenFrame);
  }
});
