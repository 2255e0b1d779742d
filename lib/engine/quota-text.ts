/** Quotas for people. */
import { humanBytes } from "../base/units.ts";
import type { QuotaLeft } from "../drivers/quota.ts";

/** Part of a limit by which two tools, asked one after the other, may differ about the same quota. */
const nearly = 0.01;

/** Without those that a second tool tells again. */
export function distinctQuotas(all: readonly QuotaLeft[]): QuotaLeft[] {
  return all.filter((one, i) => !all.slice(0, i).some((other) => other.tool !== one.tool && isSame(one, other)));
}

function isSame(one: QuotaLeft, other: QuotaLeft): boolean {
  const near = (a = 0, b = 0, limit = 0) => Math.abs(a - b) <= limit * nearly;
  return (
    one.limitBytes === other.limitBytes &&
    one.limitInodes === other.limitInodes &&
    near(one.usedBytes, other.usedBytes, one.limitBytes) &&
    near(one.usedInodes, other.usedInodes, one.limitInodes)
  );
}

/** Is nothing left of its bytes, or of its files? */
export const isUsedUp = ({ bytes, inodes }: QuotaLeft): boolean => bytes === 0 || inodes === 0;

/** Is less than a twentieth left? */
export const isNearlyUsedUp = (quota: QuotaLeft): boolean =>
  [
    [quota.bytes, quota.limitBytes],
    [quota.inodes, quota.limitInodes],
  ].some(([left, limit]) => left !== undefined && limit !== undefined && left < limit / 20);

/** `lfs, user: 1.2T of 2.5T, 310k of 1.0M files`. */
export function quotaText(quota: QuotaLeft): string {
  const { tool, scope, usedBytes, limitBytes, usedInodes, limitInodes } = quota;
  const pair = (used: number | undefined, limit: number | undefined, text: (value: number) => string) =>
    limit === undefined ? [] : [`${used === undefined ? "?" : text(used)} of ${text(limit)}`];
  const parts = [
    ...pair(usedBytes, limitBytes, humanBytes),
    ...pair(usedInodes, limitInodes, shortCount).map((text) => `${text} files`),
  ];
  return `${tool.replace(" quota", "")}, ${scope}: ${parts.join(", ")}${isUsedUp(quota) ? " (used up)" : ""}`;
}

/** `950`, `12k`, `1.5M`: powers of 1000, rounded down. */
export function shortCount(count: number): string {
  const suffixes = ["", "k", "M", "G"];
  let [value, power] = [count, 0];
  while (value >= 1000 && power < suffixes.length - 1) {
    value /= 1000;
    power++;
  }
  const shown = value < 10 && power > 0 ? Math.floor(value * 10) / 10 : Math.floor(value);
  return `${shown}${suffixes[power]}`;
}
