/** A workspace that somebody releases at the very moment in which another one opens it. */
import { expect, mock, test } from "bun:test";
import { existsSync, readdirSync, renameSync, rmdirSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { Home } from "../helpers.ts";
import { Workspaces } from "../workspaces.ts";

test("it is released between two looks of the one that opens it: another is made", async () => {
  const real = { ...(await import("node:fs/promises")) };
  let afterLook: (() => unknown) | undefined;
  mock.module("node:fs/promises", () => ({
    ...real,
    async stat(path: string) {
      try {
        return await real.stat(path);
      } finally {
        const act = afterLook;
        afterLook = undefined;
        await act?.();
      }
    },
  }));
  const { CacheWorkspace } = await import("../../lib/cache-workspace.ts");
  const { Workspace } = await import("../../lib/workspace.ts");
  using at = new Home();
  const { env } = at;
  const there = new Workspaces(at);

  const first = await CacheWorkspace.open({ env });
  // As the last one that has it open does, up to the moment in which it has seen that nobody else has.
  const users = join(first.name, ".ef-cache-users");
  for (const user of readdirSync(users)) unlinkSync(join(users, user));
  rmdirSync(users);
  renameSync(join(first.name, ".ef-cache-workspace"), join(first.name, ".ef-cache-leaving"));
  let isReleased = false;
  afterLook = async () => {
    await new Workspace({ env }).release("cache");
    isReleased = true;
  };
  const second = await CacheWorkspace.open({ env });
  expect(isReleased).toBe(true);
  expect(existsSync(second.name)).toBe(true);
  await second[Symbol.asyncDispose]();
  expect(there.exists("cache")).toBe(false);
});
