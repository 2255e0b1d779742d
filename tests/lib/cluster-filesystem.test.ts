import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, linkSync, mkdirSync, rmSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EfError } from "../../lib/base/errors.ts";
import { ClusterFilesystem } from "../../lib/cluster-filesystem.ts";
import { forFind, isSimple, matches, pattern } from "../../lib/clusters/fnmatch.ts";
import { nameBytes, nameText, sortNames } from "../../lib/clusters/names.ts";
import { Home, have, haveOtherUser, run } from "../helpers.ts";
import { haveSshd, type Sshd, startSshd } from "../sshd.ts";

setDefaultTimeout(60_000);

const at = new Home();
const tree = join(at.home, "tree");
let sshd: Sshd | undefined;
const opened: ClusterFilesystem[] = [];

const hostile = [
  "a b",
  "it's",
  'say "x"',
  "new\nline",
  "-rf",
  "$HOME",
  "`id`",
  "back\\slash",
  "ümlaut",
  "😀",
  "[x]",
  "~",
  "*",
];
const raw = "raw-\udcff\udc80.csv"; // its bytes are no UTF-8

beforeAll(async () => {
  const write = (path: string, content: string | Uint8Array = path) => {
    const bytes = Buffer.concat([Buffer.from(`${tree}/`), nameBytes(path)]);
    mkdirSync(bytes.subarray(0, bytes.lastIndexOf("/")), { recursive: true });
    writeFileSync(bytes, content);
  };
  for (const name of hostile) write(`hostile/${name}/${name}.csv`);
  write(`hostile/${raw}`);
  for (const path of [
    "a/1.csv",
    "a/2.CSV",
    "a/.hidden.csv",
    "a/sub/3.csv",
    "b/1.csv",
    ".dot/x.csv",
    ".dot/.y/z",
    "ab.txt",
  ])
    write(path);
  write("du/five", "12345");
  linkSync(join(tree, "du/five"), join(tree, "du/again"));
  write("du/sub/holes", "");
  truncateSync(join(tree, "du/sub/holes"), 1 << 20);
  symlinkSync("five", join(tree, "du/link"));
  symlinkSync("nowhere", join(tree, "a/dangling"));
  symlinkSync("../a", join(tree, "b/to-a"));
  symlinkSync("../a/1.csv", join(tree, "b/link.csv"));
  symlinkSync("self", join(tree, "self"));
  mkdirSync(join(tree, "empty"));
  utimesSync(join(tree, "ab.txt"), 1_700_000_000.25, 1_700_000_000.25);
  chmodSync(join(tree, "ab.txt"), 0o640);
  if (haveSshd) sshd = await startSshd(at.home);
});

afterAll(async () => {
  for (const each of opened) await each[Symbol.asyncDispose]();
  await sshd?.[Symbol.asyncDispose]();
  at[Symbol.dispose]();
});

/** Both kinds of hosts, on the same tree. */
const kinds = ["local", ...(haveSshd ? ["ssh"] : []), ...(have("busybox") ? ["busybox"] : [])];
const filesBy = (kind: string): ClusterFilesystem => {
  const env: Record<string, string | undefined> = { ...at.env, EF_TREE: tree };
  if (kind === "busybox") {
    env.PATH = join(at.dir, "busybox");
    mkdirSync(env.PATH, { recursive: true });
    Bun.spawnSync(["busybox", "--install", "-s", env.PATH]);
  }
  const cluster = kind === "ssh" && sshd ? sshd.cluster : { type: "local" as const };
  const files = new ClusterFilesystem(cluster, { env, workDir: "~/tree" });
  opened.push(files);
  return files;
};

const failure = async (work: Promise<unknown>): Promise<EfError> => {
  const error = await work.then(
    () => undefined,
    (caught) => caught,
  );
  expect(error).toBeInstanceOf(EfError);
  return error;
};

