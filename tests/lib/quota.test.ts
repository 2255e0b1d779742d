import { expect, test } from "bun:test";
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Mount } from "../../lib/drivers/filesystem.ts";
import {
  parseLfsProject,
  parseLfsQuota,
  parseLquota,
  parseQuota,
  type QuotaLeft,
  type QuotaOptions,
  quotas,
} from "../../lib/drivers/quota.ts";
import { Space } from "../../lib/engine/space.ts";
import { Home, until } from "../helpers.ts";

const fakes = resolve(import.meta.dir, "../fakes/quota");
const kib = 1024;
const gib = 1024 ** 3;

/** What is left, used and limited: [bytes, inodes], [bytes, inodes], [bytes, inodes]. */
const numbers = (quota: QuotaLeft | undefined) =>
  quota && [
    [quota.bytes, quota.inodes],
    [quota.usedBytes, quota.usedInodes],
    [quota.limitBytes, quota.limitInodes],
  ];

test.each([
  // What users' pages show of lfs quota, with and without -q, -h and names that need a line of their own.
  [
    "no limits",
    "     /lustre      1840       0       0       -      23       0       0       -",
    [
      [undefined, undefined],
      [1840 * kib, 23],
      [undefined, undefined],
    ],
  ],
  [
    "hard limits, default settings",
    `Disk quotas for usr anna (uid 1000):
     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace
        /lustre7 982177580       0 1000000000       - 4432       0    5000       -
uid 1000 is using default block quota setting
uid 1000 is using default file quota setting
`,
    [
      [17822420 * kib, 568],
      [982177580 * kib, 4432],
      [1000000000 * kib, 5000],
    ],
  ],
  [
    "soft and hard: the hard one counts",
    "       /scratch    1000    2000    3000       -       1      10      20       -",
    [
      [2000 * kib, 19],
      [1000 * kib, 1],
      [3000 * kib, 20],
    ],
  ],
  [
    "only soft",
    "       /scratch    1000    3000       0       -       1      10       0       -",
    [
      [2000 * kib, 9],
      [1000 * kib, 1],
      [3000 * kib, 10],
    ],
  ],
  [
    "past the soft limit, within the grace period",
    "/projects/csc000 3165308*   3072 4194304 6d23h59m59s      48  1073741824 2147483648       -",
    [
      [(4194304 - 3165308) * kib, 2147483600],
      [3165308 * kib, 48],
      [4194304 * kib, 2147483648],
    ],
  ],
  [
    "past the soft limit, the grace period over",
    "       /scratch    2500*   2000    3000    none      15*     10      20 expired",
    [
      [0, 0],
      [2500 * kib, 15],
      [3000 * kib, 20],
    ],
  ],
  [
    "hard limit reached",
    "       /scratch    3000*   2000    3000       -      21*     10      20       -",
    [
      [0, 0],
      [3000 * kib, 21],
      [3000 * kib, 20],
    ],
  ],
  [
    "a long mount point",
    "/a/very long/mount point/of lustre\n               8       0    1000       -       2       0       0       -\n",
    [
      [992 * kib, undefined],
      [8 * kib, 2],
      [1000 * kib, undefined],
    ],
  ],
  [
    "not told by all servers",
    `      /lustre01 [1048576] 2097152 4194304       - [1000] 5000 [10000]       -
Some errors happened when getting quota info. Some devices may be not working or deactivated. The data in "[]" is inaccurate.
`,
    [
      [3 * gib, 9000],
      [gib, 1000],
      [4 * gib, 10000],
    ],
  ],
  [
    "with -h, and the titles of Lustre 2.16",
    `Disk quotas for prj 100010 (pid 100010):
Filesystem    used   bquota  blimit  bgrace   files   iquota  ilimit  igrace
     /home    2.5G       0k     50G       -     511        0 1000000       -
`,
    [
      [47.5 * gib, 999489],
      [2.5 * gib, 511],
      [50 * gib, 1000000],
    ],
  ],
  ["nothing", "", undefined],
  ["titles only", "     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace\n", undefined],
  ["an error", "usr quotas are not enabled.", undefined],
])("lfs quota: %s", (_, text, expected) => {
  const found = parseLfsQuota(text, "user");
  expect(numbers(found)).toEqual(expected as never);
  if (found) expect(found).toMatchObject({ tool: "lfs quota", scope: "user" });
});

test.each([
  ["110255 P /projects/csc000\n", 110255],
  ["    7 P /a b", 7],
  ["    7 - /a", undefined], // its new files do not get the project
  ["    0 P /a", undefined],
  ["lfs project: '/a' not on a Lustre filesystem", undefined],
  ["", undefined],
])("lfs project: %j is %p", (text, expected) => {
  expect(parseLfsProject(text)).toBe(expected);
});

