import { expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type PackOptions, packPlain } from "../../lib/engine/pack.ts";
import { asArchived, Place } from "../archives.ts";
import { have } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { differences, fillTree } from "../trees.ts";

const isRoot = process.geteuid?.() === 0;

test.skipIf(!isRoot)("10 random trees as plain tar: GNU tar makes the same of them [needs root]", async () => {
  for (let seed = 1; seed <= 10; seed++) {
    using place = new Place();
    fillTree(place.source, seeded(seed));
    const packed = await packPlain(place.source, place.file, { onOutsideLink: () => "keep" });
    expect(packed.skipped).toEqual([]);
    place.sh("tar", "-x", "-p", "-f", place.file, "-C", place.out);
    expect(differences(asArchived(place.source), asArchived(place.out))).toEqual([]);
  }
});

/** A tree with a file that names a place, one of it with two names, and links. */
function withPlaces(): Place {
  const place = new Place();
  const at = (path: string) => join(place.source, path);
  mkdirSync(at("bin"));
  writeFileSync(at("bin/tool"), "#!/old/env/bin/python\n");
  writeFileSync(at("bin/other"), "#!/bin/sh\n");
  writeFileSync(at("a"), "/old/env");
  linkSync(at("a"), at("b"));
  // Across the end of a piece, and larger than what is read ahead.
  const large = Buffer.alloc(20 << 20, "x");
  large.write("/old/env", (1 << 20) - 4);
  writeFileSync(at("large"), large);
  writeFileSync(at("none"), Buffer.alloc(3 << 20, "/old/en"));
  symlinkSync("/old/env/lib", at("link"));
  return place;
}

const reading: Record<string, (place: Place) => void> = {
  "GNU tar": (place) => place.sh("tar", "-x", "-o", "-f", place.file, "-C", place.out),
  "Python's tarfile": (place) => place.sh("python3", "-m", "tarfile", "-e", place.file, place.out),
  busybox: (place) => place.sh("busybox", "tar", "-x", "-o", "-f", place.file, "-C", place.out),
};

for (const [who, unpack] of Object.entries(reading))
  test.skipIf(who === "busybox" && !have("busybox"))(
    `what is found is written once more, and that is what ${who} unpacks${who === "busybox" ? " [needs busybox]" : ""}`,
    async () => {
      using place = withPlaces();
      let found: readonly string[] = [];
      await packPlain(place.source, place.file, {
        find: [Buffer.from("/old/env")],
        onOutsideLink: (_, text) => ({ text: text.replace("old", "new") }),
        keep: (path) => path.startsWith("bin/") || path === "large",
        again: async ({ mentions, kept }) => {
          found = mentions;
          expect([...kept].map(([path, bytes]) => [path, String(bytes)])).toEqual([
            ["bin/other", "#!/bin/sh\n"],
            ["bin/tool", "#!/old/env/bin/python\n"],
          ]);
          return new Map([
            ["bin/tool", Buffer.from("#!/a/much longer place/than before\n")],
            ["bin/other", Buffer.from("")],
            ["not there", Buffer.from("x")],
          ]);
        },
      });
      expect([...found].sort()).toEqual(["a", "b", "bin/tool", "large"]);
      unpack(place);
      const text = (path: string) => readFileSync(join(place.out, path), "utf8");
      expect(text("bin/tool")).toBe("#!/a/much longer place/than before\n");
      expect(statSync(join(place.out, "bin/tool")).mode & 0o777).toBe(0o644);
      expect(text("bin/other")).toBe("");
      expect(readlinkSync(join(place.out, "link"))).toBe("/new/env/lib");
      expect(text("b")).toBe("/old/env");
      expect(statSync(join(place.out, "large")).size).toBe(20 << 20);
      expect(readdirSync(place.out).sort()).toEqual(["a", "b", "bin", "large", "link", "none"]);
    },
  );

/** What happens to a tree after all of it was read, and the file that is named; undefined where that is no change. */
const changes: Record<string, [change: (source: string) => void, named: string | undefined]> = {
  "a file is put in": [(source) => writeFileSync(join(source, "bin/new"), ""), "bin/new"],
  "a file is removed": [(source) => rmSync(join(source, "bin/other")), "bin/other"],
  "a file is replaced": [
    (source) => {
      writeFileSync(join(source, ".new"), "new");
      renameSync(join(source, ".new"), join(source, "bin/tool"));
    },
    "bin/tool",
  ],
  "a directory is removed": [(source) => rmSync(join(source, "bin"), { recursive: true }), "bin"],
  "what is left out is put in": [(source) => mkdirSync(join(source, "bin/__pycache__")), undefined],
  "a temporary file of ef comes and goes": [
    (source) => {
      writeFileSync(join(source, "bin/.ef-tmp-host-1-0123456789abcdef-0"), "");
    },
    undefined,
  ],
};

for (const [what, [change, named]] of Object.entries(changes))
  test(`changed while it is packed: ${what}`, async () => {
    using place = withPlaces();
    const options: PackOptions = {
      exclude: (path) => path.endsWith("__pycache__"),
      again: async () => {
        change(place.source);
        return new Map();
      },
    };
    const error = await packPlain(place.source, place.file, options).catch((error) => error);
    if (named === undefined) return expect(existsSync(place.file)).toBe(true);
    expect(error).toMatchObject({ code: "TRANSFER_PARTIAL", path: join(place.source, named) });
    expect(existsSync(place.file)).toBe(false);
  });

test("a file that grows before it is read is a change too", async () => {
  using place = withPlaces();
  const onProgress = () => appendFileSync(join(place.source, "none"), "x");
  const error = await packPlain(place.source, place.file, { onProgress }).catch((error) => error);
  expect(error).toMatchObject({ code: "TRANSFER_PARTIAL", path: join(place.source, "none") });
  expect(existsSync(place.file)).toBe(false);
});

test.skipIf(!isRoot)("a full disk: said with the path, and nothing is left [needs root]", async () => {
  using place = withPlaces();
  const small = join(place.dir, "small");
  mkdirSync(small);
  place.sh("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small);
  try {
    const file = join(small, "x.tar");
    const error = await packPlain(place.source, file).catch((error) => error);
    expect(error).toMatchObject({ code: "NO_SPACE", path: file });
    expect(readdirSync(small)).toEqual([]);
  } finally {
    place.sh("umount", small);
  }
});
