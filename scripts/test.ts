/**
 * `npm test`: the suite on the sources, then the tests of the program on the compiled binary. Those of what Bun does otherwise there
 * (modules, stdin, the path of the program) and of the commands that every job runs are run on both, all others once.
 *
 * Arguments go to `bun test`: `npm test -- sync` runs the files with "sync" in their path. The last line is
 * `N passed, N failed, N skipped`, the sum of both runs; what was skipped or failed is listed before it, with the reason.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { buildHere } from "./build.ts";
import { type NamedTest, readJunit, type TestRun } from "./junit.ts";

const root = join(import.meta.dir, "..");
/** Tests of the program. */
const ofProgram = "tests/{cli,faults,load}/**/*.test.ts";
/** Those among them that are run on the sources too. */
const onBoth =
  /\/cli\/(?:binary|completions|config|exec|exec-push|init|manners|run|run-\w+|schema|shell-init|stage|stage-spread|sync|sync-unknown|wizard)\.test\.ts$/;
/** Those among them that are about modules alone. */
const sourcesOnly = /\/faults\/(?:fuzz|planner(?:-files)?)\.test\.ts$/;
const runs: { title: string; result: TestRun }[] = [];

await main(process.argv.slice(2));

async function main(args: string[]) {
  const binary = await build();
  using _ = await slurm();
  const chosen = testsIn(ofProgram, args).filter((file) => !sourcesOnly.test(file));
  const isOnSources = (file: string) => binary === undefined || !chosen.includes(file) || onBoth.test(file);
  const onSources = testsIn("tests/**/*.test.ts", args).filter(isOnSources);

  if (onSources.length > 0) await runTests("sources", [...args.filter(isOption), ...onSources], {});
  if (binary !== undefined && chosen.length > 0) {
    await runTests("compiled binary", [...args.filter(isOption), ...chosen], { EF_BIN: binary });
  }

  const sum = (count: (run: TestRun) => number) => runs.reduce((total, { result }) => total + count(result), 0);
  const passed = sum((run) => run.passed);
  const failed = sum((run) => run.failed.length);
  const skipped = sum((run) => run.skipped.length);
  if (skipped > 0) console.log(`\nSkipped:\n${listSkipped().join("\n")}`);
  // Once more what failed: the lines above it are thousands, and a log may hold the last ones only.
  if (failed > 0) console.log(`\nFailed:\n${listFailed().join("\n")}`);
  if (passed + failed === 0) console.log("\nNo test was run.");
  console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped`);
  process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
}

/** A Slurm of our own while the tests run; they skip what needs it where it cannot be started. */
async function slurm(): Promise<Disposable> {
  const script = join(root, "scripts/slurm.sh");
  if (process.geteuid?.() !== 0) return { [Symbol.dispose]() {} };
  await Bun.spawn(["sh", script, "start"], { stdio: ["ignore", "ignore", "inherit"] }).exited;
  return { [Symbol.dispose]: () => void Bun.spawnSync(["sh", script, "stop"]) };
}

/** The compiled program; a build that fails counts as one failed test, and the sources are tested all the same. */
async function build(): Promise<string | undefined> {
  try {
    return await buildHere();
  } catch (error) {
    console.error(error);
    const failed = { file: "scripts/build.ts", line: 1, name: "build", why: String(error) };
    runs.push({ title: "build", result: { passed: 0, failed: [failed], skipped: [] } });
    return undefined;
  }
}

/** The files of a pattern that the arguments choose; bun test takes no intersection of a folder and a filter. */
function testsIn(pattern: string, args: string[]): string[] {
  const filters = args.filter((arg) => !isOption(arg)).map((arg) => arg.replace(/^\.\//, ""));
  const files = [...new Bun.Glob(pattern).scanSync(root)].sort();
  const wanted = files.filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)));
  return wanted.map((file) => `./${file}`); // with ./ it is a path for bun test, without it a filter
}

/** `-t` must be given as `--test-name-pattern=…` here, or its value would be taken for a file filter. */
function isOption(arg: string): boolean {
  return arg.startsWith("-");
}

async function runTests(title: string, args: string[], env: Record<string, string>) {
  await using directory = await temporaryDirectory();
  const junit = join(directory.path, "junit.xml");
  console.log(`\n== Tests on the ${title} ==`);
  // Each file in a process of its own, so a crash costs one file. Not more at once, for the tests start many processes.
  const workers = Math.min(4, availableParallelism());
  const options = ["--timeout=60000", `--parallel=${workers}`, "--reporter=junit", `--reporter-outfile=${junit}`];
  const child = Bun.spawn([process.execPath, "test", ...options, ...args], {
    cwd: root,
    env: { ...process.env, ...eulerFiles(), ...env },
    stdio: ["ignore", "inherit", "inherit"],
  });
  const code = await child.exited;
  const file = Bun.file(junit);
  const result = readJunit((await file.exists()) ? await file.text() : "");
  // A file that cannot be loaded, or a crash, is not in the JUnit file, but bun test ends with an error.
  if (code !== 0 && result.failed.length === 0) {
    const why = `bun test ended with exit code ${code}, and no test failed: look for "Unhandled error" above`;
    result.failed.push({ file: "tests", line: 0, name: title, why });
  }
  // With a name pattern, all that it does not match is "skipped"; that is not news.
  if (args.some((arg) => /^(-t|--test-name-pattern)\b/.test(arg))) result.skipped = [];
  runs.push({ title, result });
}

/** Where scripts/setup-tests.sh put euler-files, for the tests that run it beside ef. */
function eulerFiles(): Record<string, string> {
  const [packages] = new Bun.Glob("node_modules/.cache/py/lib/python3*/site-packages/euler_files").scanSync({
    cwd: root,
    absolute: true,
    onlyFiles: false,
  });
  return packages === undefined ? {} : { EF_TEST_PYTHONPATH: dirname(packages) };
}

/** One line per test and reason, with the runs it was skipped in. */
function listSkipped(): string[] {
  const titles = new Map<string, string[]>();
  for (const { title, result } of runs) {
    for (const skipped of result.skipped) {
      const line = describe(skipped);
      titles.set(line, [...(titles.get(line) ?? []), title]);
    }
  }
  return [...titles].map(([line, where]) => `  ${line} (${[...new Set(where)].join(", ")})`);
}

function listFailed(): string[] {
  const described = (title: string, test: NamedTest) => `  ${describe({ ...test, why: shorten(test.why) })} (${title})`;
  return runs.flatMap(({ title, result }) => result.failed.map((test) => described(title, test)));
}

/** What failed can be a difference of long texts. */
function shorten(text: string): string {
  return text.length > 2000 ? `${text.slice(0, 2000)} …` : text;
}

function describe({ file, line, name, why }: NamedTest): string {
  return `${file}:${line} ${name}: ${why}`;
}

async function temporaryDirectory() {
  const path = await mkdtemp(join(tmpdir(), "ef-tests-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}
