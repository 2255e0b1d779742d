import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { EfError } from "../../lib/base/errors.ts";
import { doctor } from "../../lib/doctor.ts";
import {
  describeMount,
  isInMemory,
  type Mount,
  mountOf,
  nodeLocalLockOption,
  parseMounts,
} from "../../lib/drivers/filesystem.ts";
import { parseLimits } from "../../lib/drivers/limits.ts";
import { onPath } from "../../lib/drivers/programs.ts";
import { withinLimit } from "../../lib/engine/finding.ts";
import { clockSkew, flockTwice, tryWrite, withTempFile } from "../../lib/engine/probe.ts";
import { checkIntegration, checkPath } from "../../lib/engine/shell-setup.ts";
import { have } from "../helpers.ts";

/** A directory with files; those without an extension can be executed. */
function tree(files: Record<string, string> = {}) {
  const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef doctor "));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    writeFileSync(join(dir, path), text);
    if (!path.includes(".")) chmodSync(join(dir, path), 0o755);
  }
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) };
}

const mountinfo = `\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 27 0:40 / /home rw,nosuid shared:7 master:1 - nfs4 nas.site:/home rw,vers=4.2,local_lock=none
32 27 0:41 / /old rw - nfs nas:/old rw,vers=3,nolock,local_lock=all
40 27 0:50 / /scratch rw,nodev - autofs systemd-1 rw,fd=1
41 40 0:51 / /scratch rw,nodev shared:9 - lustre 10.0.0.1@o2ib:10.0.0.2@o2ib:/lfs rw,localflock,lazystatfs
42 27 0:52 / /mnt/a\\040b\\134c rw - tmpfs tmpfs rw,size=4k
43 27 0:53 / /work rw - lustre mds@tcp:/w rw,flock
a line of a kernel to come
`;

describe("mounts", () => {
  const all = parseMounts(mountinfo);
  const at = (path: string) => mountOf(path, all) as Mount;

  test("every line is read, with or without optional fields", () => {
    expect(all.map(({ point, type }) => `${type} ${point}`)).toEqual([
      "ext4 /",
      "nfs4 /home",
      "nfs /old",
      "autofs /scratch",
      "lustre /scratch",
      "tmpfs /mnt/a b\\c",
      "lustre /work",
    ]);
  });

  test.each([
    ["/", "local disk (ext4)"],
    ["/homes/me", "local disk (ext4)"],
    ["/home", "NFS 4 from nas.site:/home"],
    ["/home/me/x", "NFS 4 from nas.site:/home"],
    ["/scratch/me", "Lustre from 10.0.0.1@o2ib:10.0.0.2@o2ib:/lfs"],
    ["/mnt/a b\\c/d", "memory (tmpfs)"],
  ])("%s is on %s", (path, what) => {
    expect(describeMount(at(path))).toBe(what);
  });

  test.each([
    ["/home", undefined],
    ["/old", "nolock"],
    ["/scratch", "localflock"],
    ["/work", undefined],
    ["/", undefined],
  ])("%s keeps locks on the node: %p", (path, option) => {
    expect(nodeLocalLockOption(at(path))).toBe(option as string);
  });

  test("memory is known, and types that nobody has heard of are shown", () => {
    expect(isInMemory(at("/mnt/a b\\c"))).toBeTrue();
    expect(isInMemory(at("/home"))).toBeFalse();
    expect(describeMount({ point: "/", type: "newfs", source: "none", options: [] })).toBe("newfs");
    expect(mountOf("/x", [])).toBeUndefined();
  });
});

test("limits: numbers, and what is unlimited or not told", () => {
  const text = `\
Limit                     Soft Limit           Hard Limit           Units
Max processes             96365                96365                processes
Max open files            1024                 1048576              files
Max address space         unlimited            unlimited            bytes
`;
  expect(parseLimits(text)).toEqual({ openFiles: 1024, processes: 96365, addressSpaceBytes: Infinity });
  expect(parseLimits("").openFiles).toBe(Infinity);
});

