/**
 * When a site deletes files on scratch: its rule, and the first day it hits a tree.
 *
 * A forecast, at the earliest: sites look once a day (the Alliance once a month), and some delete younger files when the
 * storage is full.
 */
import { hostname } from "node:os";
import { type Env, isWithin } from "../base/paths.ts";
import { plural } from "../base/units.ts";
import type { Config } from "../config/schema.ts";

/** A site deletes files of a certain age. */
export interface PurgeRule {
  days: number;
  /**
   * Which time tells the age. "any": the oldest of the three, "ctime and atime": both must be old, so the later counts.
   */
  rule: "mtime" | "atime" | "ctime" | "any" | "ctime and atime";
  /** Page that the rule of a known site was taken from; none for what the user configured. */
  source?: string;
  /** The page does not say which time counts, so the oldest is taken: files may live longer. */
  unsure?: true;
}

/** The times of a file, in milliseconds since 1970, as in node's Stats. */
export interface Stamps {
  mtimeMs: number;
  atimeMs: number;
  ctimeMs: number;
}

interface Site extends PurgeRule {
  source: string;
  /** Roots of the storage that is purged; a part that differs from user to user is `*`. */
  roots: readonly string[];
  /** Is this process there? Paths that say so themselves need no more. */
  isHere?: (host: Here) => boolean;
}

interface Here {
  env: Env;
  host: string;
}

const cluster = ({ env }: Here, names: readonly string[]) =>
  names.includes((env.SLURM_CLUSTER_NAME ?? env.CC_CLUSTER ?? "").toLowerCase());

/** Sites whose rules are published. A site that is not sure to be the right one is not taken. */
const sites: readonly Site[] = [
  {
    days: 15,
    rule: "any",
    unsure: true,
    source: "https://scicomp.ethz.ch/wiki/Personal_scratch_usage_rules",
    roots: ["/cluster/scratch"],
    isHere: (here) => cluster(here, ["euler"]) || /^eu-[a-z0-9-]+(?:\.|$)|\.euler\.ethz\.ch$/.test(here.host),
  },
  {
    days: 30,
    rule: "atime",
    source: "https://docs.cscs.ch/storage/filesystems/",
    roots: ["/capstor/scratch/cscs"],
  },
  {
    days: 14,
    rule: "atime",
    source: "https://docs.cscs.ch/platforms/mlp/",
    roots: ["/iopsstor/scratch/cscs"],
  },
  {
    days: 14,
    rule: "mtime",
    source: "https://hpc-docs.cubi.bihealth.org/storage/scratch-cleanup",
    roots: ["/data/cephfs-1/scratch", "/data/cephfs-1/home/users/*/scratch"],
  },
  {
    days: 60,
    rule: "ctime and atime",
    source: "https://docs.alliancecan.ca/wiki/Scratch_purging_policy",
    roots: ["/scratch", "/home/*/scratch", "/home/*/links/scratch", "/lustre*/scratch"],
    // Nibi has another rule; the older clusters are gone.
    isHere: ({ env }) => ["fir", "narval", "rorqual", "trillium"].includes(env.CC_CLUSTER ?? ""),
  },
  {
    days: 30,
    rule: "any",
    unsure: true,
    source: "https://scitas-doc.epfl.ch/storage/scratch_fs/",
    roots: ["/scratch"],
    isHere: (here) => cluster(here, ["izar", "jed", "kuma"]) || here.host.endsWith(".epfl.ch"),
  },
];

/**
 * The rule that holds for scratch: what the configuration says (`ef.purge`), else that of a known site.
 *
 * `days: 0` in the configuration says that nothing is purged. A rule without days needs a known site for them; days
 * without a rule take "any".
 *
 * @param scratchPath expanded; links in it need not be resolved
 * @param host name of this machine
 * @returns undefined if nothing is purged, or nobody knows
 * @example
 * purgeRule({}, process.env, "/capstor/scratch/cscs/anna"); // { days: 30, rule: "atime", source: "https://…" }
 */
export function purgeRule(
  config: Pick<Config, "ef">,
  env: Env,
  scratchPath: string,
  host: string = hostname(),
): PurgeRule | undefined {
  const { days, rule } = config.ef?.purge ?? {};
  if (days === 0) return undefined;
  if (days !== undefined) return { days, rule: rule ?? "any" };
  const site = sites.find(
    ({ roots, isHere }) => roots.some((root) => isBelow(scratchPath, root)) && (isHere?.({ env, host }) ?? true),
  );
  if (!site) return undefined;
  const known = { days: site.days, source: site.source };
  if (rule) return { ...known, rule };
  return { ...known, rule: site.rule, ...(site.unsure ? { unsure: true } : {}) };
}

/** Is `path` in `root`, in which a `*` stands for (the rest of) one part? */
function isBelow(path: string, root: string): boolean {
  if (!root.includes("*")) return isWithin(path, root);
  const pattern = root.replace(/\*/g, "[^/]*");
  return new RegExp(`^${pattern}(?:/|$)`).test(path);
}

const dayMs = 86_400_000;

/** When a file may be purged, in milliseconds since 1970. */
function purgedAtMs({ days, rule }: PurgeRule, { mtimeMs, atimeMs, ctimeMs }: Stamps): number {
  const stamps = {
    mtime: mtimeMs,
    atime: atimeMs,
    ctime: ctimeMs,
    any: Math.min(mtimeMs, atimeMs, ctimeMs),
    "ctime and atime": Math.max(ctimeMs, atimeMs),
  };
  return stamps[rule] + days * dayMs;
}

/** Days until a file with these times is purged; 0 or less: it is due. */
export function purgesInDays(rule: PurgeRule, oldest: Stamps, nowMs: number): number {
  return (purgedAtMs(rule, oldest) - nowMs) / dayMs;
}

/**
 * The forecast for a tree, from the times of its files, one after the other.
 *
 * @example
 * const forecast = new PurgeForecast(rule);
 * for (const stats of files) forecast.add(stats);
 * forecast.text; // "first files are purged in 3 days"
 */
export class PurgeForecast {
  readonly rule: PurgeRule;
  readonly #nowMs: number;
  #firstMs = Number.POSITIVE_INFINITY;
  #due = 0;

  constructor(rule: PurgeRule, nowMs: number = Date.now()) {
    this.rule = rule;
    this.#nowMs = nowMs;
  }

  /** Take a file into account; directories are not purged by their own times. */
  add(stamps: Stamps): void {
    const atMs = purgedAtMs(this.rule, stamps);
    if (atMs < this.#firstMs) this.#firstMs = atMs;
    if (atMs <= this.#nowMs) this.#due++;
  }

  /** Days until the first file is purged, 0 or less if one is due; undefined without files. */
  get inDays(): number | undefined {
    return this.#firstMs === Number.POSITIVE_INFINITY ? undefined : (this.#firstMs - this.#nowMs) / dayMs;
  }

  /** How many files are due now. */
  get due(): number {
    return this.#due;
  }

  /** For people; undefined without files. */
  get text(): string | undefined {
    return this.inDays === undefined ? undefined : purgeText(this.inDays, this.rule);
  }
}

/** What {@link purgesInDays} means, for people; days are rounded down. */
export function purgeText(inDays: number, rule?: Pick<PurgeRule, "unsure">): string {
  const are = rule?.unsure ? "may be" : "are";
  if (inDays <= 0) return rule?.unsure ? "files may be due to be purged now" : "files are due to be purged now";
  const when = inDays < 1 ? "in less than a day" : `in ${plural(Math.floor(inDays), "day")}`;
  return `first files ${are} purged ${when}`;
}
