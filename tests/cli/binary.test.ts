/** What only the compiled binary promises: it needs nothing, and takes nothing from where it is started. */
import { expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { efArgv, Home, isBinary, run } from "../helpers.ts";

const [ef = ""] = efArgv;
const isRoot = process.geteuid?.() === 0;

function hub(): Home {
  const at = new Home({ "hf/model.bin": "weights" });
  at.configure({ HF_HOME: "hf" });
  return at;
}

/** A PATH that holds only these programs: no Node, Bun or npm. */
function pathOf(at: Home, ...programs: string[]): string {
  const bin = join(at.dir, "few");
  mkdirSync(bin);
  for (const program of programs) symlinkSync(Bun.which(program) ?? "", join(bin, program));
  return bin;
}

test.skipIf(!isBinary)(
  "runs where there is only rsync and flock: no Node, Bun, npm, bash [needs the compiled binary]",
  async () => {
    using at = hub();
    const PATH = pathOf(at, "rsync", "flock");
    const { stdout, stderr, code } = await run([ef, "sync", "--shell", "bash"], {
      env: { PATH, HOME: at.home, SCRATCH: at.scratch },
    });
    expect(stderr).toContain("HF_HOME: complete");
    expect(stdout).toContain("export HF_HOME=");
    expect(code).toBe(0);
  },
);

test.skipIf(!isBinary)("reads nothing of the directory it is started in [needs the compiled binary]", async () => {
  using at = hub();
  const project = join(at.home, "project");
  const evil = `import { writeFileSync } from "node:fs"; writeFileSync(${JSON.stringify(join(at.dir, "evil"))}, "ran");`;
  for (const name of ["evil.ts", "node_modules/citty/index.js", "node_modules/zx/index.js", "index.ts"])
    at.write(`project/${name}`, evil);
  at.write(
    "project/bunfig.toml",
    'preload = ["./evil.ts"]\n[run]\npreload = ["./evil.ts"]\n[test]\npreload = ["./evil.ts"]\n',
  );
  at.write("project/.env", `SCRATCH=${at.dir}/elsewhere\nEF_CONFIG=/nonexistent\nEF_TRACE=${at.dir}/evil\n`);
  at.write("project/.env.production", `SCRATCH=${at.dir}/elsewhere\n`);
  at.write("project/package.json", "{ not json");
  at.write("project/tsconfig.json", '{ "compilerOptions": { "paths": { "*": ["./evil.ts"] } }');
  at.write("project/.npmrc", "prefix=/nonexistent\n");
  const { stdout, stderr, code } = await at.ef(["sync", "--shell", "bash"], { cwd: project });
  expect(stderr).toContain("HF_HOME: complete");
  expect(stdout).toBe(`export HF_HOME='${at.cache("HF_HOME")}'\n`);
  expect(at.exists(join(at.dir, "evil"))).toBe(false);
  expect(code).toBe(0);
});

test.skipIf(!isBinary || !isRoot)(
  "works with a read-only HOME, as another user [needs the compiled binary]",
  async () => {
    using at = hub();
    const copy = join(at.dir, "ef");
    copyFileSync(ef, copy);
    for (const [path, mode] of [
      [at.dir, 0o755],
      [at.home, 0o555],
      [at.scratch, 0o777],
      [copy, 0o755],
    ] as const)
      chmodSync(path, mode);
    const argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", copy, "sync", "--shell", "bash"];
    const { stdout, stderr, code } = await run(argv, { env: { ...at.env, TMPDIR: "/nonexistent" }, cwd: "/" });
    expect(stderr).toContain("HF_HOME: complete");
    expect(stdout).toContain("export HF_HOME=");
    expect(code).toBe(0);
  },
);

test("runs with its input and output closed", async () => {
  using at = hub();
  expect((await at.sh("bash", "ef sync <&- >&- 2>&-")).code).toBe(0);
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
});

test("--version names version, commit, target and Bun; --help is on stdout, after a mistake on stderr", async () => {
  using at = new Home();
  expect((await at.ef(["--version"])).stdout).toMatch(
    /^ef \d+\.\d+\.\d+ \([\w-]+, linux-[\w-]+, Bun \d+\.\d+\.\d+\)\n$/,
  );
  const asked = await at.ef(["--help"]);
  expect(asked.stdout).toContain('eval "$(ef sync)"');
  expect(asked.stderr).toBe("");
  expect(asked.code).toBe(0);
  const bare = await at.ef([]);
  expect(bare.stdout).toBe("");
  expect(bare.stderr).toBe(asked.stdout);
  expect(bare.code).toBe(2);
  expect((await at.ef(["sync", "--help"])).stdout).toContain("--dry-run");
  for (const [words, hint] of [
    [["snyc"], "did you mean: ef sync"],
    [["constructor"], "ef --help"],
    [["config", "shwo"], "ef config show"],
  ] as const) {
    const { stderr, stdout, code } = await at.ef(words);
    expect(stdout).toBe("");
    expect(stderr).toContain(hint);
    expect(code).toBe(2);
  }
});

test("EF_TRACE writes the time of each step, EF_LOG=debug shows them; stdout stays clean", async () => {
  using at = hub();
  const file = join(at.dir, "trace");
  const { stdout, stderr } = await at.ef(["sync", "--shell", "bash"], { env: { EF_TRACE: file, EF_LOG: "debug" } });
  expect(stdout).toBe(`export HF_HOME='${at.cache("HF_HOME")}'\n`);
  expect(stderr).toContain("copy HF_HOME");
  const steps = at
    .read(file)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(steps.map(({ step }) => step)).toContain("copy HF_HOME");
  for (const { atMs, tookMs } of steps) expect(atMs + (tookMs ?? 0)).toBeGreaterThan(0);
});
