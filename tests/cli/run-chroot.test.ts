/**
 * A root directory with the program, the libraries that it is linked to, a HOME and nothing else: no shell, no Node, no
 * /etc/passwd, no /dev. Only /proc is there, without which the runtime does not start; it is mounted where only the test
 * sees it.
 */
import { expect, test } from "bun:test";
import { chmodSync, copyFileSync, existsSync, mkdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { efArgv, Home, have, isBinary, type Ran, run } from "../helpers.ts";

const [ef = ""] = efArgv;

/** May we mount here, and change the root? */
const can =
  isBinary &&
  process.geteuid?.() === 0 &&
  ["unshare", "ldd"].every(have) &&
  Bun.spawnSync(["unshare", "-m", "sh", "-c", "mount -t proc proc /mnt && chroot / true"]).exitCode === 0;

const readme = await Bun.file(resolve(import.meta.dir, "../../README.md")).text();
/** Of the library; the others need a cluster, or Python. */
const example = /^## From a script\n.*?^```ts\n(.*?)^```$/ms.exec(readme)?.[1] ?? "";

/** The root of a machine where nothing is. */
class Jail implements Disposable {
  readonly at = new Home();
  readonly root = join(this.at.dir, "root");

  constructor() {
    for (const dir of ["proc", "tmp", "scratch", "home"]) mkdirSync(join(this.root, dir), { recursive: true });
    chmodSync(join(this.root, "tmp"), 0o1777);
    this.program(ef, "/ef");
    this.write("/home/.cache/huggingface/hub/model", "weights");
    const vars = { HF_HOME: { source: "~/.cache/huggingface" } };
    this.write("/home/.euler-files.json", JSON.stringify({ version: 1, scratch_base: "$SCRATCH", vars }));
  }

  write(path: string, text: string): void {
    this.at.write(join("../root", path), text);
  }

  /** With the libraries that it is linked to, and the loader. */
  program(from: string, path: string): void {
    const linked = Bun.spawnSync(["ldd", from]).stdout.toString();
    const libraries = [...linked.matchAll(/(\/\S+) \(0x/g)].map(([, library = ""]) => [library, library]);
    for (const [source = "", target = ""] of [[from, path], ...libraries]) {
      mkdirSync(dirname(join(this.root, target)), { recursive: true });
      copyFileSync(source, join(this.root, target));
    }
  }

  ef(args: readonly string[]): Promise<Ran> {
    const enter = 'mount -t proc proc "$1/proc" && root=$1 && shift && exec env -i "$@"';
    const env = ["HOME=/home", "SCRATCH=/scratch", "PATH=/bin"];
    const chroot = [Bun.which("chroot") ?? "chroot", this.root, "/ef", ...args];
    return run(["unshare", "-m", "sh", "-c", enter, "sh", this.root, ...env, ...chroot], { env: process.env });
  }

  [Symbol.dispose](): void {
    this.at[Symbol.dispose]();
  }
}

test.skipIf(!can)("the README's script runs where nothing is [needs the compiled binary, as root]", async () => {
  using jail = new Jail();
  jail.write("/home/script.ts", example);
  const { stdout, stderr, code } = await jail.ef(["run", "/home/script.ts"]);
  expect(stderr).toBe("");
  expect(stdout).toBe("/scratch/.cache/euler-files/HF_HOME\n");
  expect(existsSync(join(jail.root, "scratch/.cache/euler-files/HF_HOME/hub/model"))).toBe(true);
  expect(code).toBe(0);
});

const all = `#!/ef run
import { parseArgs, runMain, defineCommand } from "citty";
import { createConsola } from "consola";
import { loadConfig, push, status, sync } from "ef";
import * as v from "valibot";
import { $, argv, fs } from "zx";

const Row = v.object({ name: v.string(), state: v.string() });
const config = await loadConfig();
const { exports } = await sync(config);
fs.writeFileSync(\`\${exports.HF_HOME}/hub/new\`, "made by a job");
await push(config);
const { vars } = await status(config);
console.log(vars.map((row) => v.parse(Row, row).name).join(), fs.readFileSync("/home/.cache/huggingface/hub/new", "utf8"));
createConsola({ level: 3, stdout: process.stdout, stderr: process.stderr }).log("consola", argv.x, parseArgs(["--y"], { y: { type: "boolean" } }).y, typeof runMain, typeof defineCommand);
const word = "it's\\n$HOME";
console.log((await $\`printf '<%s>' \${word}\`).stdout);
`;

test.skipIf(!can)(
  "all five modules work there; $ with a sh, and says what is missing without [needs the compiled binary, as root]",
  async () => {
    using jail = new Jail();
    jail.write("/home/all.ts", all);
    const without = await jail.ef(["run", "/home/all.ts", "--x=1"]);
    const lines = "HF_HOME made by a job\nconsola 1 true function function\n";
    expect(without.stdout).toBe(lines);
    expect(without.stderr).toContain("Cannot run a command by $: there is neither bash nor sh on PATH");
    expect(without.stderr).toContain("    at /home/all.ts:17:");
    expect(without.code).toBe(1);
    jail.program("/bin/sh", "/bin/sh");
    const { stdout, stderr, code } = await jail.ef(["run", "/home/all.ts", "--x=1"]);
    expect(stderr).toBe("");
    expect(stdout).toBe(`${lines}<it's\n$HOME>\n`);
    expect(code).toBe(0);
  },
);

test.skipIf(!can)("a plain sync works there [needs the compiled binary, as root]", async () => {
  using jail = new Jail();
  const first = await jail.ef(["sync"]);
  expect(first.stderr).toContain("HF_HOME: complete");
  expect(first.stdout).toBe("export HF_HOME='/scratch/.cache/euler-files/HF_HOME'\n");
  expect((await jail.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  for (const command of ["status", "verify", "push", "doctor"]) expect((await jail.ef([command])).code).toBe(0);
});
