import { expect, test } from "bun:test";
import {
  appendFileSync,
  closeSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { looks } from "../../lib/drivers/statx.ts";
import { lookOf } from "../../lib/engine/storage.ts";
import { Home } from "../helpers.ts";

test("statx: what node:fs says, of files, links, directories, devices, before 1970, with holes and odd names", async () => {
  using at = new Home();
  const path = (name: string) => join(at.dir, name);
  mkdirSync(path("dir"));
  writeFileSync(path("file"), "x".repeat(5000));
  linkSync(path("file"), path("twin"));
  symlinkSync("nowhere", path("link"));
  writeFileSync(path("old"), "");
  utimesSync(path("old"), -100.5, -100.5);
  writeFileSync(path("sparse"), "");
  truncateSync(path("sparse"), 5_000_000_000);
  const odd = Buffer.concat([Buffer.from(`${at.dir}/`), Buffer.from([0xff, 0x0a, 0xe9])]);
  writeFileSync(odd, "odd");
  const quick = await looks();
  if (!quick) throw new Error("this Linux has no statx");
  for (const one of [
    ...["dir", "file", "twin", "link", "old", "sparse"].map(path),
    odd,
    "/proc/self/stat",
    "/dev/null",
    "/",
  ]) {
    const { inode, ...look } = quick.path(one) ?? (undefined as never);
    const { inode: same, ...expected } = lookOf(lstatSync(one, { bigint: true }));
    expect(inode()).toBe(same());
    if (String(one) !== "/proc/self/stat") expect(look).toEqual(expected);
  }
  expect(quick.path(path("missing"))).toBeUndefined();
  expect(quick.path(path("file/below"))).toBeNull(); // node:fs is to say why
  expect(quick.path("a\0b")).toBeNull();
});

test("an open file: what is known of it is what a look says, after each change of it", async () => {
  using at = new Home();
  const quick = await looks();
  const file = at.write("f", "one");
  const fd = openSync(file, "r");
  try {
    for (const more of ["", "two", "three"]) {
      appendFileSync(file, more);
      const { size, mtimeNs } = statSync(file, { bigint: true });
      expect(quick?.known(fd)).toMatchObject({ size: Number(size), mtimeNs });
    }
    expect(quick?.known(-1)).toBeUndefined();
  } finally {
    closeSync(fd);
  }
});