describe.each(kinds)("ClusterFilesystem, %s", (kind) => {
  let files: ClusterFilesystem;
  beforeAll(() => {
    files = filesBy(kind);
  });

  test("ls: sorted, hidden names too, each usable in the next call", async () => {
    expect(await files.ls("a")).toEqual([".hidden.csv", "1.csv", "2.CSV", "dangling", "sub"]);
    expect(await files.ls("empty")).toEqual([]);
    const names = await files.ls("hostile");
    expect(names).toEqual(sortNames([...hostile, raw]));
    for (const name of hostile) expect(await files.ls(`hostile/${name}`)).toEqual([`${name}.csv`]);
    expect(await files.stat(`hostile/${raw}`)).toMatchObject({ name: raw, isFile: true });
    expect((await files.ls(`${tree}/b/to-a`)).length).toBe(5); // through a link
    expect(await files.ls("~/tree/b")).toEqual(["1.csv", "link.csv", "to-a"]);
  });

  test("ls, stat, du, find of what is not there, or no directory: an error with the path", async () => {
    const missing = "no/such";
    for (const work of [
      () => files.ls(missing),
      () => files.stat(missing),
      () => files.du(missing),
      () => files.find("*", missing),
    ]) {
      const { message, code, path } = await failure(work());
      expect(message).toEndWith(": no such file or directory");
      expect(message).toContain(`${tree}/no/such`);
      expect({ code, path }).toEqual({ code: "IO", path: `${tree}/no/such` });
    }
    expect((await failure(files.ls("ab.txt"))).message).toEndWith(": not a directory");
    expect((await failure(files.stat("a/dangling"))).message).toEndWith("it is a symbolic link that leads nowhere");
    expect((await failure(files.stat("self"))).message).toEndWith("too many levels of symbolic links");
  });

  test("stat: size, time, mode and kind of what a path leads to", async () => {
    expect(await files.stat("ab.txt")).toMatchObject({
      ...{ name: "ab.txt", path: `${tree}/ab.txt`, sizeBytes: 6, mode: 0o640 },
      ...{ modified: new Date(1_700_000_000_250), isDir: false, isFile: true, isLink: false },
    });
    expect(await files.stat("b/link.csv")).toMatchObject({ isFile: true, isLink: true, sizeBytes: 7 });
    expect(await files.stat("b/to-a/")).toMatchObject({ name: "to-a", isDir: true, isFile: false });
    expect(await files.stat("/dev/null")).toMatchObject({ isDir: false, isFile: false });
    expect(await files.stat("/")).toMatchObject({ name: "/", isDir: true });
  });

  test("exists, isDir, isFile: as os.path says", async () => {
    const answers = async (path: string) => [
      await files.exists(path),
      await files.isDir(path),
      await files.isFile(path),
    ];
    expect(await answers("a")).toEqual([true, true, false]);
    expect(await answers("a/1.csv")).toEqual([true, false, true]);
    expect(await answers("b/to-a")).toEqual([true, true, false]);
    for (const path of ["no", "a/dangling", "self", "ab.txt/x"])
      expect(await answers(path)).toEqual([false, false, false]);
  });

  test("find: names at any depth, files and links to files", async () => {
    expect(await files.find("*.csv", "a")).toEqual([".hidden.csv", "1.csv", "sub/3.csv"]);
    expect(await files.find("[13].csv")).toEqual(["a/1.csv", "a/sub/3.csv", "b/1.csv"]);
    expect(await files.find("*.csv", "b")).toEqual(["1.csv", "link.csv"]);
    expect(await files.find("?.csv", "hostile")).toEqual(["*/*.csv", "~/~.csv", "😀/😀.csv"]);
    expect(await files.find("raw-??.csv", "hostile")).toEqual([raw]);
    expect(await files.find("[[]x[]]*", "hostile")).toEqual(["[x]/[x].csv"]);
    expect(await files.find("*", "ab.txt")).toEqual(["ab.txt"]);
    expect((await failure(files.find("a/*.csv"))).code).toBe("USAGE");
  });

  test("countFiles: as many as find finds", async () => {
    for (const wanted of ["*", "*.csv", "?.csv", "[!1].csv", "*\\*", "ü*", "nothing"])
      expect([wanted, await files.countFiles(".", wanted)]).toEqual([wanted, (await files.find(wanted)).length]);
    expect(await files.countFiles("hostile")).toBe(hostile.length + 1);
  });

  test("du: a file with two names has its bytes once; links are not followed", async () => {
    const usage = await files.du("du");
    expect(usage).toMatchObject({ totalBytes: 5 + (1 << 20), fileCount: 3 });
    expect(usage.totalMb).toBeCloseTo(1, 3);
    expect(usage.totalGb * 1024).toBeCloseTo(usage.totalMb, 9);
    expect(usage.allocatedBytes).toBeLessThan(1 << 20); // the holes take nothing
    expect(await files.du("empty")).toMatchObject({ totalBytes: 0, fileCount: 0 });
    expect(await files.du("ab.txt")).toMatchObject({ totalBytes: 6, fileCount: 1 });
  });

  test("variables of the cluster", async () => {
    if (kind !== "ssh") expect(await files.ls("$EF_TREE/empty")).toEqual([]);
    const { code, message } = await failure(files.ls("$EF_NO_SUCH/x"));
    expect(code).toBe("UNSET_VARIABLE");
    expect(message).toContain("EF_NO_SUCH");
    expect(await files.exists("./$HOME")).toBe(false); // a name, and none
    expect(await files.isDir("hostile/$HOME")).toBe(true);
  });

  test.skipIf(!have("python3"))("glob: as Python's, on a hostile tree", async () => {
    const patterns = [
      ...[
        "*",
        "*/*",
        "*.csv",
        "*/*.csv",
        "a/*.csv",
        "a/*.CSV",
        "?b.txt",
        "[!x]*",
        "[]a]*",
        "[b-a]*",
        "[a-]*",
        "[a",
        "a/[0-1].csv",
      ],
      ...[
        "**",
        "**/*.csv",
        "a/**",
        "a/**/",
        "**/",
        "**/*",
        "**/.*",
        ".*",
        ".*/*",
        ".dot/**",
        "**/sub/*.csv",
        "*/",
        "b/to-a/*",
      ],
      ...[
        "a/1.csv",
        "a/nothing",
        "a/",
        "a",
        "a/1.csv/",
        "",
        "./*",
        "a/./*",
        "b/../a/*.csv",
        "hostile/*/*",
        "hostile/$HOME/*",
        "hostile/-*",
      ],
      ...[
        "hostile/[[]x]/*",
        "hostile/?/*",
        "hostile/raw-??.csv",
        "hostile/*[!a-z]",
        "hostile/back\\*",
        "hostile/[*]/*",
        "a/dangl*",
      ],
      ...["self/*", "**/dangling", "no/*", "**/*/", "*/**/*.csv", `${tree}/a/*.csv`, `${tree}/**/3.csv`, "a//*.csv"],
    ];
    const script = `import glob, json, sys
print(json.dumps([sorted(set(glob.glob(p, root_dir=sys.argv[1], recursive=True))) for p in json.loads(sys.argv[2])]))`;
    const { stdout } = Bun.spawnSync(["python3", "-c", script, tree, JSON.stringify(patterns)], { env: at.env });
    const expected: string[][] = JSON.parse(stdout.toString());
    expect(expected[patterns.indexOf("**/*.csv")]?.length).toBeGreaterThan(15);
    const found = await Promise.all(patterns.map((each) => files.glob(each, tree)));
    expect(Object.fromEntries(patterns.map((each, i) => [each, found[i]]))).toEqual(
      Object.fromEntries(patterns.map((each, i) => [each, expected[i] ?? []])),
    );
  });

  // The find of busybox goes round as often as Python does.
  test.skipIf(kind === "busybox")(
    "glob: a link to a directory above itself is matched, and not entered for ever",
    async () => {
      mkdirSync(join(tree, "loops/in"), { recursive: true });
      symlinkSync("..", join(tree, "loops/in/up"));
      try {
        expect(await files.glob("**", "loops")).toEqual(["in", "in/up"]);
        expect(await files.find("*", "loops")).toEqual([]);
      } finally {
        rmSync(join(tree, "loops"), { recursive: true });
      }
    },
  );

  test("a name with a NUL, or half a character, is refused", async () => {
    for (const name of ["a\0b", "a\ud800"]) expect((await failure(files.exists(name))).code).toBe("USAGE");
  });
});

