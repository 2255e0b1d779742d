/**
 * What is installed in an environment, as its own metadata tells, without starting its Python.
 *
 * @see https://packaging.python.org/en/latest/specifications/recording-installed-packages/
 * @see https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isOlder } from "../drivers/node.ts";

/** `numpy==2.4.6`, in the order of their names. */
export type Packages = readonly string[];

/** Where packages are, relative to the environment: `lib/python3.11/site-packages`; undefined if it has none. */
export function sitePackages(dir: string): string | undefined {
  const name = namesIn(join(dir, "lib")).find((each) => /^(?:python|pypy)\d+(?:\.\d+)?t?$/.test(each));
  return name === undefined ? undefined : `lib/${name}/site-packages`;
}

/** The packages of an environment. */
export function packagesOf(dir: string): string[] {
  const site = sitePackages(dir);
  if (site === undefined) return [];
  return [...new Set(namesIn(join(dir, site)).flatMap((name) => packageOf(name) ?? []))].sort();
}

/** `stack_data-0.6.3.dist-info`: the parts hold no `-` of their own, as the rules for the name ask. */
function packageOf(name: string): string | undefined {
  const [, project, version] =
    /^([^-\p{Cc}]+)-([^-\p{Cc}]+)(?:-py[\d.]+)?(?:\.dist-info|\.egg-info)$/u.exec(name) ?? [];
  return project === undefined ? undefined : `${project.replaceAll("_", "-").toLowerCase()}==${version}`;
}

/** What the binaries of an environment need of a node. */
export interface Needs {
  /** The least glibc that all wheels run with; undefined if none has binaries for glibc. */
  glibc: string | undefined;
  /** Packages that were built where they were installed: they may need that machine's C library and processor. */
  built: string[];
}

export function needsOf(dir: string): Needs {
  const site = sitePackages(dir);
  const needs: Needs = { glibc: undefined, built: [] };
  for (const name of site === undefined ? [] : namesIn(join(dir, site))) {
    if (!name.endsWith(".dist-info")) continue;
    const project = packageOf(name);
    if (project === undefined) continue;
    const tags = tagsOf(join(dir, site as string, name, "WHEEL"));
    if (tags.some((tag) => /-linux_\w+$/.test(tag))) needs.built.push(project);
    const glibc = leastGlibc(tags);
    if (glibc !== undefined && (needs.glibc === undefined || isOlder(needs.glibc, glibc))) needs.glibc = glibc;
  }
  return needs;
}

/** A wheel with several tags runs where any of them fits: the oldest library that one of them names. */
export function leastGlibc(tags: readonly string[]): string | undefined {
  const versions = tags.flatMap((tag) => glibcOf(tag) ?? []);
  return versions.reduce<string | undefined>(
    (least, each) => (least === undefined || isOlder(each, least) ? each : least),
    undefined,
  );
}

/** The names that came before manylinux_X_Y (PEP 600). */
const legacy: Record<string, string> = { manylinux1: "2.5", manylinux2010: "2.12", manylinux2014: "2.17" };

function glibcOf(tag: string): string | undefined {
  const [, major, minor] = /manylinux_(\d+)_(\d+)_/.exec(tag) ?? [];
  if (major !== undefined) return `${major}.${minor}`;
  return legacy[/manylinux\d+/.exec(tag)?.[0] ?? ""];
}

function tagsOf(path: string): string[] {
  try {
    return [...readFileSync(path, "utf8").matchAll(/^Tag:\s*(\S+)/gm)].map(([, tag]) => tag as string);
  } catch {
    return []; // installed without a wheel
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}
