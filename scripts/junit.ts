/** What a run of `bun test` came to, read from the JUnit file it writes. */
export type TestRun = { passed: number; failed: number; skipped: SkippedTest[] };
export type SkippedTest = { file: string; line: number; name: string; why: string };

/**
 * Read a JUnit file as `bun test` writes it.
 *
 * Why a test was skipped is not in the file. So a test that depends on a tool, or its group, says so in its
 * name: `test.skipIf(!have("zsh"))("… [needs zsh]", …)`.
 */
export function readJunit(xml: string): TestRun {
  const run: TestRun = { passed: 0, failed: 0, skipped: [] };
  for (const [, attributes = "", rest = ""] of xml.matchAll(/<testcase ([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)) {
    if (/<failure\b|<error\b/.test(rest)) run.failed++;
    else if (/<skipped\b/.test(rest)) run.skipped.push(skippedTest(attributes, rest));
    else run.passed++;
  }
  return run;
}

function skippedTest(attributes: string, rest: string): SkippedTest {
  const { name = "", classname = "", file = "", line = "0" } = readAttributes(attributes);
  const groups = classname === "" ? [] : classname.split(" > ").reverse(); // Bun writes the innermost first
  const fullName = [...groups, name].join(" > ");
  const needs = /\s*\[(needs [^\]]+)\]/.exec(fullName);
  const why = needs?.[1] ?? (rest.includes('message="TODO"') ? "marked todo" : "marked skip, no reason given");
  return { file, line: Number(line), name: needs === null ? fullName : fullName.replace(needs[0], ""), why };
}

function readAttributes(text: string): Record<string, string> {
  return Object.fromEntries(
    [...text.matchAll(/([\w:]+)="([^"]*)"/g)].map(([, key, value = ""]) => [key, decodeEntities(value)]),
  );
}

const entities: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

function decodeEntities(text: string): string {
  return text.replace(/&(?:#(\d+)|(\w+));/g, (whole, code, name) =>
    code === undefined ? (entities[name] ?? whole) : String.fromCodePoint(Number(code)),
  );
}
