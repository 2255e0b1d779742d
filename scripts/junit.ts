/** What a run of `bun test` came to, read from the JUnit file it writes. */
export type TestRun = { passed: number; failed: NamedTest[]; skipped: NamedTest[] };
/** A test by the names of its groups and its own, and why it failed or was skipped. */
export type NamedTest = { file: string; line: number; name: string; why: string };

/**
 * Read a JUnit file as `bun test` writes it.
 *
 * Why a test was skipped is not in the file. So a test that depends on a tool, or its group, says so in its
 * name: `test.skipIf(!have("zsh"))("… [needs zsh]", …)`.
 */
export function readJunit(xml: string): TestRun {
  const run: TestRun = { passed: 0, failed: [], skipped: [] };
  for (const [, attributes = "", rest = ""] of xml.matchAll(/<testcase ([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)) {
    if (/<failure\b|<error\b/.test(rest)) run.failed.push(failedTest(attributes, rest));
    else if (/<skipped\b/.test(rest)) run.skipped.push(skippedTest(attributes, rest));
    else run.passed++;
  }
  return run;
}

function failedTest(attributes: string, rest: string): NamedTest {
  const [, failure = "", text = ""] = /<(?:failure|error)\b([^>]*?)(?:\/>|>([^<]*))/.exec(rest) ?? [];
  const why = decodeEntities(text).trim() || (readAttributes(failure).message ?? "no reason given");
  return { ...whereAndName(attributes), why };
}

function skippedTest(attributes: string, rest: string): NamedTest {
  const { file, line, name } = whereAndName(attributes);
  const needs = /\s*\[(needs [^\]]+)\]/.exec(name);
  const why = needs?.[1] ?? (rest.includes('message="TODO"') ? "marked todo" : "marked skip, no reason given");
  return { file, line, name: needs === null ? name : name.replace(needs[0], ""), why };
}

function whereAndName(attributes: string): Omit<NamedTest, "why"> {
  const { name = "", classname = "", file = "", line = "0" } = readAttributes(attributes);
  const groups = classname === "" ? [] : classname.split(" > ").reverse(); // Bun writes the innermost first
  return { file, line: Number(line), name: [...groups, name].join(" > ") };
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
