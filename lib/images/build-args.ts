/** What `apptainer build` is given on this node: some of what a configuration asks for cannot work everywhere. */
import { EfError } from "../base/errors.ts";
import type { compressors } from "../config/schema.ts";

/** Flags of `apptainer build` that are looked for here, by their letters. */
const letters: Record<string, string> = { f: "--fakeroot", s: "--sandbox", u: "--update" };

/** The flags in an argument: `-fF`, which are several without a value, `--sandbox=true`. */
const flagsOf = (arg: string): string[] =>
  /^-[efFhsTu]+$/.test(arg)
    ? Array.from(arg.slice(1), (letter) => letters[letter] ?? `-${letter}`)
    : [arg.replace(/=(?:true|t|1)$/i, "")];

export const isFakeroot = (arg: string) => flagsOf(arg).includes("--fakeroot");

/**
 * The arguments without what cannot work, and why.
 *
 * Root is root already, in a namespace too: there `--fakeroot` asks for ids that nobody has given to it, and fails.
 */
export function usableArgs(asked: readonly string[], uid: number): { args: string[]; note: string | undefined } {
  const isLeftOut = uid === 0 && asked.some(isFakeroot);
  const args = isLeftOut ? asked.flatMap(withoutFakeroot) : [...asked];
  const note = isLeftOut ? "--fakeroot is left out: you are root here already" : undefined;
  return { args, note };
}

function withoutFakeroot(arg: string): string[] {
  if (!isFakeroot(arg)) return [arg];
  return flagsOf(arg).filter((flag) => flag !== "--fakeroot");
}

/**
 * Does what apptainer said show that it could not become root, or could not give files to others as root does? Without a
 * range of ids it says at each build that it has none, and most succeed: that alone shows nothing.
 */
export const isFakerootFailure = (output: string): boolean =>
  output
    .split("\n")
    .some(
      (line) =>
        !/^\S*INFO:/.test(line) &&
        /fakeroot|subuid|subgid|newuidmap|newgidmap|user namespace|must be (?:the )?root|change uid and gids|lchown/i.test(
          line,
        ),
    );

/** Arguments that would make something else than one file, or take over what ef gives. */
const refused: Record<string, string> = {
  "--sandbox": "an image of ef is one file",
  "--update": "each build begins anew",
  "--json": "ef writes the definition",
};

/** @throws {EfError} CONFIG_INVALID */
export function assertUsable(args: readonly string[]): void {
  for (const arg of args) {
    const bad = flagsOf(arg).find((flag) => Object.hasOwn(refused, flag));
    if (bad === undefined) continue;
    throw new EfError("CONFIG_INVALID", `Cannot build with apptainer.build_args ${arg}: ${refused[bad]}`, {
      hint: "take it out: ef config set apptainer.build_args '[\"--fakeroot\"]'",
    });
  }
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
