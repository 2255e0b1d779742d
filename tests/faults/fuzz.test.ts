/**
 * Whatever ef reads that somebody else may have written, or half written: mutated at random, it is refused in words or taken, and
 * never a crash.
 *
 * `npm test` tries some hundred mutations of each, by a seed that is shown; `npm run test:faults` ten thousand.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { loadAll } from "../../cmd/args.ts";
import { checkInput } from "../../cmd/input.ts";
import { commands } from "../../cmd/table.ts";
import { EfError, Exit } from "../../lib/base/errors.ts";
import { checkConfig, parseRaw } from "../../lib/config/store.ts";
import { moverJobs } from "../../lib/datamover-jobs.ts";
import { thisHost } from "../../lib/drivers/host.ts";
import { parseList, parseRestorable } from "../../lib/drivers/hpc-workspace.ts";
import { parseLfsQuota, parseLquota, parseQuota } from "../../lib/drivers/quota.ts";
import { parsePartitions, parseSacct, parseScontrol } from "../../lib/drivers/slurm-jobs.ts";
import { leaseHolder, leaseTaker } from "../../lib/engine/lease.ts";
import { holderOf } from "../../lib/engine/lock.ts";
import { readBase, readTimes } from "../../lib/engine/manifest.ts";
import { readMarker } from "../../lib/engine/marker.ts";
import { readJournal } from "../../lib/engine/move-journal.ts";
import { unpack } from "../../lib/engine/unpack.ts";
import { readPyvenvCfg } from "../../lib/envs/interpreter.ts";
import { readState, stateName, writeState } from "../../lib/envs/live.ts";
import { findSaved, listSaved } from "../../lib/envs/store.ts";
import { type JobRecord, jobDir, readRecord, readRecords } from "../../lib/jobs/record.ts";
import { readResult } from "../../lib/jobs/results.ts";
import { readMetadata } from "../../lib/pack/open.ts";
import { unpackPackage } from "../../lib/pack.ts";
import { updateConfig } from "../../lib/settings.ts";
import { BrokenFrame, contentOf, FrameReader, frame } from "../../lib/stage/frames.ts";
import { Place, paxRecord, rawTar } from "../archives.ts";
import { Home } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { pick, type Random } from "../trees.ts";
import { isLong, seed } from "./seed.ts";

const rounds = isLong ? 10_000 : 300;

setDefaultTimeout(600_000);

/** What breaks parsers: ends, numbers at the edge, other types, controls, bytes that are not UTF-8. */
const spices = [
  ...[
    "",
    "\0",
    "\n",
    '"',
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e999",
    "NaN",
    "0.1",
    "1e-7",
    "[]",
    "{}",
    '""',
  ],
  ...[
    "__proto__",
    "constructor",
    "../../etc",
    "/",
    "~",
    "$HOME",
    "${",
    "\uFEFF",
    "\u2028",
    "é",
    "\u0000",
    "9007199254740993",
  ],
  ...["99999999999999999999", "-0", "\x1b[31m", "\xff\xfe", "%n", "'", "`id`", "$(id)", "\r\n", "=", "a".repeat(5000)],
];

/** The text with one to four changes. */
function mutated(original: Buffer, random: Random): Buffer {
  let bytes = Buffer.from(original);
  for (let i = random(4); i >= 0; i--) {
    const [at, to] = [random(bytes.length + 1), random(bytes.length + 1)].sort((a, b) => a - b) as [number, number];
    const kind = random(7);
    const spice = Buffer.from(pick(random, spices), random(2) ? "utf8" : "latin1");
    if (kind === 0 && bytes.length > 0) bytes[Math.min(at, bytes.length - 1)] = random(256);
    else if (kind === 1) bytes = bytes.subarray(0, at);
    else if (kind === 2) bytes = Buffer.concat([bytes.subarray(0, at), spice, bytes.subarray(at)]);
    else if (kind === 3) bytes = Buffer.concat([bytes.subarray(0, at), spice, bytes.subarray(to)]);
    else if (kind === 4) bytes = Buffer.concat([bytes.subarray(0, to), bytes.subarray(at)]);
    else if (kind === 5) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(to)]);
    else if (bytes.length > 0) bytes[Math.min(at, bytes.length - 1)]! ^= 1 << random(8);
  }
  return bytes;
}

/** A JSON value with one value in it replaced by one of another type, or a key renamed. */
function retyped(value: unknown, random: Random): unknown {
  const others = [
    null,
    true,
    -1,
    1.5,
    2 ** 60,
    "",
    "x",
    "\0",
    [],
    {},
    [[]],
    { a: 1 },
    "a".repeat(3000),
    ["\n"],
    { __proto: 1 },
  ];
  if (typeof value !== "object" || value === null || random(4) === 0) return pick(random, others);
  const keys = Object.keys(value);
  if (keys.length === 0) return pick(random, others);
  const key = pick(random, keys);
  const inner = (value as Record<string, unknown>)[key];
  if (Array.isArray(value)) return value.map((each, i) => (String(i) === key ? retyped(each, random) : each));
  if (random(8) === 0) return { ...value, [pick(random, ["", "constructor", "a b", "X"])]: inner };
  return { ...value, [key]: retyped(inner, random) };
}

