import { expect, test } from "bun:test";
import { readJunit } from "../../scripts/junit.ts";

// As bun 1.4.5 writes it.
const xml = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="bun test" tests="7" assertions="1" failures="2" skipped="3" time="0.008">
  <testsuite name="tests/a.test.ts" file="tests/a.test.ts" tests="7" failures="2" skipped="3" time="0.002" hostname="h">
    <testcase name="ok &amp; &lt;fine&gt;" classname="" time="0.000006" file="tests/a.test.ts" line="2" assertions="0" />
    <testcase name="two&#10;lines" classname="" time="0.1" file="tests/a.test.ts" line="3" assertions="1">
      <failure type="AssertionError" message="expected">AssertionError: expected &lt;skipped /&gt;&#10;&#10;      at tests/a.test.ts:3:5&#10;</failure>
    </testcase>
    <testcase name="exports" classname="eval [needs zsh, tmux]" time="0" file="tests/a.test.ts" line="4" assertions="0">
      <skipped />
    </testcase>
    <testsuite name="outer" file="tests/a.test.ts" line="6" tests="4" failures="1" skipped="2" time="0" hostname="h">
      <testcase name="later" classname="in &gt; outer" time="0" file="tests/a.test.ts" line="7" assertions="0">
        <skipped message="TODO" />
      </testcase>
      <testcase name="&quot;off&quot;" classname="outer" time="0" file="tests/a.test.ts" line="8" assertions="0">
        <skipped />
      </testcase>
      <testcase name="slow" classname="outer" time="30" file="tests/a.test.ts" line="9" assertions="0">
        <failure type="TimeoutError" message="test timed out" />
      </testcase>
      <testcase name="each 2" classname="outer" time="0." file="tests/a.test.ts" line="9" assertions="0" />
    </testsuite>
  </testsuite>
</testsuites>`;

test("counts, and the names and reasons of what failed or was skipped", () => {
  const file = "tests/a.test.ts";
  expect(readJunit(xml)).toEqual({
    passed: 2,
    failed: [
      {
        file,
        line: 3,
        name: "two\nlines",
        why: "AssertionError: expected <skipped />\n\n      at tests/a.test.ts:3:5",
      },
      { file, line: 9, name: "outer > slow", why: "test timed out" },
    ],
    skipped: [
      { file, line: 4, name: "eval > exports", why: "needs zsh, tmux" },
      { file, line: 7, name: "outer > in > later", why: "marked todo" },
      { file, line: 8, name: 'outer > "off"', why: "marked skip, no reason given" },
    ],
  });
});

test("no file: nothing was run", () => {
  expect(readJunit("")).toEqual({ passed: 0, failed: [], skipped: [] });
});