test("quota: user and groups, one mount only, the end of the grace period", () => {
  const text = `Disk quotas for user anna (uid 1000): 
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
          /home 14684160  16777216 20971520       0  160000       0       0       0
     /home/data    2500*   2000    3000 1700000000      15*     10      20 1700000100
 /with space/x       1       2       3       0       4       5       6       0
Disk quotas for group staff (gid 50): none
Disk quotas for group lab (gid 60): 
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
          /home       0       0       0       0       0     100       0       0
`;
  const at = (mount: string, nowS = 1_700_000_050) => parseQuota(text, mount, nowS);
  expect(at("/home").map(({ scope }) => scope)).toEqual(["user", "group"]);
  expect(numbers(at("/home")[0])).toEqual([
    [(20971520 - 14684160) * kib, undefined],
    [14684160 * kib, 160000],
    [20971520 * kib, undefined],
  ]);
  expect(numbers(at("/home")[1])?.[0]).toEqual([undefined, 100]);
  expect(numbers(at("/home/data")[0])?.[0]).toEqual([0, 5]); // of the space it is over, of the files not yet
  expect(numbers(at("/home/data", 1_600_000_000)[0])?.[0]).toEqual([500 * kib, 5]);
  expect(numbers(at("/with space/x")[0])?.[0]).toEqual([2 * kib, 2]);
  expect(at("/")).toEqual([]);
  expect(at("/data")).toEqual([]);
});

test("quota: tables of other programs of that name are none", () => {
  const unibe = "HOME                :        420( 41%),       1024 |      773425( 77%),    1000000\n";
  expect(parseQuota(unibe, "HOME")).toEqual([]);
});

test("lquota: the table of its page, in decimal and binary units and in bytes", () => {
  const table = `+-----------------------------+-------------+------------------+------------------+------------------+
| Storage location:           | Quota type: | Used:            | Soft quota:      | Hard quota:      |
+-----------------------------+-------------+------------------+------------------+------------------+
| /cluster/home/sfux          | space       |          8.85 GB |         17.18 GB |         21.47 GB |
| /cluster/home/sfux          | files       |            25610 |           160000 |           200000 |
+-----------------------------+-------------+------------------+------------------+------------------+
| /cluster/work/lab           | space       |         1.50 TiB |         2.00 TiB |         2.00 TiB |
| /cluster/work/lab           | files       |                - |                - |                - |
| /cluster/scratch/sfux       | space       |    237570        |   2500000000000 B |   2700000000000 |
| /cluster/scratch/sfux       | files       |               29 |          1000000 |          1500000 |
| /cluster/odd                | space       |     3 bananas    |                1 |                1 |
+-----------------------------+-------------+------------------+------------------+------------------+
`;
  const found = parseLquota(table);
  expect(found.map(({ location, scope, tool }) => [location, scope, tool])).toEqual([
    ["/cluster/home/sfux", "user", "lquota"],
    ["/cluster/work/lab", "group", "lquota"],
    ["/cluster/scratch/sfux", "user", "lquota"],
  ]);
  expect(found.map((quota) => numbers(quota)?.[0])).toEqual([
    [12_620_000_000, 174_390],
    [0.5 * 1024 ** 4, undefined],
    [2_699_999_762_430, 1_499_971],
  ]);
});

/** A directory with a quota, told by the fakes. */
function quotaHome(type: string, limits: string) {
  const at = new Home({ "../scratch/first": "x".repeat(100_000) });
  const file = join(at.dir, "limits");
  writeFileSync(file, limits);
  const mounts: Mount[] = [{ point: at.scratch, type, source: "s:/s", options: [] }];
  const env = { PATH: `${fakes}:/usr/bin:/bin`, EF_FAKE_QUOTA: file, EF_FAKE_QUOTA_DIR: at.scratch };
  const problems: string[] = [];
  const ask = (options: QuotaOptions = {}, path = join(at.scratch, "new/dir")) =>
    quotas(path, { mounts, env, onProblem: (text) => problems.push(text), ...options });
  return { at, ask, env, problems, [Symbol.dispose]: () => at[Symbol.dispose]() };
}

const me = process.geteuid?.() ?? 0;
const myGroup = process.getegid?.() ?? 0;