/** Anything else is refused before it is looked into. */
const objectOf = (value: unknown): Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : { value };

const dir = mkdtempSync(join(tmpdir(), "ef fuzz "));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Use each mutation; what it throws must be an error for people, one of `allowed`. */
async function fuzz(
  originals: readonly (string | Buffer)[],
  use: (bytes: Buffer, random: Random) => unknown,
  allowed: (error: unknown) => boolean = (error) => error instanceof EfError,
  times = rounds,
): Promise<void> {
  for (let round = 0; round < times; round++) {
    const random = seeded(seed + round);
    const bytes = mutated(Buffer.from(pick(random, originals)), random);
    try {
      await use(bytes, random);
    } catch (error) {
      if (allowed(error)) continue;
      throw new Error(
        `EF_FAULT_SEED=${seed}, round ${round}: ${JSON.stringify(bytes.toString("latin1")).slice(0, 500)}`,
        { cause: error },
      );
    }
  }
}

const isUsage = (error: unknown) => error instanceof EfError && error.exit === Exit.usage && error.message !== "";

const config = {
  version: 1,
  scratch_base: "$SCRATCH/x",
  cache_root: "c",
  vars: { HF_HOME: { source: "/h/hf", enabled: true }, TORCH_HOME: { source: "~/t" } },
  rsync_extra_args: ["-z"],
  parallel_jobs: 4,
  lock_timeout_seconds: 300.5,
  apptainer: {
    venv_base: "/v",
    images: { a: { venv_name: "a", python_version: "3.11.2", sif_filename: "a.sif", built_at: 1.5 } },
  },
  migrations: [{ old_path: "/a", new_path: "/b", migrated_at: 1700000000.0, field_name: "source", var_name: "X" }],
  ef: {
    vars: { HF_HOME: { exclude: ["*.tmp"], mirror: true, env: { HF_HUB_OFFLINE: "1" } } },
    transfer: { engine: "auto", workers: 8, bwlimit: "200M", verify: "size", times: "source" },
    purge: { days: 15, rule: "mtime" },
    clusters: { euler: { type: "slurm", host: "h", port: 22, work_dir: "$SCRATCH/ef", env: { A: "b" }, nodes: 2 } },
  },
};

describe("text", () => {
  test("the configuration", async () => {
    const read = async (bytes: Buffer) => checkConfig(await parseRaw(bytes.toString("utf8"), "/c.json"), "/c.json");
    await fuzz([JSON.stringify(config), JSON.stringify(config, null, 2)], read, isUsage);
    await fuzz(["x"], (_, random) => checkConfig(retyped(config, random), "/c.json"), isUsage);
  });

  test("--input-json of every command", async () => {
    const specs = await loadAll(commands);
    const input = {
      vars: ["A"],
      dry_run: true,
      force: false,
      what: "X",
      to: "/y",
      yes: true,
      packages: ["a"],
      id: "1",
      images: [],
      name: "n",
    };
    await fuzz(["x"], (_, random) => checkInput(pick(random, specs), objectOf(retyped(input, random))), isUsage);
  });

  test("what ws_list and ws_restore print", async () => {
    const listed = readFileSync(join(import.meta.dir, "../lib/workspace-parse.test.ts"), "utf8");
    const samples = [...listed.matchAll(/= `\\\n(.*?)`;/gs)].map(([, text]) => text as string);
    expect(samples.length).toBeGreaterThan(2);
    await fuzz(samples, (bytes) => {
      const text = bytes.toString("utf8");
      for (const { remainingS } of parseList(text, Date.now())) expect(typeof remainingS).toBe("number");
      parseRestorable(text, "anna");
    });
  });

  test("what quota tools and Slurm print", async () => {
    const samples = [
      "Disk quotas for usr anna (uid 1000):\n     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace\n       /scratch  1024*  1000  2000  6d23h  10  20  30  -\n",
      "Disk quotas for user a (uid 1): \n     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n/dev/sda1  20  100  200  -  3  0  0  -\n",
      "JobId=12 JobName=x JobState=RUNNING Reason=None Dependency=(null) ExitCode=0:0 NodeList=n[1-3] EndTime=2026-11-26T20:00:00\n",
      "COMPLETED|0:0|n1|2026-11-26T20:00:00\n",
      "normal*|up\ndtn|down\n",
    ];
    await fuzz(samples, (bytes) => {
      const text = bytes.toString("utf8");
      parseLfsQuota(text, "user");
      parseQuota(text, "/scratch");
      parseLquota(text);
      parseScontrol(text);
      parseSacct(text);
      parsePartitions(text);
    });
  });
});

