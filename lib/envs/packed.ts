import { type ByteString, display } from "../base/bytes.ts";
import { plural } from "../base/units.ts";
import type { PackedTree } from "../engine/pack.ts";

/** What of an environment is in its archive in another form, or is not in it. */
export function packedWarnings({ followed, dropped, skipped }: PackedTree): string[] {
  const links = (paths: readonly ByteString[], what: string) =>
    paths.length > 0 ? [`${plural(paths.length, "link")} ${what}: ${firstOf(paths)}`] : [];
  return [
    ...links(followed, "to files elsewhere, stored as files"),
    ...links(dropped, "to places outside of the environment, left out"),
    ...(skipped.length > 0 ? [`not a file, directory or link, left out: ${firstOf(skipped)}`] : []),
  ];
}

const firstOf = (paths: readonly ByteString[]) =>
  paths.slice(0, 3).map(display).join(", ") + (paths.length > 3 ? ", …" : "");
