/** What a build as somebody who is not root needs of a node: root inside of a user namespace. */
import { promises } from "node:fs";
import { join } from "node:path";
import { run } from "../base/exec.ts";
import { type Finding, ok, warn } from "../engine/finding.ts";

/** What the kernel and the administrator allow; undefined where the node does not tell. */
export interface Privileges {
  isRoot: boolean;
  user: string;
  uid: number;
  /** `user.max_user_namespaces` */
  maxNamespaces: number | undefined;
  /** `kernel.unprivileged_userns_clone`, of Debian's kernels */
  unprivileged: number | undefined;
  /** `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu's */
  appArmor: number | undefined;
  /** Has the user a line in /etc/subuid? */
  hasSubuids: boolean;
}

/**
 * @param root directory that has `proc` and `etc`
 * @param account @default whose process this is
 */
export async function privileges(root = "/", account?: { username: string; uid: number }): Promise<Privileges> {
  const { username: user, uid } = account ?? (await ownAccount());
  const text = (path: string) => promises.readFile(join(root, path), "utf8").catch(() => undefined);
  const number = async (path: string) => {
    const value = Number.parseInt((await text(`proc/sys/${path}`)) ?? "", 10);
    return Number.isNaN(value) ? undefined : value;
  };
  const subuids = ((await text("etc/subuid")) ?? "").split("\n");
  return {
    isRoot: uid === 0,
    ...{ user, uid },
    maxNamespaces: await number("user/max_user_namespaces"),
    unprivileged: await number("kernel/unprivileged_userns_clone"),
    appArmor: await number("kernel/apparmor_restrict_unprivileged_userns"),
    hasSubuids: subuids.some((line) => line.startsWith(`${user}:`) || line.startsWith(`${uid}:`)),
  };
}

/** As the system has it: Bun's `userInfo` takes the name from `$USER`, which `su` and services leave as it was, or unset. */
async function ownAccount(): Promise<{ username: string; uid: number }> {
  const uid = process.geteuid?.() ?? 0;
  const { stdout } = await run(["id", "-un"]).catch(() => ({ stdout: "" }));
  return { uid, username: stdout.trim() || String(uid) };
}

/**
 * In words. A warning at most: an apptainer that is installed setuid builds without user namespaces.
 *
 * @see https://apptainer.org/docs/admin/1.4/user_namespace.html
 */
export function buildsFinding(facts: Privileges, wantsFakeroot: boolean): Finding {
  const { isRoot, user, maxNamespaces, unprivileged, appArmor, hasSubuids } = facts;
  if (isRoot) return ok("this is root, which needs no user namespace");
  const only = "images can be built here only if apptainer is installed setuid, or root builds them";
  const fix = "build on another node or machine, or ask your site to allow user namespaces; images run all the same";
  const off = (what: string) => warn(`user namespaces are switched off (${what}): ${only}`, fix);
  if (maxNamespaces === 0) return off("user.max_user_namespaces is 0");
  if (unprivileged === 0) return off("kernel.unprivileged_userns_clone is 0");
  const lines = hasSubuids ? `${user} has a line in /etc/subuid` : `no line for ${user} in /etc/subuid`;
  if (appArmor !== undefined && appArmor > 0) {
    return warn(
      "AppArmor gives user namespaces to programs with a profile only (kernel.apparmor_restrict_unprivileged_userns)",
      `builds work where apptainer has such a profile, as its package for Ubuntu brings it; ${lines}`,
    );
  }
  const allowed = maxNamespaces === undefined ? "user namespaces: unknown" : "user namespaces are allowed";
  const less =
    !hasSubuids && wantsFakeroot
      ? ": --fakeroot then maps no other user, and a local base image with files of several owners does not unpack"
      : "";
  return ok(`${allowed}; ${lines}${less}`);
}

/**
 * Why a build as somebody who is not root may fail on this node, and what to do; undefined where nothing speaks against it.
 *
 * Without a range of ids, apptainer 1.1 and later make all files of a registry's image the user's own, `--fakeroot` or not;
 * from a local image they take them with their owners, and fail where those are not root alone.
 *
 * @param isLocal is the base image a local one?
 */
export async function fakerootProblem(isLocal: boolean): Promise<string | undefined> {
  const facts = await privileges();
  const { state, found, fix } = buildsFinding(facts, true);
  if (state !== "ok") return fix === undefined ? found : `${found}; ${fix}`;
  if (facts.isRoot || facts.hasSubuids || !isLocal) return undefined;
  return `no line for ${facts.user} in /etc/subuid, so files of a local base image can have no owner but you; build on an image of a registry (docker://…), or ask your site for a range in /etc/subuid and /etc/subgid`;
}