describe("files", () => {
  /** What a real sync leaves: marker, manifest and lock file. */
  const real = (async () => {
    using at = new Home({ "hf/a": "1", "hf/b/c": "22", "hf/b/ü\n": "3" });
    at.configure({ HF_HOME: "hf" });
    const { code, stderr } = await at.ef(["sync"]);
    expect([code, stderr]).toEqual([0, stderr]);
    const file = (suffix: string) => readFileSync(at.cache(`.HF_HOME.${suffix}`));
    return { marker: file("synced"), manifest: file("manifest"), lock: file("lock") };
  })();
  const path = join(dir, "file");
  const use =
    (read: (path: string) => unknown) =>
    (bytes: Buffer): unknown => {
      writeFileSync(path, bytes);
      return read(path);
    };
  const never = () => false;

  test("the marker", async () => fuzz([(await real).marker], use(readMarker), never));
  test("the manifest", async () => {
    const read = (file: string) => [readTimes(file), readBase(file)];
    await fuzz([(await real).manifest], use(read), never);
  });
  test("the lock file", async () => fuzz([(await real).lock], use(holderOf), never));
  test("the journal of a migration", async () => {
    const journal = {
      version: 1,
      what: "HF_HOME",
      old: "/a",
      new: "/b",
      old_real: "/a",
      new_real: "/b",
      to: "~/b",
      mode: 493,
    };
    await fuzz(
      [JSON.stringify(journal)],
      use((file) => readJournal({ journal: file, list: "", lock: "" })),
      never,
    );
  });
  test("pyvenv.cfg", async () => {
    const texts = [
      "home = /usr/bin\nversion = 3.11.2\nprompt = 'x'\n",
      "home=/usr/bin\nversion_info = 3.11.2.final.0\n",
    ];
    const env = join(dir, "env");
    mkdirSync(env);
    await fuzz(texts, (bytes) => {
      writeFileSync(join(env, "pyvenv.cfg"), bytes);
      readPyvenvCfg(env);
    });
  });
  test("what is said of a saved environment", async () => {
    const store = join(dir, "store");
    mkdirSync(store);
    writeFileSync(join(store, "a.tar.zst"), "x");
    const said = {
      ...{
        version: 1,
        name: "a",
        sha256: "0".repeat(64),
        size: 1,
        content_bytes: 1,
        files: 1,
        python_version: "3.11.2",
      },
      ...{
        base_python: "/usr/bin/python3",
        platform: "linux-x86_64",
        glibc: "2.36",
        cpu: null,
        needs_glibc: null,
        built: [],
      },
      ...{ packages: ["a==1"], places: ["/tmp/a"], saved_at: 1, host: "h" },
    };
    await fuzz([JSON.stringify(said)], (bytes) => {
      writeFileSync(join(store, "a.json"), bytes);
      listSaved(store);
      findSaved(store, "a");
    });
  });
});

