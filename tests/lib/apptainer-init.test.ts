/** What ef apptainer init proposes and refuses. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  apptainerInput,
  baseImageProblem,
  directoryProblem,
  filledSection,
  isOnScratch,
  proposal,
  sameProblem,
  withSection,
} from "../../lib/apptainer-init.ts";
import { EfError } from "../../lib/base/errors.ts";
import type { Config } from "../../lib/config/schema.ts";
import { checkConfig } from "../../lib/config/store.ts";
import { assertContainerPath, containerPathProblem } from "../../lib/images/container-path.ts";
import { buildsFinding, type Privileges, privileges } from "../../lib/images/privileges.ts";

const config = (more: object = {}): Config =>
  checkConfig({ version: 1, scratch_base: "$SCRATCH", ...more }, "the configuration");
const env = { HOME: "/nowhere/anna", SCRATCH: "/nowhere/scratch" };

describe("the path in the image", () => {
  test.each(["/opt/venv", "/opt/venv/", "/venv", '/srv/a b/"x"', "/opt/my-$HOME", "/usr/local/venvs/x", "/opt/..data"])(
    "%p will do",
    (path) => {
      expect(() => assertContainerPath(path, "it")).not.toThrow();
    },
  );

  test.each([
    ["", "absolute"],
    ["opt/venv", "absolute"],
    ["~/venv", "absolute"],
    ["/", "of the system"],
    ["///", "of the system"],
    ["/usr/", "of the system"],
    ["//usr", "of the system"],
    ["/./usr/.", "of the system"],
    ...["/etc", "/bin", "/lib", "/tmp", "/home", "/root", "/proc", "/sys", "/dev", "/var", "/opt", "/usr/local"].map(
      (path) => [path, "of the system"],
    ),
    ["/usr/local/bin", "of the system"],
    ["/tmp/venv", "of the node"],
    ["/home/anna/venv", "of the node"],
    ["/proc/x", "of the node"],
    ["/opt/../usr", ".."],
    ["/opt/a:b", "PATH"],
    ["/opt/it's", "Apptainer adds"],
    ["/opt/a\nb", "control"],
    ["/opt/a\u0000b", "control"],
    ["/opt/\uFFFD", "UTF-8"],
    ["/opt/{{ x }}", "{{"],
  ])("%p will not", (path, why) => {
    expect(containerPathProblem(path)).toContain(why);
    try {
      assertContainerPath(path, "apptainer.container_venv_path");
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(EfError);
      expect(error).toMatchObject({ code: "CONFIG_INVALID", exit: 2 });
      expect((error as Error).message).toContain("apptainer.container_venv_path");
    }
  });
});

test.each([
  ["python:{version}-slim", undefined],
  ["docker://ghcr.io/a/b:{full_version}", undefined],
  ["oras://a/b", undefined],
  ["library://a/b/c:1", undefined],
  ["oci-archive:/a/b.tar", undefined],
  ["docker-archive:$PROJECT/b.tar", undefined],
  ["~/base.sif", undefined],
  ["/sandboxes/base", undefined],
  ["", "name of an image"],
  ["base.sif", "absolute"],
  ["http://a/b", "nothing is known of http://"],
  ["python:{verson}", "{verson}"],
  ["python\n%post rm", "name of an image"],
])("base image %p: %p", (text, why) => {
  if (why === undefined) expect(baseImageProblem(text, env)).toBeUndefined();
  else expect(baseImageProblem(text, env)).toContain(why);
});

test.each([
  ["/a", undefined],
  ["~/venvs", undefined],
  ["$PROJECT/venvs", undefined],
  ["venvs", "absolute"],
  ["", "absolute"],
  ["/", "below the root"],
  ["/a\nb", "control"],
  ["/a\uFFFD", "UTF-8"],
])("a directory %p: %p", (text, why) => {
  if (why === undefined) expect(directoryProblem(text)).toBeUndefined();
  else expect(directoryProblem(text)).toContain(why);
});

test("the store is not on scratch, whatever it is called there", () => {
  const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef init "));
  try {
    mkdirSync(join(dir, "scratch"));
    mkdirSync(join(dir, "home"));
    symlinkSync(join(dir, "scratch"), join(dir, "home/fast"));
    const here = { HOME: join(dir, "home"), SCRATCH: join(dir, "scratch") };
    for (const text of ["$SCRATCH", "$SCRATCH/sif", "${SCRATCH}/sif", "~/fast/sif", join(dir, "scratch/x")])
      expect([text, isOnScratch(text, config(), here)]).toEqual([text, true]);
    for (const text of ["~/sif", "/project/sif", `${dir}/scratch2`])
      expect([text, isOnScratch(text, config(), here)]).toEqual([text, false]);
    expect(isOnScratch("${SCRATCH}/sif", config(), { HOME: here.HOME })).toBe(true); // not set on this node
    expect(isOnScratch("$PROJECT/sif", config(), { HOME: here.HOME })).toBe(false);
    expect(isOnScratch("~/sif", config(), { HOME: join(dir, "scratch/anna"), SCRATCH: here.SCRATCH })).toBe(false);
    expect(sameProblem("$SCRATCH/sif", "~/fast/sif/", here)).toContain("sif_store");
    expect(sameProblem("$SCRATCH/sif", "${SCRATCH}/sif", {})).toContain("sif_store");
    expect(sameProblem("~/sif", "$SCRATCH/sif", here)).toBeUndefined();
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("the proposal: as written, from what is there, without --fakeroot for root", () => {
  const first = proposal(config({ cache_root: "caches" }), env, false);
  expect(first).toEqual({
    venv_base: "~/venvs",
    sif_store: "~/.cache/euler-files/sif",
    scratch_sif_dir: "$SCRATCH/caches/sif",
    base_image: "python:{version}-slim",
    container_venv_path: "/opt/venv",
    build_args: ["--fakeroot"],
  });
  expect(proposal(config(), env, true).build_args).toEqual([]);
  expect(proposal(config(), { ...env, VENV_DIR: "/v" }, false).venv_base).toBe("$VENV_DIR");
  const old = { venv_base: "/v", base_image: "x", build_args: ["--fakeroot", "--nv"] };
  expect(proposal(config({ apptainer: old }), env, true)).toMatchObject(old);
});

test("images and keys of other versions survive; an input may be wrapped", () => {
  const images = { a: { venv_name: "a", python_version: "3.11.2", sif_filename: "a.sif" } };
  const raw = { version: 1, scratch_base: "/s", other: 1, apptainer: { venv_base: "/old", newer: { x: 1 }, images } };
  const next = withSection(raw, { venv_base: "/new" });
  expect(next).toEqual({
    ...raw,
    apptainer: { ...filledSection({ venv_base: "/new" }), newer: { x: 1 }, images },
  });
  expect(withSection(raw, { images: {} }).apptainer).toMatchObject({ venv_base: "", images: {} });
  expect(apptainerInput({ apptainer: { venv_base: "/x" } })).toEqual({ venv_base: "/x" });
  expect(apptainerInput({})).toEqual({});
});

describe("doctor: can images be built here", () => {
  const facts: Privileges = {
    ...{ isRoot: false, user: "anna", uid: 1000, hasSubuids: true },
    ...{ maxNamespaces: 100, unprivileged: undefined, appArmor: undefined },
  };

  test.each([
    [{}, "ok", "anna has a line in /etc/subuid"],
    [{ hasSubuids: false }, "ok", "no line for anna in /etc/subuid: --fakeroot then maps no other user"],
    [{ hasSubuids: false, wantsFakeroot: false }, "ok", "no line for anna in /etc/subuid"],
    [{ maxNamespaces: 0 }, "warn", "user.max_user_namespaces is 0"],
    [{ unprivileged: 0 }, "warn", "kernel.unprivileged_userns_clone is 0"],
    [{ unprivileged: 1, appArmor: 0 }, "ok", "are allowed"],
    [{ appArmor: 1 }, "warn", "AppArmor"],
    [{ isRoot: true, maxNamespaces: 0 }, "ok", "root"],
    [{ maxNamespaces: undefined }, "ok", "unknown"],
  ] as const)("%j: %s %s", (change, state, found) => {
    const { wantsFakeroot = true, ...more }: Partial<Privileges> & { wantsFakeroot?: boolean } = change;
    const finding = buildsFinding({ ...facts, ...more }, wantsFakeroot);
    expect(finding.state).toBe(state);
    expect(finding.found).toContain(found);
    expect(finding.fix === undefined).toBe(state === "ok");
  });

  test("whose process it is comes from the system, not from $USER", () => {
    const code = `import { privileges } from ${JSON.stringify(join(import.meta.dir, "../../lib/images/privileges.ts"))};
      console.log((await privileges()).user);`;
    const env = { PATH: "/usr/bin:/bin", USER: "somebody" };
    const said = Bun.spawnSync([process.execPath, "-e", code], { env });
    expect(said.stdout.toString()).toBe(Bun.spawnSync(["id", "-un"]).stdout.toString());
  });

  test("the facts come from the node", async () => {
    const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef facts "));
    try {
      mkdirSync(join(dir, "proc/sys/user"), { recursive: true });
      mkdirSync(join(dir, "etc"));
      writeFileSync(join(dir, "proc/sys/user/max_user_namespaces"), "0\n");
      writeFileSync(join(dir, "etc/subuid"), "ann:1:2\n1000:100000:65536\n");
      const found = await privileges(dir, { username: "anna", uid: 1000 });
      expect(found).toMatchObject({ maxNamespaces: 0, unprivileged: undefined, hasSubuids: true, isRoot: false });
      expect((await privileges(dir, { username: "an", uid: 7 })).hasSubuids).toBe(false);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
