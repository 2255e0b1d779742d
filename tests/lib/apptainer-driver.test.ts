import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { EfError } from "../../lib/base/errors.ts";
import { findApptainer, moduleNames, runArgv } from "../../lib/drivers/apptainer.ts";
import { until } from "../helpers.ts";
import { environmentModules } from "../images.ts";

const lmod = "/usr/share/lmod/lmod/libexec/lmod";

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(realpathSync(tmpdir()), "ef apptainer "));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function made(path: string, content: string): string {
  const full = join(dir, path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, content);
  return full;
}

/** A directory of programs that only exist. */
function programs(name: string, ...files: string[]): string {
  for (const file of files) chmodSync(made(join(name, file), "#!/bin/sh\n"), 0o755);
  return join(dir, name);
}

/** A program that stands for that of the modules. */
function fakeModules(name: string, script: string): string {
  const path = made(name, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

/** The hint of what is thrown where there is no apptainer. */
async function hintWith(env: Record<string, string>, signal?: AbortSignal): Promise<string> {
  const error = await findApptainer({ PATH: programs("none"), HOME: dir, ...env }, signal).catch((thrown) => thrown);
  expect(error).toMatchObject({ code: "TOOL_MISSING", message: expect.stringContaining("apptainer") });
  return (error as EfError).hint ?? "";
}

const general = "on a cluster try: module load apptainer (or: module avail apptainer; module spider apptainer)";

describe("findApptainer", () => {
  test("apptainer is taken before singularity, wherever on PATH each is", async () => {
    const old = programs("old", "singularity");
    const both = programs("both", "singularity", "apptainer");
    const found = await findApptainer({ PATH: `${old}:${both}` });
    expect(found).toEqual({ program: join(both, "apptainer"), name: "apptainer" });
  });

  test("singularity alone will do", async () => {
    const old = programs("old", "singularity");
    const found = await findApptainer({ PATH: `${programs("none")}:${old}` });
    expect(found).toEqual({ program: join(old, "singularity"), name: "singularity" });
    expect(runArgv(found, "/a b.sif", ["-c", "x y"])).toEqual([
      found.program,
      "run",
      ...runArgv(found, "/a b.sif", []).slice(2, -1), // the flags of a GPU, where there is one
      "/a b.sif",
      "-c",
      "x y",
    ]);
  });

  test("a directory, a file that nobody may execute, and a relative entry of PATH are no programs", async () => {
    mkdirSync(join(dir, "odd/apptainer"), { recursive: true });
    made("plain/apptainer", "");
    programs("odd2", "apptainer");
    expect(await hintWith({ PATH: `${join(dir, "odd")}:${join(dir, "plain")}:odd2::.` })).toBe(general);
  });

  test("without modules the hint is general", async () => {
    expect(await hintWith({})).toBe(general);
  });

  test("modules that fail, or cannot be started, or say nothing, change nothing", async () => {
    const failing = fakeModules("failing", "echo apptainer/1 >&2; exit 1");
    for (const command of [failing, join(dir, "no such program"), dir, "/bin/true"]) {
      expect(await hintWith({ LMOD_CMD: command })).toBe(general);
    }
  });

  test("modules that hang are not waited for, and are ended", async () => {
    const pids = join(dir, "hanging.pids");
    const hanging = fakeModules("hanging", `echo $$ >>'${pids}'; exec /bin/sleep 600`);
    expect(await hintWith({ LMOD_CMD: hanging })).toBe(general);
    const started = readFileSync(pids, "utf8").trim().split("\n");
    expect(started.length).toBeGreaterThan(0);
    expect(started.filter((pid) => existsSync(`/proc/${pid}`))).toEqual([]);
  });

  test("whoever stops ef does not wait for modules, and is told no hint", async () => {
    const stop = new AbortController();
    const begun = join(dir, "begun");
    const hanging = fakeModules("hanging too", `: >'${begun}'; exec /bin/sleep 600`);
    const env = { PATH: programs("none"), LMOD_CMD: hanging };
    const found = findApptainer(env, stop.signal).catch((thrown) => thrown);
    await until("the modules", () => existsSync(begun));
    stop.abort();
    expect((await found).name).toBe("AbortError");
  });
});

/** Module files by name, in the language of the system. */
function moduleTree(name: string, files: Record<string, string>): string {
  for (const [file, content] of Object.entries(files)) made(join(name, file), content);
  return join(dir, name);
}

interface ModuleSystem {
  system: string;
  program: string | undefined;
  /** Where its `init` tells the program. */
  variable: string;
  /** The file of a module, and of a directory's default: path and content. */
  file(name: string): [string, string];
  preferring(name: string, version: string): [string, string];
}

const systems: ModuleSystem[] = [
  {
    system: "Lmod",
    program: existsSync(lmod) ? lmod : undefined,
    variable: "LMOD_CMD",
    file: (name: string) => [`${name}.lua`, ""],
    preferring: (name: string, version: string) => [
      `${name}/.modulerc.lua`,
      `module_version("${name}/${version}", "default")`,
    ],
  },
  {
    system: "Environment Modules",
    program: environmentModules,
    variable: "MODULES_CMD",
    file: (name: string) => [name, "#%Module\n"],
    preferring: (name: string, version: string) => [`${name}/.version`, `#%Module\nset ModulesVersion "${version}"\n`],
  },
];

describe.each(systems)("$system", ({ system, program, variable, file, preferring }) => {
  const needs = `[needs ${system}]`;
  const hint = (tree: string, env: Record<string, string> = {}) =>
    hintWith({ [variable]: program ?? "", MODULEPATH: tree, ...env });
  let trees = 0;
  const treeOf = (names: readonly string[], ...more: [string, string][]) =>
    moduleTree(`modules ${system} ${trees++}`, Object.fromEntries([...names.map((name) => file(name)), ...more]));

  test.skipIf(!program)(`the newest module is named first ${needs}`, async () => {
    const tree = treeOf(["apptainer/1.3.4", "apptainer/1.10.0", "apptainer/1.4.1", "gcc/13.2"]);
    expect(await hint(tree)).toBe(
      "load it first: module load apptainer/1.10.0 (there is also: apptainer/1.4.1, apptainer/1.3.4)",
    );
  });

  test.skipIf(!program)(`the cluster's default goes before the newest ${needs}`, async () => {
    const tree = treeOf(["apptainer/1.3.4", "apptainer/1.4.1"], preferring("apptainer", "1.3.4"));
    expect(await hint(tree)).toBe("load it first: module load apptainer/1.3.4 (there is also: apptainer/1.4.1)");
  });

  test.skipIf(!program)(`singularity is named where there is no apptainer ${needs}`, async () => {
    expect(await hint(treeOf(["singularity/3.8.7"]))).toBe("load it first: module load singularity/3.8.7");
  });

  test.skipIf(!program)(`apptainer goes before singularity, and before forks ${needs}`, async () => {
    const tree = treeOf(["singularity-ce/4.1", "singularity/3.8.7", "apptainer/1.3.4"]);
    expect(await hint(tree)).toBe(
      "load it first: module load apptainer/1.3.4 (there is also: singularity/3.8.7, singularity-ce/4.1)",
    );
  });

  test.skipIf(!program)(`a module below a prefix is named with it ${needs}`, async () => {
    expect(await hint(treeOf(["tools/apptainer/1.3"]))).toBe("load it first: module load tools/apptainer/1.3");
  });

  test.skipIf(!program)(`what only works with apptainer is not it ${needs}`, async () => {
    expect(await hint(treeOf(["nextflow/24-apptainer", "gcc/13.2"]))).toBe(general);
  });

  test.skipIf(!program)(`no modules at all ${needs}`, async () => {
    expect(await hint(treeOf([]))).toBe(general);
    expect(await hint("")).toBe(general);
  });

  test.skipIf(!program)(`whatever the user has set, the answer is read ${needs}`, async () => {
    const tree = treeOf(["apptainer/1.3.4", "apptainer/1.4.1"]);
    const settings = [
      { LMOD_REDIRECT: "yes" },
      { LMOD_PAGER: "less", LMOD_COLORIZE: "yes", TERM: "xterm" },
      { MODULES_COLOR: "always", TERM: "xterm" },
      { LANG: "de_DE.UTF-8", LC_ALL: "de_DE.UTF-8" },
    ];
    for (const env of settings) {
      expect(await hint(tree, env)).toBe("load it first: module load apptainer/1.4.1 (there is also: apptainer/1.3.4)");
    }
  });
});

describe("moduleNames", () => {
  test("headings and names without a version are no modules", () => {
    expect(
      moduleNames([
        "/opt/apptainer/modules:",
        "/opt/my apptainer/modules:",
        "apptainer/",
        "apptainer/1.4",
        "",
        "gcc/13",
      ]),
    ).toEqual(["apptainer/1.4"]);
  });

  test.each(["(default)", " (default)", "(D)", " <default>", "(default:stable)", "(stable:default)"])(
    "a default marked %p goes first, without the mark",
    (mark) => {
      expect(moduleNames(["apptainer/1.4", `apptainer/1.3${mark}`, "apptainer/1.2"])).toEqual([
        "apptainer/1.3",
        "apptainer/1.4",
        "apptainer/1.2",
      ]);
    },
  );

  test("other marks are left out; what two directories hold is named once", () => {
    expect(moduleNames(["a:", "apptainer/1.3(stable)", "apptainer/1.2 (L)", "b:", "apptainer/1.3"])).toEqual([
      "apptainer/1.3",
      "apptainer/1.2",
    ]);
  });

  test("a module without versions, and one in capitals", () => {
    expect(moduleNames(["tools/apptainer", "Singularity/3.8", "apptainer"])).toEqual([
      "apptainer",
      "tools/apptainer",
      "Singularity/3.8",
    ]);
  });
});
