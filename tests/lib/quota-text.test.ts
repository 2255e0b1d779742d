import { expect, test } from "bun:test";
import type { QuotaLeft } from "../../lib/drivers/quota.ts";
import { distinctQuotas, isNearlyUsedUp, isUsedUp, quotaText, shortCount } from "../../lib/engine/quota-text.ts";

const tib = 1024 ** 4;

const quota = (more: Partial<QuotaLeft> = {}): QuotaLeft => ({
  ...{ tool: "lfs quota", scope: "user", bytes: 1.3 * tib, inodes: 690_000 },
  ...{ usedBytes: 1.2 * tib, limitBytes: 2.5 * tib, usedInodes: 310_000, limitInodes: 1e6 },
  ...more,
});

test.each([
  [{}, "lfs, user: 1.2T of 2.5T, 310k of 1M files"],
  [{ tool: "quota", scope: "group" }, "quota, group: 1.2T of 2.5T, 310k of 1M files"],
  [{ limitInodes: undefined, inodes: undefined }, "lfs, user: 1.2T of 2.5T"],
  [{ limitBytes: undefined, bytes: undefined }, "lfs, user: 310k of 1M files"],
  [{ inodes: 0, usedInodes: 1e6 }, "lfs, user: 1.2T of 2.5T, 1M of 1M files (used up)"],
] as const)("quota text: %j", (more, text) => {
  expect(quotaText(quota(more))).toBe(text);
});

test.each([
  [0, "0"],
  [999, "999"],
  [1000, "1k"],
  [1550, "1.5k"],
  [12_999, "12k"],
  [999_999, "999k"],
  [1_000_000, "1M"],
  [3.2e9, "3.2G"],
  [5e12, "5000G"],
])("count %p: %s", (count, text) => {
  expect(shortCount(count)).toBe(text);
});

test("the same quota told by two tools is one; two scopes of one tool are two", () => {
  const [lfs, group] = [quota(), quota({ scope: "group" })];
  const lquota = quota({ tool: "lquota", usedBytes: 1.201 * tib });
  expect(distinctQuotas([lfs, group, lquota])).toEqual([lfs, group]);
  const other = quota({ tool: "lquota", limitBytes: 3 * tib });
  expect(distinctQuotas([lfs, other])).toEqual([lfs, other]);
  const more = quota({ tool: "lquota", usedBytes: 2 * tib });
  expect(distinctQuotas([lfs, more])).toEqual([lfs, more]);
});

test("used up, nearly, and neither", () => {
  expect([quota(), quota({ bytes: 0.1 * tib }), quota({ bytes: 0 })].map(isUsedUp)).toEqual([false, false, true]);
  expect([quota(), quota({ bytes: 0.1 * tib }), quota({ inodes: 9 })].map(isNearlyUsedUp)).toEqual([false, true, true]);
});