describe("withinLimit", () => {
  test("gives the result, or its error", async () => {
    expect(await withinLimit(5, undefined, async () => 1)).toBe(1);
    await expect(withinLimit(5, undefined, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  });

  test("does not wait for what hangs, and tells it to stop", async () => {
    let told: AbortSignal | undefined;
    const hangs = withinLimit(0.05, undefined, (signal) => {
      told = signal;
      return new Promise(() => {});
    });
    expect(await hangs.catch((error: EfError) => [error.code, error.message])).toEqual([
      "IO",
      "no answer within 0.05 s",
    ]);
    expect(told?.aborted).toBeTrue();
  });

  test("throws the reason of the caller's signal", async () => {
    const reason = new EfError("ABORTED", "enough");
    const stop = new AbortController();
    const hangs = withinLimit(60, stop.signal, () => new Promise(() => {}));
    stop.abort(reason);
    expect(await hangs.catch((error) => error)).toBe(reason);
    expect(await withinLimit(60, stop.signal, async () => 1).catch((error) => error)).toBe(reason);
  });
});

describe("probes of storage", () => {
  test("leave nothing behind, also when the use of the file fails", async () => {
    using at = tree();
    await tryWrite(at.dir);
    expect(Math.abs(await clockSkew(at.dir))).toBeLessThan(1);
    const fails = withTempFile(at.dir, async (_, path) => {
      expect(readdirSync(at.dir)).toEqual([path.slice(at.dir.length + 1)]);
      throw new Error("used");
    });
    expect(await fails.catch((error) => error.message)).toBe("used");
    expect(readdirSync(at.dir)).toEqual([]);
  });

  test("say why not", async () => {
    using at = tree({ "file.txt": "" });
    await expect(tryWrite(join(at.dir, "file.txt"))).rejects.toThrow("ENOTDIR");
    await expect(tryWrite(join(at.dir, "none"))).rejects.toThrow("ENOENT");
  });

  test.skipIf(!have("flock"))("a local disk excludes the second process", async () => {
    using at = tree();
    expect(await flockTwice(at.dir)).toBe("held");
    expect(readdirSync(at.dir)).toEqual([]);
  });
});

describe("PATH", () => {
  test("onPath: executable files only, in order, each directory once", async () => {
    using at = tree({ "a/ef": "", "b/ef": "", "c/ef.txt": "" });
    mkdirSync(join(at.dir, "d/ef"), { recursive: true });
    writeFileSync(join(at.dir, "c/ef"), "not executable");
    const PATH = ["b", "d", "c", "none", "a", "b"].map((name) => join(at.dir, name)).join(":");
    expect(await onPath("ef", { PATH: `:.:${PATH}` })).toEqual([join(at.dir, "b/ef"), join(at.dir, "a/ef")]);
    expect(await onPath("ef", {})).toEqual([]);
  });

  test("this ef comes first, by whatever links", async () => {
    using at = tree({ "app/ef": "", "old/ef": "" });
    mkdirSync(join(at.dir, "bin"));
    symlinkSync("../app/ef", join(at.dir, "bin/ef"));
    const dirs = (...names: string[]) => ({ PATH: names.map((name) => join(at.dir, name)).join(":") });
    const program = join(at.dir, "app/ef");
    expect(await checkPath(program, dirs("bin", "old"))).toEqual({
      state: "ok",
      found: `${at.dir}/bin/ef; also ${at.dir}/old/ef`,
    });
    expect((await checkPath(program, dirs("old", "bin"))).found).toBe(
      `ef is ${at.dir}/old/ef, and this is ${program}; also ${at.dir}/bin/ef`,
    );
    expect(await checkPath(program, {})).toEqual({
      state: "warn",
      found: `ef is not on PATH; this is ${program}`,
      fix: `put its directory on PATH: ${at.dir}/app`,
    });
  });
});

describe("the shell function", () => {
  test.each([
    ["/bin/bash", ".bashrc", 'eval "$(ef shell-init --shell bash)"\n'],
    ["/bin/bash", ".bash_profile", 'export A=1\n  eval "$(/opt/ef/bin/ef shell-init --shell bash)"'],
    ["/bin/bash", ".bashrc", "if [ -r '/h/.cache/ef/init.bash' ]; then . '/h/.cache/ef/init.bash'; fi"],
    ["/usr/bin/zsh", ".zshrc", 'eval "$(ef shell-init --shell zsh)" # caches'],
    ["/usr/bin/fish", ".config/fish/config.fish", "ef shell-init --shell fish | source"],
    ["/bin/tcsh", ".cshrc", 'eval "`ef shell-init --shell csh`"'],
  ])("%s: found in %s", async (SHELL, file, text) => {
    using at = tree({ [file]: text });
    expect(await checkIntegration(at.dir, { SHELL, HOME: at.dir })).toEqual({
      state: "ok",
      found: `~/${file} defines it`,
    });
  });

  test("zsh and fish may keep their files elsewhere", async () => {
    using at = tree({ "z/.zshrc": "ef shell-init", "x/fish/config.fish": "ef shell-init" });
    const env = { ZDOTDIR: join(at.dir, "z"), XDG_CONFIG_HOME: join(at.dir, "x") };
    for (const SHELL of ["zsh", "fish"]) expect((await checkIntegration("/none", { ...env, SHELL })).state).toBe("ok");
  });

  test("not found, or commented out: the line to add", async () => {
    using at = tree({ ".bashrc": '# eval "$(ef shell-init --shell bash)"\n' });
    expect(await checkIntegration(at.dir, { SHELL: "/bin/bash", HOME: at.dir })).toEqual({
      state: "warn",
      found: "bash has no function ef: no ef shell-init in ~/.bashrc",
      fix: 'add this line to ~/.bashrc: eval "$(ef shell-init --shell bash)"',
    });
  });

  test.each([undefined, "/bin/sh", "/usr/bin/nu", "constructor"])("SHELL is %p: nothing to set up", async (SHELL) => {
    expect((await checkIntegration("/none", { SHELL })).state).toBe("ok");
  });
});

describe("doctor", () => {
  test("an empty environment is a list of findings, not an error", async () => {
    const checks = await doctor({ env: {} });
    const failed = checks.filter(({ state }) => state === "fail").map(({ name }) => name);
    expect(failed).toEqual(["file", "$SCRATCH"]);
    expect(checks.find(({ name }) => name === "file")?.found).toContain("HOME is not set");
  });

  test("a program that hangs does not hold up the others", async () => {
    using at = tree({ "bin/rsync": "#!/bin/sh\nexec sleep 60\n" });
    const env = { PATH: `${at.dir}/bin:/usr/bin:/bin`, HOME: at.dir, SCRATCH: at.dir };
    const checks = await doctor({ env, limitS: 0.5 });
    expect(checks.find(({ name }) => name === "rsync")).toMatchObject({
      state: "fail",
      found: "no answer within 0.5 s",
    });
    expect(checks.find(({ name }) => name === "tar")?.state).toBe("ok");
  });

  test("it stops when it is told to", async () => {
    const reason = new EfError("ABORTED", "enough");
    expect(await doctor({ env: {}, signal: AbortSignal.abort(reason) }).catch((error) => error)).toBe(reason);
  });
});
