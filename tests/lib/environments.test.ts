/** What is told of an environment without starting it: packages, what they need, whether a node can run them. */
import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cpuLevel, isOlder, type Node, thisNode } from "../../lib/drivers/node.ts";
import { judge } from "../../lib/envs/describe.ts";
import { belongs } from "../../lib/envs/links.ts";
import { leastGlibc, needsOf, packagesOf } from "../../lib/envs/packages.ts";
import { haveUv, makeEnv } from "../envs.ts";
import { Home, run } from "../helpers.ts";

test("this node: its glibc is that of getconf", async () => {
  const { stdout } = await run(["getconf", "GNU_LIBC_VERSION"], { env: { PATH: process.env.PATH } });
  const machine = (await run(["uname", "-m"], { env: { PATH: process.env.PATH } })).stdout.trim();
  const node = await thisNode();
  expect(`glibc ${node.glibc}`).toBe(stdout.trim());
  expect(node.platform).toBe(`linux-${machine}`);
});

test.each([
  ["fpu lm sse2", "x86-64-v1"],
  ["lm sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx", "x86-64-v2"],
  ["lm sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", "x86-64-v3"],
  ["avx avx2", undefined],
])("processor with %s: %s", (flags, level) => {
  expect(cpuLevel(`processor\t: 0\nflags\t\t: ${flags}\nbugs\t\t: none\n`)).toBe(level as never);
});

test.each([
  ["2.9", "2.17", true],
  ["2.17", "2.17", false],
  ["2.36", "2.17", false],
  ["2.17", "3", true],
])("is glibc %s older than %s: %s", (a, b, older) => expect(isOlder(a, b)).toBe(older));

test.each([
  [["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_28_x86_64"], "2.17"],
  [["cp36-abi3-manylinux2010_x86_64"], "2.12"],
  [["cp311-cp311-manylinux1_x86_64", "cp311-cp311-manylinux_2_5_x86_64"], "2.5"],
  [["py3-none-any"], undefined],
  [["cp311-cp311-linux_x86_64"], undefined],
])("least glibc of %p: %s", (tags, least) => expect(leastGlibc(tags)).toBe(least as never));

test("packages by their metadata, whatever their names", () => {
  using at = new Home();
  const site = join(at.dir, "lib/python3.11/site-packages");
  for (const name of [
    "stack_data-0.6.3.dist-info",
    "Old_One-1.0-py3.11.egg-info",
    "six.py",
    "plain",
    "numpy-2.4.6.dist-info",
  ])
    mkdirSync(join(site, name), { recursive: true });
  writeFileSync(
    join(site, "numpy-2.4.6.dist-info/WHEEL"),
    "Tag: cp311-cp311-manylinux_2_27_x86_64\nTag: cp311-cp311-manylinux_2_28_x86_64\n",
  );
  writeFileSync(join(site, "stack_data-0.6.3.dist-info/WHEEL"), "Tag: cp311-cp311-linux_x86_64\n");
  expect(packagesOf(at.dir)).toEqual(["numpy==2.4.6", "old-one==1.0", "stack-data==0.6.3"]);
  expect(needsOf(at.dir)).toEqual({ glibc: "2.27", built: ["stack-data==0.6.3"] });
  expect(packagesOf(join(at.dir, "nothing"))).toEqual([]);
});

test.skipIf(!haveUv)("packages are those that uv lists [needs uv]", async () => {
  using at = new Home();
  const dir = await makeEnv(join(at.dir, "env"), ["black", "six"]);
  const { stdout } = await run(
    [
      "python3",
      "-c",
      "import importlib.metadata as m, sys; print(*sorted(f'{d.name}=={d.version}'.lower().replace('_', '-') for d in m.distributions(path=[sys.argv[1]])), sep='\\n')",
      join(
        dir,
        "lib",
        `python${(await run([join(dir, "bin/python"), "-c", "import sys; print('%d.%d' % sys.version_info[:2], end='')"], { env: at.env })).stdout}`,
        "site-packages",
      ),
    ],
    { env: at.env },
  );
  expect(packagesOf(dir).join("\n")).toBe(stdout.trim());
});

const known = {
  ...{ platform: "linux-x86_64", python_version: "3.11.2", base_python: "/usr/bin/python3.11" },
  ...{ glibc: "2.36", needs_glibc: "2.28", cpu: "x86-64-v4", built: [] as string[] },
};
const node: Node = { platform: "linux-x86_64", glibc: "2.34", cpu: "x86-64-v3" };

test.each([
  ["a node as good", known, node, true, "yes", undefined],
  ["another processor family", known, { ...node, platform: "linux-aarch64" }, true, "no", "made for linux-x86_64"],
  ["an older glibc", known, { ...node, glibc: "2.17" }, true, "no", "needs glibc 2.28, here is 2.17"],
  ["musl", known, { ...node, glibc: undefined }, true, "no", "needs glibc 2.28, here is another C library"],
  ["no base Python", known, node, false, "no", "its Python /usr/bin/python3.11 is not here: load it with --python"],
  [
    "built with a newer glibc",
    { ...known, built: ["a==1"] },
    node,
    true,
    "maybe",
    "a==1 was built with glibc 2.36, here is 2.34",
  ],
  [
    "built on a newer processor",
    { ...known, glibc: "2.34", built: ["a==1"] },
    node,
    true,
    "maybe",
    "a==1 was built on x86-64-v4, this is x86-64-v3",
  ],
  ["only Python", { ...known, needs_glibc: null }, { ...node, glibc: undefined }, true, "yes", undefined],
] as const)("can it run: %s", (_, description, here, there, runs, why) => {
  const verdict = judge({ ...description, built: [...description.built] }, here as Node, () => there);
  expect(verdict).toEqual(why === undefined ? { runs } : { runs, why });
});

test.each([
  ["bin/python", "/usr/bin/python3.11", true],
  ["bin/python3.13t", "/opt/py/bin/python3.13t", true],
  ["bin/python", "/usr/bin/../../etc/python", false],
  ["bin/python", "/etc/passwd", false],
  ["bin/pythonx", "/usr/bin/python3", false],
  ["lib/python", "/usr/bin/python3", false],
  ["lib64", "/old/env/lib", true],
  ["lib64", "/old/environment/lib", false],
  ["x", "/old/env/../../etc", false],
])("may the link %s lead to %s: %s", (path, text, may) => expect(belongs(["/old/env"])(path, text)).toBe(may));
