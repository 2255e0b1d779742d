/** What `apptainer build` is given on this node: some of what a configuration asks for cannot work everywhere. */
import { EfError } from "../base/errors.ts";
import type { compressors } from "../config/schema.ts";

export const isFakeroot = (arg: string) => arg === "--fakeroot" || arg === "-f";

/**
 * The arguments without what cannot work, and why.
 *
 * Root is root already, in a namespace too: there `--fakeroot` asks for ids that nobody has given to it, and fails.
 */
export function usableArgs(asked: readonly string[], uid: number): { args: string[]; note: string | undefined } {
  const args = asked.filter((arg) => uid !== 0 || !isFakeroot(arg));
  const note = args.length < asked.length ? "--fakeroot is left out: you are root here already" : undefined;
  return { args, note };
}

/** How apptainer shows that it could not become root for a build. */
export const isFakerootFailure = (output: string): boolean =>
  /fakeroot|subuid|subgid|newuidmap|newgidmap|user namespace|must be (?:the )?root/i.test(output);

/** Arguments that would make something else than one file, or take over what ef gives. */
const refused: Record<string, string> = {
  "--sandbox": "an image of ef is one file",
  "-s": "an image of ef is one file",
  "--update": "each build begins anew",
  "-u": "each build begins anew",
  "--json": "ef writes the definition",
};

/** @throws {EfError} CONFIG_INVALID */
export function assertUsable(args: readonly string[]): void {
  const bad = args.find((arg) => Object.hasOwn(refused, arg));
  if (bad === undefined) return;
  throw new EfError("CONFIG_INVALID", `Cannot build with apptainer.build_args ${bad}: ${refused[bad]}`, {
    hint: "take it out: ef config set apptainer.build_args '[\"--fakeroot\"]'",
  });
}

export type Compressor = (typeof compressors)[number];

/**
 * @param processors of mksquashfs, which would take all of the node
 * @see mksquashfs(1)
 */
export const squashArgs = (compressor: Compressor | undefined, processors: number): string[] => [
  "--mksquashfs-args",
  `${compressor === undefined ? "" : `-comp ${compressor} `}-processors ${processors}`,
];