test("quotas: on Lustre those of user, group and project, and what is written is taken off", async () => {
  using home = quotaHome(
    "lustre",
    `user ${me} 0 1000 0 10 9\ngroup ${myGroup} 500 0 0 0 9\nproject 7 0 0 0 5 9\nproject-of SCRATCH 7\n`,
  );
  const file = home.env.EF_FAKE_QUOTA;
  writeFileSync(file, readFileSync(file, "utf8").replace("SCRATCH", home.at.scratch));
  const first = (await home.ask()).filter(({ tool }) => tool === "lfs quota");
  expect(home.problems).toEqual([]);
  expect(first.map(({ scope, limitBytes, limitInodes }) => [scope, limitBytes, limitInodes])).toEqual([
    ["user", 1000 * kib, 10],
    ["group", 500 * kib, undefined],
    ["project", undefined, 5],
  ]);
  expect(first.map(({ inodes }) => inodes)).toEqual([8, undefined, 3]); // the directory and a file are there
  writeFileSync(join(home.at.scratch, "second"), "y".repeat(200_000));
  const second = (await home.ask()).filter(({ tool }) => tool === "lfs quota");
  expect(second.map(({ inodes }) => inodes)).toEqual([7, undefined, 2]);
  expect((first[0]?.bytes ?? 0) - (second[0]?.bytes ?? 0)).toBeGreaterThanOrEqual(200_000);
  expect(second[0]?.bytes).toBe(1000 * kib - (second[0]?.usedBytes ?? 0));
});

test.each(["lustre", "xfs"])("quotas: on %s nothing is left once the grace period is over", async (type) => {
  using home = quotaHome(type, `user ${me} 10 1000 0 0 0\n`);
  const [first] = (await home.ask()).filter(({ tool }) => tool !== "lquota");
  expect(first).toMatchObject({ scope: "user", bytes: 0, limitBytes: 1000 * kib });
  writeFileSync(home.env.EF_FAKE_QUOTA, `user ${me} 10 1000 0 0 500\n`);
  for (const kind of ["b", "i"]) await home.at.sh("sh", `rm -f '${home.env.EF_FAKE_QUOTA}.user.${me}.${kind}'`);
  const [second] = (await home.ask()).filter(({ tool }) => tool !== "lquota");
  expect(second?.bytes).toBeGreaterThan(800 * kib);
  expect(home.problems).toEqual([]);
});

test("quotas: the Linux tools on NFS, lquota everywhere, each for this mount only", async () => {
  using home = quotaHome("nfs4", `user ${me} 0 1000 0 10 9\ngroup ${myGroup} 0 2000 0 0 9\n`);
  const found = await home.ask();
  expect(found.map(({ tool, scope, limitBytes }) => [tool, scope, limitBytes])).toEqual([
    ["quota", "user", 1000 * kib],
    ["quota", "group", 2000 * kib],
    ["lquota", "user", 1000 * kib],
  ]);
  expect(await home.ask({}, home.at.home)).toEqual([]); // another file system
});

test.skipIf(me !== 0)("quotas: a set-group-id directory's group is the one that counts [needs root]", async () => {
  using home = quotaHome("lustre", "group 4321 0 1000 0 0 9\n");
  expect((await home.ask()).filter(({ scope }) => scope === "group")).toEqual([]);
  chownSync(home.at.scratch, me, 4321);
  chmodSync(home.at.scratch, 0o2775);
  expect((await home.ask()).find(({ scope }) => scope === "group")).toMatchObject({ limitBytes: 1000 * kib });
});

test("quotas: no tool, no quota, no limits: nothing, and no problem", async () => {
  using home = quotaHome("lustre", "");
  expect(await home.ask()).toEqual([]);
  expect(await home.ask({ env: { ...home.env, PATH: "/nonexistent" } })).toEqual([]);
  expect(await home.ask({ mounts: [] })).toEqual([]);
  writeFileSync(home.env.EF_FAKE_QUOTA, `user ${me} 0 0 0 0 0\n`);
  expect(await home.ask()).toEqual([]);
  symlinkSync("loop", join(home.at.scratch, "loop"));
  expect(await home.ask({}, join(home.at.scratch, "loop/x"))).toEqual([]);
  expect(home.problems.filter((text) => !text.startsWith("lquota"))).toEqual([]);
});

test("quotas: a tool that hangs and ignores SIGTERM is given up, killed, and said so once", async () => {
  using home = quotaHome("lustre", `user ${me} 0 1000 0 0 9\n`);
  const pids = join(home.at.dir, "pids");
  const started = performance.now();
  expect(await home.ask({ timeoutS: 1.5, env: { ...home.env, EF_FAKE_QUOTA_HANG: pids } })).toEqual([]);
  expect(performance.now() - started).toBeLessThan(10_000);
  expect(home.problems.sort()).toEqual([
    "lfs project: no answer within 1.5 s",
    "lfs quota: no answer within 1.5 s",
    "lquota: no answer within 1.5 s",
  ]);
  await until("the end of them", () =>
    readFileSync(pids, "utf8")
      .trim()
      .split("\n")
      .every((pid) => !existsSync(`/proc/${pid}`) || /State:\s+Z/.test(readFileSync(`/proc/${pid}/status`, "utf8"))),
  );
});

