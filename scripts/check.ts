/**
 * `npm run check`: everything that must hold before a commit. All steps run, each gives one line, and what a failed step
 * said follows it.
 *
 * `--no-test` leaves the tests out; `--fix` lets biome write what it can repair.
 */
import { join } from "node:path";
import { checkSources } from "./source-rules.ts";

const root = join(import.meta.dir, "..");
const bin = (name: string) => join(root, "node_modules/.bin", name);

type Verdict = { ok: boolean; output: string };
type Step = { name: string; run: () => Promise<Verdict> };

function steps({ fix, test }: { fix: boolean; test: boolean }): Step[] {
  return [
    {
      name: "format and lint",
      run: () => command([bin("biome"), "check", "--error-on-warnings", ...(fix ? ["--write"] : []), "."]),
    },
    { name: "types", run: () => command([bin("tsc"), "--noEmit"]) },
    { name: "imports, library rules, file length", run: sourceRules },
    { name: "dead files, exports, dependencies", run: () => command([bin("knip"), "--no-progress"]) },
    ...(test ? [{ name: "tests", run: tests }] : []),
  ];
}

async function sourceRules(): Promise<Verdict> {
  const paths = [...new Bun.Glob("{mod.ts,{lib,cmd,scripts}/**/*.ts}").scanSync(root)].sort();
  const sources = await Promise.all(
    paths.map(async (path) => ({ path, text: await Bun.file(join(root, path)).text() })),
  );
  const violations = checkSources(sources);
  return { ok: violations.length === 0, output: violations.map((v) => `${v.path}:${v.line}: ${v.rule}`).join("\n") };
}

/** The tests take long, so what they say is shown as it comes. */
async function tests(): Promise<Verdict> {
  for (const argv of [
    ["sh", "scripts/setup-tests.sh"],
    [process.execPath, "scripts/test.ts"],
  ]) {
    const code = await Bun.spawn(argv, { cwd: root, stdio: ["ignore", "inherit", "inherit"] }).exited;
    if (code !== 0) return { ok: false, output: "" };
  }
  return { ok: true, output: "" };
}

async function command(argv: string[]): Promise<Verdict> {
  const child = Bun.spawn(argv, { cwd: root, stdin: "ignore", stderr: "pipe" });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { ok: code === 0, output: `${stdout}${stderr}`.trim() };
}

const known = ["--no-test", "--fix"];
const args = process.argv.slice(2);
const unknown = args.find((arg) => !known.includes(arg));
if (unknown !== undefined) {
  console.error(`Cannot check: unknown argument ${unknown}. Usage: npm run check [-- ${known.join(" ")}]`);
  process.exit(2);
}

for (const { name, run } of steps({ fix: args.includes("--fix"), test: !args.includes("--no-test") })) {
  const started = performance.now();
  const { ok, output } = await run();
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${ok ? "ok    " : "failed"}  ${seconds.padStart(5)} s  ${name}`);
  if (!ok) {
    if (output !== "") console.log(output);
    process.exitCode = 1;
  }
}
