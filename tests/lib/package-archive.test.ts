/** Packages as files: their bytes on every runtime, hostile ones, secrets, scripts, and where they are kept. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { unzipSync, zipSync } from "fflate";
import { zipArchive, zipEntry } from "../../lib/pack/zip.ts";
import {
  cleanPackages,
  createExecutionContext,
  inspectPackage,
  packageFunction,
  packageScript,
  pythonFunctions,
  unpackPackage,
} from "../../lib/pack.ts";
import { Home, have, run } from "../helpers.ts";

setDefaultTimeout(60_000);

const repo = resolve(import.meta.dir, "../..");
const python = Bun.which("python3", { PATH: "/usr/local/bin:/usr/bin:/bin" });

const pack = (at: Home, more: object = {}) =>
  packageFunction({ file: "main.py", functionName: "run", cwd: join(at.home, "p"), env: at.env, ...more });

function project(files: Record<string, string> = {}): Home {
  const at = new Home();
  for (const [path, text] of Object.entries({ "main.py": "def run(*a): return list(a)\n", ...files }))
    at.write(`p/${path}`, text);
  return at;
}

const failure = (work: Promise<unknown>) =>
  work.then(
    () => "it went well",
    (error) => error,
  );

describe("bytes", () => {
  test.skipIf(!python)("Python and unzip read every kind of entry; modes are in it", () => {
    using at = new Home();
    const noise = crypto.getRandomValues(new Uint8Array(5000));
    const contents: [string, Uint8Array, boolean][] = [
      ["empty", new Uint8Array(), false],
      ["files/noise.bin", noise, false],
      ["files/zeros", new Uint8Array(100_000), false],
      ["files/ünï '\"\n.py", Buffer.from("x"), true],
    ];
    const archive = join(at.home, "a.zip");
    const entries = contents.map(([path, content, executable]) => zipEntry(path, content, executable));
    writeFileSync(archive, Buffer.concat(zipArchive(entries)));
    expect(statSync(archive).size).toBeLessThan(7000); // zeros are deflated, noise is not made larger
    const script = `
import hashlib, json, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z:
    assert z.testzip() is None
    print(json.dumps([[i.filename, hashlib.sha256(z.read(i)).hexdigest(), oct(i.external_attr >> 16), i.date_time] for i in z.infolist()]))`;
    const { stdout } = Bun.spawnSync([python ?? "", "-c", script, archive]);
    expect(JSON.parse(stdout.toString())).toEqual(
      contents.map(([path, content, executable]) => [
        path,
        new Bun.CryptoHasher("sha256").update(content).digest("hex"),
        executable ? "0o100755" : "0o100644",
        [1980, 1, 1, 0, 0, 0],
      ]),
    );
    const read = unzipSync(readFileSync(archive));
    for (const [path, content] of contents) expect(Buffer.from(read[path] ?? []).equals(content)).toBe(true);
  });

  test.skipIf(!have("node"))("Node makes the bytes that Bun makes, whatever the time zone", async () => {
    using at = project({ "data.csv": "a,b\n".repeat(5000), "noise.bin": "\0\u0001x" });
    const built = join(at.dir, "lib");
    const { success, logs } = await Bun.build({
      entrypoints: [join(repo, "lib/pack/zip.ts")],
      ...{ outdir: built, target: "node", format: "esm", throw: false },
    });
    expect([success, logs.map(String)]).toEqual([true, []]);
    const script = `
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const { zipArchive, zipEntry } = await import(pathToFileURL(process.argv[2]));
const names = ["data.csv", "main.py", "noise.bin"];
writeFileSync(process.argv[4], Buffer.concat(zipArchive(names.map((n) => zipEntry(n, readFileSync(process.argv[3] + "/" + n), n === "main.py")))));`;
    const file = at.write("zip.mjs", script);
    const sums = new Set<string>();
    for (const [program, TZ] of [
      ["node", "UTC"],
      ["node", "Pacific/Apia"],
      [process.execPath, "America/New_York"],
    ] as const) {
      const out = join(at.home, "out.zip");
      const argv = [program, file, join(built, "zip.js"), join(at.home, "p"), out];
      expect(await run(argv, { env: { ...at.env, TZ } })).toEqual({ stdout: "", stderr: "", code: 0 });
      sums.add(new Bun.CryptoHasher("sha256").update(readFileSync(out)).digest("hex"));
    }
    expect(sums.size).toBe(1);
  });

  test("more than a package can hold is refused before it is read, with a hint at ef sync", async () => {
    using at = project({ "huge.bin": "", "two/a": "", "two/b": "" });
    truncateSync(join(at.home, "p/huge.bin"), 2 ** 31);
    const error = await failure(pack(at, { data: ["huge.bin"] }));
    expect(error).toMatchObject({ code: "NOT_PACKABLE", exit: 2 });
    expect(`${error.message} ${error.hint}`).toMatch(/huge\.bin, 2\.0G: a package holds at most 2\.0G .*ef sync/);
  });

  test("what is no file, or cannot be read, is an error that names it", async () => {
    using at = project();
    expect(Bun.spawnSync(["mkfifo", join(at.home, "p/fifo")]).exitCode).toBe(0);
    expect(await failure(pack(at, { data: ["fifo"] }))).toMatchObject({ code: "USAGE", path: join(at.home, "p/fifo") });
    expect(await failure(pack(at, { data: ["none"] }))).toMatchObject({ code: "USAGE", path: join(at.home, "p/none") });
    expect(await failure(pack(at, { data: ["../.."] }))).toMatchObject({ code: "USAGE" });
  });

  test("nothing of a directory is left out in silence: links that lead nowhere, names that are not UTF-8, pipes", async () => {
    using at = project({ "d/kept": "x" });
    const dir = join(at.home, "p/d");
    for (const [script, why] of [
      ["ln -s nowhere odd.csv", "a link that leads nowhere"],
      ["mkfifo odd.csv", "it is no file and no directory"],
      ["printf x > $(printf 'odd\\377.csv')", "its name is not UTF-8"],
    ] as const) {
      expect(Bun.spawnSync(["sh", "-c", script], { cwd: dir }).exitCode).toBe(0);
      expect((await failure(pack(at, { data: ["d"] }))).message).toContain(why);
      const { metadata } = await pack(at, { data: ["d"], exclude: ["odd*"] });
      expect(metadata.files.map(({ path }) => path)).toEqual(["files/d/kept", "files/main.py"]);
      expect(Bun.spawnSync(["sh", "-c", "rm -f odd*"], { cwd: dir }).exitCode).toBe(0);
    }
  });

  test.skipIf(!existsSync("/proc/self/status"))("a file that is not what its size says is not packed", async () => {
    using at = project();
    symlinkSync("/proc/self/status", join(at.home, "p/status")); // 0 bytes, and then there are some
    const error = await failure(pack(at, { data: ["status"] }));
    expect(error).toMatchObject({ code: "IO", path: join(at.home, "p/status") });
    expect(error.message).toContain("it is being written to");
  });
});

test.skipIf(!python)("odd names arrive: backslashes, newlines, quotes, dashes, spaces", async () => {
  const names = ["a\\b", "-rf", "new\nline", 'it\'s "q"', " lead", "ü*?[x]", "a:b"];
  using at = project({
    ...Object.fromEntries(names.map((name) => [`d/${name}`, name])),
    "main.py": "import os\ndef run():\n    return sorted(os.listdir('d'))\n",
  });
  const { packagePath } = await pack(at, { data: ["d"] });
  expect((await inspectPackage(packagePath)).metadata.files.length).toBe(names.length + 1);
  const { stdout, stderr } = await run([python ?? "", packagePath], { cwd: "/", env: { PATH: "/usr/bin:/bin" } });
  expect(stderr).toBe("");
  expect(JSON.parse(stdout).sort()).toEqual(names.sort());
});

describe("hostile archives", () => {
  const metadataWith = (good: Record<string, Uint8Array>, change: (metadata: Record<string, unknown>) => void) => {
    const metadata = JSON.parse(Buffer.from(good["metadata.json"] ?? []).toString());
    change(metadata);
    return zipSync({ ...good, "metadata.json": Buffer.from(JSON.stringify(metadata)) });
  };

  test("each is refused with its reason, and nothing is written", async () => {
    using at = project();
    const { packagePath } = await pack(at);
    const good = unzipSync(readFileSync(packagePath));
    const twice = zipArchive(["a", "a"].map((name, i) => zipEntry(name, Buffer.from(String(i)), false)));
    const bomb = Buffer.concat(zipArchive([zipEntry("bomb", new Uint8Array(1 << 20), false)]));
    bomb.writeUInt32LE(0xfffffff0, bomb.indexOf("PK\u0001\u0002") + 24); // what it says it will be, in bytes
    const cases: Record<string, [Uint8Array, string]> = {
      "its entry script": [zipSync({ ...good, ".ef/run.py": Buffer.from("evil") }), "its id is not"],
      "a file more": [zipSync({ ...good, "files/more": Buffer.from("x") }), "its id is not"],
      twice: [Buffer.concat(twice), '"a" is in it twice'],
      bomb: [bomb, "too large"],
      absolute: [zipSync({ ...good, "/etc/evil": Buffer.from("x") }), "leaves it"],
      up: [zipSync({ ...good, "files/../../evil": Buffer.from("x") }), "leaves it"],
      work: [metadataWith(good, (m) => (m.working_directory = "../..")), "no metadata.json of that form"],
      entry: [metadataWith(good, (m) => (m.function_info = { file: "/evil" })), "no metadata.json of that form"],
      args: [metadataWith(good, (m) => (m.arguments = { args: [666], kwargs: {} })), "its id is not"],
    };
    for (const [name, [bytes, why]] of Object.entries(cases)) {
      const archive = join(at.home, "bad.zip");
      writeFileSync(archive, bytes);
      const error = await failure(inspectPackage(archive));
      expect([name, error.code]).toEqual([name, "BAD_ARCHIVE"]);
      expect(error.message).toContain(why);
      expect((await failure(unpackPackage(archive, join(at.home, "out")))).code).toBe("BAD_ARCHIVE");
    }
    expect(existsSync(join(at.home, "out"))).toBe(false);
  });

  test("what is no file is not opened", async () => {
    using at = project();
    const fifo = join(at.home, "fifo");
    Bun.spawnSync(["mkfifo", fifo]);
    for (const path of [fifo, at.home, "/dev/zero", join(at.home, "none")])
      expect(await failure(inspectPackage(path))).toMatchObject({ code: "USAGE", path });
  });

  test("unpacked: as it was, for its owner alone, with the directory in which it runs; never over something", async () => {
    using at = project({ "tool.sh": "#!/bin/sh\n" });
    chmodSync(join(at.home, "p/tool.sh"), 0o755);
    mkdirSync(join(at.home, "p/runs/empty"), { recursive: true });
    const { packagePath } = await packageFunction({
      ...{ file: "../../main.py", functionName: "run", root: "../..", data: ["../../tool.sh"] },
      ...{ cwd: join(at.home, "p/runs/empty"), env: at.env },
    });
    const out = join(at.home, "out");
    const { working_directory: work } = await unpackPackage(packagePath, out);
    expect([work, existsSync(join(out, work))]).toEqual(["files/runs/empty", true]);
    const modes = ["", "files", "files/tool.sh", "files/main.py"].map((path) => statSync(join(out, path)).mode & 0o777);
    expect(modes).toEqual([0o700, 0o700, 0o700, 0o600]);
    expect(await failure(unpackPackage(packagePath, out))).toMatchObject({ code: "EXISTS", path: out });
  });
});

describe("secrets", () => {
  test.each([
    ".env.local",
    ".envrc",
    "train.env",
    "id_rsa",
    "id_ecdsa_sk",
    "me.p12",
    "x.kdbx",
    ".pypirc",
    ".npmrc",
    ...["credentials", "secrets.yml", "hf_token", "stored_tokens", ".kube/config", ".ssh/config", "rclone.conf"],
  ])("%s", async (name) => {
    using at = project({ [`d/${name}`]: "x" });
    const error = await failure(pack(at, { data: ["d"] }));
    expect(error).toMatchObject({ code: "NOT_PACKABLE", path: join(at.home, "p/d", name) });
    expect(error.hint).toContain("--data FILE");
  });

  test("names that only sound like one are packed", async () => {
    const names = ["tokens.txt", "added_tokens.json", "special_tokens_map.json", "id_rsa.pub", "dem.asc", "keys.csv"];
    using at = project(Object.fromEntries(names.map((name) => [`d/${name}`, "x"])));
    const { metadata } = await pack(at, { data: ["d"] });
    expect(metadata.files.map(({ path }) => path)).toEqual(
      [...names.map((n) => `files/d/${n}`), "files/main.py"].sort(),
    );
  });

  test("a link to a secret, and code that holds a key; code that looks for one is no secret", async () => {
    using at = project({ "d/x": "x" });
    const key = at.write(".aws/keys", "aws_secret_access_key = x");
    symlinkSync(key, join(at.home, "p/d/notes.txt"));
    expect(await failure(pack(at, { data: ["d"] }))).toMatchObject({ code: "NOT_PACKABLE" });
    const begin = "-----BEGIN RSA PRIVATE KEY-----";
    at.write("p/main.py", `import keys\ndef run(text): return ${JSON.stringify(begin)} in text\n`);
    at.write("p/keys.py", "X = 1\n");
    await pack(at, { args: ["x"] });
    at.write("p/keys.py", `X = """${begin}\n${"MIIEpAIBAAKCAQEA".repeat(4)}\n"""\n`);
    expect(await failure(pack(at, { args: ["x"] }))).toMatchObject({
      code: "NOT_PACKABLE",
      path: join(at.home, "p/keys.py"),
    });
    expect((await pack(at, { args: ["x"], data: ["keys.py"] })).metadata.files.length).toBe(2);
  });

  test("code in a directory of data is code", async () => {
    using at = project({ "d.csv": "1" });
    const { dependencies } = await pack(at, { data: ["."] });
    expect(dependencies.data_files).toEqual([{ path: "files/d.csv", size_bytes: 1 }]);
    expect(dependencies.requires_dependencies).toBe(true);
  });
});

describe("where packages are", () => {
  test("one that is there is not written again, one that was damaged is; its age begins anew", async () => {
    using at = project();
    const { packagePath } = await pack(at);
    utimesSync(packagePath, 1000, 1000);
    const { ino } = statSync(packagePath);
    await pack(at);
    expect(statSync(packagePath).ino).toBe(ino);
    expect(statSync(packagePath).mtimeMs).toBeGreaterThan(1_000_000);
    const bytes = readFileSync(packagePath);
    writeFileSync(packagePath, Buffer.from(bytes).fill(1, 40, 41));
    await pack(at);
    expect(readFileSync(packagePath).equals(bytes)).toBe(true);
  });

  test("EF_PACKAGE_DIR, then XDG_CACHE_HOME, then ~/.cache", async () => {
    using at = project();
    const dirOf = async (env: object) => dirname((await pack(at, { env: { ...at.env, ...env } })).packagePath);
    const own = join(at.home, "my packages");
    expect(await dirOf({ EF_PACKAGE_DIR: own, XDG_CACHE_HOME: "/nowhere" })).toBe(own);
    expect(await dirOf({ XDG_CACHE_HOME: join(at.home, "cache") })).toBe(join(at.home, "cache/ef/packages"));
    expect(await dirOf({ XDG_CACHE_HOME: "relative" })).toBe(join(at.home, ".cache/ef/packages"));
    expect(statSync(own).mode & 0o777).toBe(0o700);
  });

  test("--output goes over a package, and over nothing else", async () => {
    using at = project();
    const output = join(at.home, "out.zip");
    await pack(at, { output });
    expect((await pack(at, { output, args: [1] })).packagePath).toBe(output);
    expect((await inspectPackage(output)).metadata.arguments.args).toEqual([1]);
    writeFileSync(output, "mine");
    expect(await failure(pack(at, { output }))).toMatchObject({ code: "EXISTS", exit: 2 });
    expect(await failure(pack(at, { output: at.home }))).toMatchObject({ code: "EXISTS" });
    expect(readFileSync(output, "utf8")).toBe("mine");
  });

  test("what a run that was killed left goes with the old packages", async () => {
    using at = project();
    const { packagePath } = await pack(at);
    const store = dirname(packagePath);
    const temp = join(store, `.run-${"0".repeat(16)}.zip.ef-host-12-${"a".repeat(16)}.tmp`);
    for (const path of [temp, join(store, ".other.tmp")]) writeFileSync(path, "x");
    const old = { olderThanS: -1, env: at.env }; // also what was written in this very millisecond
    expect(cleanPackages({ ...old, dryRun: true })).toEqual([temp, packagePath]);
    expect(readdirSync(store).length).toBe(3);
    expect(cleanPackages(old)).toEqual([temp, packagePath]);
    expect(readdirSync(store)).toEqual([".other.tmp"]);
  });
});

describe("scripts", () => {
  const files = {
    "job.ts": `#!/usr/bin/env -S ef run
import { $ } from "zx";
import data from "./data.bin" with { type: "file" };
import { where } from "./lib/where.ts";
await $\`true\`;
console.log(where(), data, __filename.endsWith("job.mjs"));`,
    "lib/where.ts": `import text from "./note.txt" with { type: "text" };
export const where = () => [text, process.env.NODE_ENV, process.env.EF_TEST_SECRET, typeof __dirname];`,
    "lib/note.txt": "a note",
    "data.bin": "\0\u0001",
  };

  test("the same bytes from every directory and environment; nothing of this machine inside", async () => {
    using at = project();
    for (const dir of ["one", "deep/er/two"])
      for (const [name, text] of Object.entries(files)) at.write(`${dir}/${name}`, text);
    process.env.EF_TEST_SECRET = "very secret";
    try {
      const packed = async (file: string, cwd: string, NODE_ENV: string) => {
        process.env.NODE_ENV = NODE_ENV;
        return packageScript({ file, cwd: join(at.home, cwd), env: at.env });
      };
      const first = await packed("job.ts", "one", "development");
      const others = [
        await packed("deep/er/two/job.ts", ".", "production"),
        await packed("../../one/job.ts", "deep/er", "test"),
      ];
      expect(others.map(({ packageId }) => packageId)).toEqual([first.packageId, first.packageId]);
      const inside = unzipSync(readFileSync(first.packagePath));
      expect(Object.keys(inside).map((path) => path.replace(/-\w+\.bin/, ".bin"))).toEqual([
        ...["files/data.bin", "files/job.mjs", "metadata.json"],
      ]);
      const text = Buffer.from(inside["files/job.mjs"] ?? []).toString();
      expect(text.startsWith("#!/usr/bin/env -S ef run\n")).toBe(true);
      expect(text).toContain('from "zx"');
      expect(text).toContain("process.env.NODE_ENV");
      for (const never of [at.dir, "very secret", repo]) expect(text).not.toContain(never);
    } finally {
      process.env.NODE_ENV = "test";
      delete process.env.EF_TEST_SECRET;
    }
  });

  test("with data it keeps its place", async () => {
    using at = project({ "jobs/a.ts": "console.log(1)", "jobs/in.csv": "1", "in.csv": "2" });
    const data = ["jobs/in.csv", "in.csv"];
    const { metadata } = await packageScript({ file: "jobs/a.ts", data, cwd: join(at.home, "p"), env: at.env });
    expect(metadata.files.map(({ path }) => path)).toEqual(["files/in.csv", "files/jobs/a.mjs", "files/jobs/in.csv"]);
    expect(metadata).toMatchObject({ kind: "script", working_directory: "files" });
  });

  test.each([
    ["const a = 1;\nconst y = ;\n", "a.ts:2:11: Unexpected ;"],
    ['\nimport { x } from "./none.ts";\nx();\n', "a.ts:2:19: Could not resolve"],
  ])("%j is no script that can be bundled", async (text, why) => {
    using at = project({ "a.ts": text });
    const error = await failure(packageScript({ file: "a.ts", cwd: join(at.home, "p"), env: at.env }));
    expect(error).toMatchObject({ code: "NOT_PACKABLE" });
    expect(error.message).toContain(why);
  });
});

test("a context says where it runs, with what, and for whom", async () => {
  using at = project();
  const context = createExecutionContext({ type: "local" }, [1], {});
  expect(context).toMatchObject({ workingDirectory: process.cwd(), functionArgs: [1], pythonVersion: null });
  const own = { ...context, workingDirectory: join(at.home, "p"), environmentVariables: { A: "1" } };
  const { metadata } = await packageFunction({ file: "main.py", functionName: "run", env: at.env }, own);
  expect(metadata).toMatchObject({ environment: { A: "1" }, arguments: { args: [1], kwargs: {} } });
  expect(await pythonFunctions(join(at.home, "p/main.py"))).toEqual(["run"]);
});