test.skipIf(process.geteuid?.() === 0 && !haveOtherUser)(
  "what cannot be read is an error, unless it is to be left out",
  async () => {
    await using there = new Home();
    const base = join(there.dir, "files");
    for (const dir of ["open", "closed/in"]) mkdirSync(join(base, dir), { recursive: true });
    writeFileSync(join(base, "open/x"), "12");
    writeFileSync(join(base, "closed/in/y"), "345");
    chmodSync(join(base, "closed"), 0);
    chmodSync(there.dir, 0o755);
    const script = join(base, "open/look.ts");
    writeFileSync(
      script,
      `import { ClusterFilesystem } from ${JSON.stringify(join(import.meta.dir, "../../lib/cluster-filesystem.ts"))};
const files = new ClusterFilesystem({ type: "local" }, { workDir: ${JSON.stringify(base)}, env: { ...process.env, HOME: "/" } });
const calls = {
  find: () => files.find("[xy]"),
  left: () => files.find("[xy]", ".", { skipUnreadable: true }),
  count: () => files.countFiles(".", "y"),
  du: () => files.du("closed"),
  some: async () => (await files.du(".", { skipUnreadable: true })).fileCount,
  ls: () => files.ls("closed"),
  exists: () => files.exists("closed/in/y"),
  isDir: () => files.isDir("closed"),
  glob: () => files.glob("*/[xy]"),
};
const results = {};
for (const [name, call] of Object.entries(calls)) results[name] = await call().catch((error) => error.code + " " + error.message);
console.log(JSON.stringify(results));`,
    );
    const user = process.geteuid?.() === 0 ? ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] : [];
    const { stdout, stderr } = await run([...user, process.execPath, script], { env: at.env, cwd: "/" });
    chmodSync(join(base, "closed"), 0o700);
    expect(stderr).toBe("");
    const closed = (verb: string, path: string) =>
      expect.stringMatching(new RegExp(`^IO Cannot ${verb} ${path} on this machine: .*[Pp]ermission denied$`));
    expect(JSON.parse(stdout)).toEqual({
      ...{
        find: closed("search", base),
        left: ["open/x"],
        count: closed("count the files in", base),
        du: closed("measure", `${base}/closed`),
      },
      ...{
        some: 2,
        ls: closed("list", `${base}/closed`),
        exists: closed("look at", `${base}/closed/in/y`),
        isDir: true,
        glob: ["open/x"],
      },
    });
  },
);

