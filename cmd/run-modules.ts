/** What scripts import without having it. */
import { EfError } from "../lib/base/errors.ts";
import { quote } from "../lib/base/shell.ts";

/** What a script can import, wherever it is. */
const modules: Readonly<Record<string, () => Promise<object>>> = {
  ef: () => import("../mod.ts"),
  zx: () => withShell(import("zx")),
  "zx/globals": async () => Object.assign(globalThis, await withShell(import("zx"))) && {}, // all that it does
  valibot: () => import("valibot"),
  consola: () => import("consola"),
  citty: () => import("citty"),
};

/** Their names. */
export const provided: readonly string[] = Object.keys(modules);

/** Make the modules importable, by the script and all that it imports; each is loaded when it is first asked for. */
export async function provide(atOnce: boolean): Promise<void> {
  const loaded = new Map<string, Record<string, unknown>>();
  const load = async (name: string) => {
    const exports = { ...(await modules[name]?.()) };
    loaded.set(name, exports);
    return exports;
  };
  if (atOnce)
    await Promise.all(
      Object.keys(modules)
        .filter((name) => name !== "zx/globals")
        .map(load),
    );
  await Bun.plugin({
    name: "what ef brings",
    setup(build) {
      for (const name of Object.keys(modules))
        build.module(name, () => {
          const exports = loaded.get(name);
          if (exports) return { exports, loader: "object" };
          return load(name).then((exports) => ({ exports, loader: "object" })) as never;
        });
    },
  });
}

/** zx runs commands by bash. Where there is none, by sh: with words quoted as any POSIX shell reads them. */
async function withShell(loading: Promise<typeof import("zx")>): Promise<object> {
  const zx = await loading;
  if (zx.$.quote !== undefined) return zx; // it has found bash
  const shell = Bun.which("sh");
  const refuse = (): never => {
    throw new EfError("TOOL_MISSING", "Cannot run a command by $: there is neither bash nor sh on PATH", {
      hint: "functions of ef, and Bun.spawn([PROGRAM, …]), need no shell",
    });
  };
  const bySh = { shell, prefix: "set -eu;", quote: posixWord };
  Object.assign(zx.$, shell ? bySh : { quote: refuse, spawn: refuse });
  return zx;
}

/** As zx does, a word that needs no quotes has none. */
const posixWord = (text: string): string => (/^[\w./:=@-]+$/.test(text) ? text : quote("bash", text));