test("quotas: a signal ends it with its reason", async () => {
  using home = quotaHome("lustre", `user ${me} 0 1000 0 0 9\n`);
  const pids = join(home.at.dir, "pids");
  const stop = new AbortController();
  const asked = home.ask({ signal: stop.signal, env: { ...home.env, EF_FAKE_QUOTA_HANG: pids } });
  await until("a tool to run", () => existsSync(pids));
  const reason = new Error("enough");
  stop.abort(reason);
  await expect(asked).rejects.toBe(reason);
  await expect(home.ask({ signal: stop.signal })).rejects.toBe(reason);
  expect(home.problems).toEqual([]);
});

test.each([
  ["prints rubbish", "#!/bin/sh\necho Retrieving data ...\n", /lfs quota gave no answer .*: Retrieving data/],
  ["fails", "#!/bin/sh\necho 'cannot resolve path' >&2; exit 2\n", /lfs quota gave no answer .*exit code 2.*cannot/],
  ["is no program", "\0\x01\x02", /lfs (quota|project) (cannot be started|gave no answer)/],
  ["closes its output", "#!/bin/sh\nexec >&- 2>&-; exit 0\n", /lfs quota gave no answer .*exit code 0/],
])("quotas: an lfs that %s is a problem, no error", async (_, script, problem) => {
  using home = quotaHome("lustre", "");
  const bin = join(home.at.dir, "broken");
  mkdirSync(bin);
  writeFileSync(join(bin, "lfs"), script);
  chmodSync(join(bin, "lfs"), 0o755);
  expect(await home.ask({ env: { ...home.env, PATH: `${bin}:/usr/bin:/bin` } })).toEqual([]);
  expect(home.problems[0]).toMatch(problem);
});

const quota = (more: Partial<QuotaLeft>): QuotaLeft => ({
  tool: "lfs quota",
  scope: "user",
  bytes: undefined,
  inodes: undefined,
  usedBytes: undefined,
  limitBytes: undefined,
  usedInodes: undefined,
  limitInodes: undefined,
  ...more,
});

test("space: the tightest of the file system and all quotas counts, and the error names it", () => {
  using at = new Home();
  const space = new Space();
  const list = [
    quota({ bytes: 3000, usedBytes: 7000, limitBytes: 10_000 }),
    quota({ scope: "project", tool: "lquota", bytes: 9000, inodes: 5, usedInodes: 95, limitInodes: 100 }),
  ];
  const reserve = (bytes: number, inodes: number) => space.reserve("A", at.scratch, { bytes, inodes }, list);
  expect(() => reserve(3001, 1)).toThrow(
    `Cannot copy A to ${at.scratch}: it needs 3.0K, 3.0K left there by the user's quota (lfs quota: 6.9K used of 9.8K)`,
  );
  expect(() => reserve(100, 6)).toThrow(
    "it needs 6 inodes, 5 left there by the project's quota (lquota: 95 used of 100)",
  );
  expect(() => reserve(1e18, 0)).toThrow("by the user's quota");
  expect(() => space.reserve("A", at.scratch, { bytes: 1e18, inodes: 1 })).toThrow(/left there by the file system$/);
  reserve(3000, 5)[Symbol.dispose]();
});

test("space: what is promised and what was written since counts against a quota too", () => {
  using at = new Home();
  const space = new Space();
  const list = [quota({ bytes: 3000, usedBytes: 0, limitBytes: 3000 })];
  const reserve = (name: string, bytes: number, of = list) => space.reserve(name, at.scratch, { bytes, inodes: 1 }, of);
  using first = reserve("A", 2000);
  expect(() => reserve("B", 2000)).toThrow(
    "it needs 2.0K, 1000 B left there by the user's quota (lfs quota: 0 B used of 3.0K), 2.0K more promised to other variables",
  );
  first.used(1500, 1); // written: no longer promised, but the quota was asked for before
  expect(() => reserve("B", 1001)).toThrow("1000 B left");
  reserve("B", 1000)[Symbol.dispose]();
  // Asked for again, the quota knows of what was written.
  reserve("B", 1000, [quota({ bytes: 1500 })])[Symbol.dispose]();
  first[Symbol.dispose]();
  reserve("B", 1500)[Symbol.dispose]();
});

test("space: over its quota, a variable that needs nothing may go on", () => {
  using at = new Home();
  const over = [quota({ bytes: 0, inodes: 0, usedBytes: 5, limitBytes: 3 })];
  new Space().reserve("A", at.scratch, { bytes: 0, inodes: 0 }, over)[Symbol.dispose]();
  expect(() => new Space().reserve("A", at.scratch, { bytes: 1, inodes: 0 }, over)).toThrow("needs 1 B, 0 B left");
});