/** A directory in which ef keeps what it remembers, in files of JSON. */
describe("records", () => {
  const env = { XDG_STATE_HOME: join(dir, "state"), HOME: dir, TMPDIR: dir };
  const never = () => false;

  /** Both kinds of damage: to the text, and to the types in it. */
  async function fuzzRecord(
    path: string,
    record: object,
    read: () => unknown,
    allowed = never as (error: unknown) => boolean,
  ) {
    mkdirSync(dirname(path), { recursive: true });
    const use = (text: string | Buffer) => {
      writeFileSync(path, text);
      return read();
    };
    await fuzz([JSON.stringify(record)], use, allowed);
    await fuzz(["x"], (_, random) => use(JSON.stringify(retyped(record, random))), allowed);
  }

  test("a lease", async () => {
    const path = join(dir, ".X.lock.lease");
    const lease = { id: "x", ...thisHost(), job: "1", node: "n", since: 1, beat: 1 };
    await fuzzRecord(path, lease, () => {
      leaseHolder(path);
      const taken = leaseTaker(path)();
      if (taken !== "held") taken[Symbol.dispose]();
    });
    expect(readdirSync(dir).filter((name) => name.includes("lease.ef-"))).toEqual([]);
  });

  test("a job, and its result", async () => {
    const record = {
      ...{
        version: 1,
        id: "train-1",
        cluster: "c",
        definition: { type: "slurm", host: "h" },
        package_id: "0".repeat(64),
      },
      ...{ function_name: "f", kind: "python", dir: "/work/x", slurm_id: "12", submitted_at: 1, state: "completed" },
      ...{ reason: null, exit_code: 0 },
    } as const;
    const at = jobDir(env, record.id);
    await fuzzRecord(join(at, "job.json"), record, () => {
      for (const job of readRecords(env)) expect(readRecord(job.id, env)).toEqual(job);
    });
    const job = { ...record, definition: { type: "slurm" } } as JobRecord;
    const known = (error: unknown) => error instanceof EfError && error.code === "IO";
    const read = () => {
      const { error, pickle } = readResult(env, job);
      for (const text of [error?.type, error?.message, error?.traceback, pickle?.type])
        expect(["string", "undefined"]).toContain(typeof text);
    };
    await fuzzRecord(join(at, "result.json"), { ok: true, value: { a: [1, "x"] } }, read, known);
    await fuzzRecord(
      join(at, "result.json"),
      { ok: false, error: { type: "E", message: "m", traceback: "t" } },
      read,
      known,
    );
    await fuzzRecord(join(at, "result.json"), { ok: true, pickle: true, type: "T" }, read, known);
  });

  test("a job of the data movers", async () => {
    const job = {
      id: "12",
      argv: ["cp", "-r", "/a", "/b"],
      cwd: "/c",
      partition: "dtn",
      submittedMs: 1,
      output: join(dir, "12.out"),
    };
    await fuzzRecord(join(dir, "state/ef/dm/12.json"), job, () => {
      for (const each of moverJobs(env)) {
        expect(each.argv.every((arg) => typeof arg === "string")).toBe(true);
        expect(new Date(each.submittedMs).toISOString()).toBeString();
      }
    });
  });

  test("an environment on this node", async () => {
    const state = writeState(dir, "env", null);
    await fuzzRecord(join(dir, stateName), state, () => readState(dir));
  });

  test("a configuration that is refused stays as it is", async () => {
    const path = join(dir, "config.json");
    const set = async (bytes: Buffer) => {
      writeFileSync(path, bytes);
      try {
        await updateConfig(path, (raw) => ({ ...raw, parallel_jobs: 2 }));
      } catch (error) {
        expect(readFileSync(path).equals(bytes)).toBe(true);
        throw error;
      }
    };
    await fuzz([JSON.stringify(config)], set, isUsage);
  });
});

describe("streams", () => {
  test("packages: what is not exactly what was packed is refused, and nothing is written", async () => {
    using at = new Home({ "code.py": "def main():\n    return 1\n" });
    const archive = join(at.home, "package");
    const { code, stderr } = await at.ef(["pack", "code.py:main", "-o", archive]);
    expect([code, stderr]).toEqual([0, stderr]);
    const packed = readFileSync(archive);
    const out = join(at.home, "out");
    const use = async (bytes: Buffer) => {
      writeFileSync(archive, bytes);
      readMetadata(archive);
      const isSame = bytes.equals(packed);
      try {
        await unpackPackage(archive, out);
        // What zip ignores may differ; what is in it may not.
        expect(readFileSync(join(out, "files/code.py"), "utf8")).toContain("return 1");
        rmSync(out, { recursive: true });
      } catch (error) {
        expect([isSame, existsSync(out)]).toEqual([false, false]);
        throw error;
      }
    };
    await fuzz([packed], use, (error) => error instanceof EfError);
    expect(
      readdirSync(at.home)
        .filter((name) => !name.startsWith("."))
        .sort(),
    ).toEqual(["code.py", "package"]);
  });

  test("tar archives: nothing outside is touched", async () => {
    using at = new Place();
    const archive = rawTar([
      { name: "bin/", flag: "5" },
      { name: "bin/python", content: "#!/bin/sh\n", mode: 0o755 },
      { name: "bin/python3", flag: "2", link: "python" },
      { name: "bin/hard", flag: "1", link: "bin/python" },
      {
        name: "pax",
        flag: "x",
        content: paxRecord("path", "a/long ü\nname") + paxRecord("mtime", "1700000000.123456789"),
      },
      { name: "short", content: "x".repeat(700) },
    ]);
    at.archive(archive);
    const outside = at.outside();
    const use = async (bytes: Buffer) => {
      at.archive(bytes);
      rmSync(at.out, { recursive: true, force: true });
      mkdirSync(at.out, { recursive: true });
      await unpack(at.file, at.out);
    };
    await fuzz([archive], use, (error) => error instanceof EfError, isLong ? rounds : 150);
    expect(at.outside()).toEqual(outside);
  });

  test("frames of ef stage", async () => {
    const frames = Buffer.concat([
      frame("table", Buffer.from("a table")),
      frame("data", Buffer.alloc(5000, 7)),
      frame("end", Buffer.alloc(0)),
    ]);
    const use = async (bytes: Buffer) => {
      const reader = new FrameReader();
      reader.feed(bytes);
      for (let next = reader.next(); next; next = reader.next()) await contentOf(next);
    };
    await fuzz([frames], use, (error) => error instanceof BrokenFrame);
  });
});