test("names: every string of bytes comes back", () => {
  const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i).filter((i) => i > 0));
  const cut = Buffer.from("ü€😀").subarray(0, 8); // the last is not whole
  for (const bytes of [all, cut, Buffer.from([0xed, 0xa0, 0x80]), Buffer.from("\ufeffx"), Buffer.from("plain")])
    expect(nameBytes(nameText(bytes)).equals(bytes)).toBe(true);
  expect(nameText(Buffer.from([0x61, 0xff, 0xc3, 0xbc]))).toBe("a\udcffü");
});

test("names are sorted by code points", () => {
  expect(sortNames(["😀", "\uffee", "a", "B"])).toEqual(["B", "a", "\uffee", "😀"]);
});

test.skipIf(!have("python3"))("fnmatch: as Python's, and what find is given matches no less", () => {
  const parts = ["a", "b", "-", "]", "[", "!", "*", "?", "\\", ".", "^", "é"];
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return (seed >> 8) % below;
  };
  const text = () => Array.from({ length: random(7) }, () => parts[random(parts.length)]).join("");
  const cases = Array.from({ length: 5000 }, () => [text(), text()] as const);
  const script = `import fnmatch, json, sys
print(json.dumps([fnmatch.fnmatchcase(name, pattern) for pattern, name in json.load(sys.stdin)]))`;
  const { stdout } = Bun.spawnSync(["python3", "-W", "ignore", "-c", script], {
    stdin: Buffer.from(JSON.stringify(cases)),
    env: at.env,
  });
  const expected: boolean[] = JSON.parse(stdout.toString());
  expect(expected.filter(Boolean).length).toBeGreaterThan(100);
  for (const [i, [wanted, name]] of cases.entries()) {
    const compiled = pattern(wanted);
    expect([wanted, name, matches(compiled, name)]).toEqual([wanted, name, expected[i] as boolean]);
    if (isSimple(compiled)) expect(forFind(compiled)).not.toContain("?");
  }
});
