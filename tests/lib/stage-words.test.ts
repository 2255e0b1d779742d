import { expect, test } from "bun:test";
import { beforeSbatch } from "../../cmd/stage-words.ts";

test.each([
  ["stage --job -N 3 --time=30", "stage --job -- -N 3 --time=30"],
  ["stage --job --json -n 12", "stage --job --json -- -n 12"],
  [
    "stage --var A --job --var B -p x --bwlimit=3M --no-preflight",
    "stage --var A --job --var B --bwlimit=3M --no-preflight -- -p x",
  ],
  ["stage --job -- --json", "stage --job -- --json"],
  ["stage --job", "stage --job"],
  ["stage --job --var", "stage --job --var"],
  ["exec --job x", "exec --job x"],
  ["sync --job", "sync --job"],
])("ef %s", (given, wanted) => {
  expect(beforeSbatch(given.split(" "))).toEqual(wanted.split(" "));
});
