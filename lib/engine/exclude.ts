/**
 * rsync's exclude patterns for ef's own engine: the same names stay out, whichever engine copies.
 *
 * Names and patterns are compared byte by byte, as rsync does it in the C locale: a string here is a sequence of bytes,
 * one character each. A pattern becomes a list of tokens, and the matcher goes back to the last `*` and the last
 * `**` only, so that no pattern makes it try all combinations.
 *
 * @see https://download.samba.org/pub/rsync/rsync.1 (PATTERN MATCHING RULES)
 */
import { EfError } from "../base/errors.ts";

/**
 * Is this entry left out? The caller does not go into a directory that is.
 *
 * @param path relative to the root of the tree, without slashes at its ends; each character stands for one byte (latin1)
 */
export type Excluder = (path: string, isDirectory: boolean) => boolean;

/** What rsync takes for the longest path (MAXPATHLEN); it leaves longer patterns out with an error message. */
const maxPatternBytes = 4096;

/**
 * Compile patterns as `rsync --exclude=PATTERN` reads them, one after the other.
 *
 * The first pattern that matches decides. `- PATTERN` is the same as PATTERN, `+ PATTERN` keeps what it matches, and an
 * empty pattern is none.
 *
 * @param where the place the patterns come from (`ef.vars.HF_HOME.exclude`), for the error
 * @returns undefined if there is nothing to leave out
 * @throws {EfError} CONFIG_INVALID for what rsync refuses, and for `!`, which would clear ef's own patterns too
 * @example
 * const excluded = excluder(["*.lock", "/tmp/"]);
 * excluded?.("hub/a.lock", false); // true
 */
export function excluder(patterns: readonly string[], where = "exclude"): Excluder | undefined {
  const rules = patterns.flatMap((pattern, i) => (pattern === "" ? [] : [rule(pattern, `${where}[${i}]`)]));
  if (!rules.some(({ keeps }) => !keeps)) return undefined; // what no pattern matches is not left out
  const groups: Group[] = [];
  for (const each of rules) {
    if (groups.at(-1)?.keeps !== each.keeps) groups.push(emptyGroup(each.keeps));
    add(groups.at(-1) as Group, each);
  }
  return (path, isDirectory) => {
    const name = path.slice(path.lastIndexOf("/") + 1);
    for (const group of groups) if (isIn(group, path, name, isDirectory)) return !group.keeps;
    return false;
  };
}

/** A pattern, read. `exact`: the whole name or path is just this. */
interface Rule {
  keeps: boolean;
  onlyDirectories: boolean;
  /** Is it compared with the whole path, or with its last part? */
  ofPath: boolean;
  exact: string | undefined;
  matches: (text: string, isDirectory: boolean) => boolean;
}

/** Neighbours that decide alike: within them the order does not matter, so the plain ones go into sets. */
interface Group {
  keeps: boolean;
  names: Set<string>;
  directoryNames: Set<string>;
  paths: Set<string>;
  directoryPaths: Set<string>;
  others: Rule[];
}

function emptyGroup(keeps: boolean): Group {
  const set = () => new Set<string>();
  return { keeps, names: set(), directoryNames: set(), paths: set(), directoryPaths: set(), others: [] };
}

function add(group: Group, each: Rule): void {
  if (each.exact === undefined) return void group.others.push(each);
  const { names, directoryNames, paths, directoryPaths } = group;
  const [any, directories] = each.ofPath ? [paths, directoryPaths] : [names, directoryNames];
  (each.onlyDirectories ? directories : any).add(each.exact);
}

function isIn(group: Group, path: string, name: string, isDirectory: boolean): boolean {
  if (group.names.has(name) || group.paths.has(path)) return true;
  if (isDirectory && (group.directoryNames.has(name) || group.directoryPaths.has(path))) return true;
  for (const { onlyDirectories, ofPath, matches } of group.others) {
    if ((isDirectory || !onlyDirectories) && matches(ofPath ? path : name, isDirectory)) return true;
  }
  return false;
}

/** Read one pattern. */
function rule(text: string, where: string): Rule {
  const keeps = text.startsWith("+ ");
  const written = keeps || text.startsWith("- ") ? text.slice(2) : text;
  const bytes = Buffer.from(written, "utf8").toString("latin1");
  const refuse = (why: string, hint: string) =>
    new EfError("CONFIG_INVALID", `Cannot use ${where} ${JSON.stringify(shortened(text))}: ${why}`, { hint });
  if (bytes === "") throw refuse(`there is no pattern after "${text.trim()}"`, "give a pattern, or take it out");
  if (text === "!") {
    throw refuse(
      "it clears all patterns before it, also those that ef needs",
      'keep names that another pattern leaves out with "+ PATTERN", before that pattern',
    );
  }
  if (bytes.includes("\0")) throw refuse("no name holds a NUL character", "take the character out");
  if (bytes.length >= maxPatternBytes) {
    throw refuse(`it is ${bytes.length} bytes long, rsync takes ${maxPatternBytes - 1}`, "shorten it with * or **");
  }
  const onlyDirectories = bytes.length > 1 && bytes.endsWith("/");
  return { keeps, onlyDirectories, ...test(onlyDirectories ? bytes.slice(0, -1) : bytes) };
}

const shortened = (text: string) => (text.length > 60 ? `${text.slice(0, 60)}…` : text);

/** How a pattern without its trailing slash is compared. */
function test(pattern: string): Pick<Rule, "ofPath" | "exact" | "matches"> {
  const anchored = pattern.startsWith("/");
  const slashes = pattern.split("/").length - 1;
  const body = anchored ? pattern.slice(1) : pattern;
  const crosses = pattern.includes("**"); // rsync looks at the text, so an escaped one counts as well
  const ofPath = slashes > 0 || crosses;
  const tokens = /[*?[]/.test(pattern) ? compile(body) : [...body].map((char) => char.charCodeAt(0));
  if (tokens.every((token) => token > 0) && !crosses) {
    const literal = String.fromCharCode(...tokens);
    if (anchored || !ofPath) return { ofPath, exact: literal, matches: (text) => text === literal };
    const tail = `/${literal}`;
    return { ofPath, exact: undefined, matches: (path) => path === literal || path.endsWith(tail) };
  }
  const plain = ofPath ? undefined : simpleTest(tokens);
  if (plain) return { ofPath, exact: undefined, matches: plain };
  const hope = hopes(tokens);
  if (!crosses) {
    // Without ** as many parts of the path are compared as the pattern has; only from the root if it is anchored.
    const parts = anchored || !ofPath ? 0 : slashes + 1;
    return { ofPath, exact: undefined, matches: (text) => hope(text) && matchTail(tokens, text, parts) };
  }
  const fromRoot = pattern.startsWith("**");
  const prefix = fromRoot ? "/" : ""; // so that **/x also finds x at the root
  const ownSlash = pattern.endsWith("***"); // so that x/*** also finds the directory x itself
  const search = anchored || fromRoot ? matchAt : matchAnywhere;
  return {
    ofPath,
    exact: undefined,
    matches: (path, isDirectory) => {
      const text = prefix + path + (ownSlash && isDirectory ? "/" : "");
      return hope(text) && search(tokens, text);
    },
  };
}

/** `*.lock`, `tmp*` and `*tmp*` without the matcher. */
function simpleTest(tokens: readonly Token[]): ((name: string) => boolean) | undefined {
  const inner = tokens.filter((token) => token !== star);
  if (inner.length === 0 || !inner.every((token) => token > 0)) return undefined;
  const text = String.fromCharCode(...inner);
  const starsAt = tokens.flatMap((token, i) => (token === star ? [i] : [])).join();
  const last = tokens.length - 1;
  if (starsAt === "0") return (name) => name.endsWith(text);
  if (starsAt === String(last)) return (name) => name.startsWith(text);
  if (starsAt === `0,${last}`) return (name) => name.includes(text);
  return undefined;
}

/** A byte (1 to 255), one of the four below, or {@link firstSet} and less for a set of bytes. */
type Token = number;
/** No byte at all: what follows a lone backslash at the end, or a set without its end. */
const never = 0;
/** `?`: any byte but the slash. */
const one = -1;
/** `*`: any bytes but slashes. */
const star = -2;
/** `**`: any bytes. */
const starStar = -3;
const firstSet = -4;

/** The sets of all patterns, each once: 256 entries that say which bytes belong to it. */
const sets: Uint8Array[] = [];
const setTokens = new Map<string, Token>();

/** Read wildcards. A backslash takes the next character as it is. */
function compile(pattern: string): Token[] {
  const tokens: Token[] = [];
  for (let at = 0; at < pattern.length; at++) {
    const char = pattern[at];
    if (char === "*") {
      const from = at;
      while (pattern[at + 1] === "*") at++;
      tokens.push(at > from ? starStar : star);
    } else if (char === "?") tokens.push(one);
    else if (char === "\\") tokens.push(++at < pattern.length ? pattern.charCodeAt(at) : never);
    else if (char === "[") {
      const set = readSet(pattern, at);
      if (!set) return [...tokens, never];
      tokens.push(set.token);
      at = set.end;
    } else tokens.push(pattern.charCodeAt(at));
  }
  return tokens;
}

/** What belongs to each class of POSIX in the C locale. */
const classes = new Map<string, RegExp>(
  Object.entries({
    alnum: /[0-9A-Za-z]/,
    alpha: /[A-Za-z]/,
    blank: /[ \t]/,
    cntrl: /[\x00-\x1f\x7f]/,
    digit: /[0-9]/,
    graph: /[!-~]/,
    lower: /[a-z]/,
    print: /[ -~]/,
    punct: /[!-/:-@[-`{-~]/,
    space: /[ \t\n\v\f\r]/,
    upper: /[A-Z]/,
    xdigit: /[0-9A-Fa-f]/,
  }),
);

/**
 * Read the set that begins at `[`.
 *
 * @returns its token and the place of its `]`; undefined if it does not end, or names a class that there is not: rsync
 *   then matches nothing
 */
function readSet(pattern: string, at: number): { token: Token; end: number } | undefined {
  const negated = pattern[at + 1] === "!" || pattern[at + 1] === "^";
  const start = at + (negated ? 2 : 1);
  const members = new Uint8Array(256);
  let before = 0; // the byte that a range may begin with: none after a range or a class
  let i = start;
  for (; i === start || pattern[i] !== "]"; i++) {
    if (i >= pattern.length) return undefined;
    const next = pattern[i + 1];
    if (pattern[i] === "-" && before > 0 && next !== undefined && next !== "]") {
      i += next === "\\" ? 2 : 1;
      if (i >= pattern.length) return undefined;
      for (let byte = before; byte <= pattern.charCodeAt(i); byte++) members[byte] = 1;
      before = 0;
      continue;
    }
    const named = pattern[i] === "[" && next === ":" ? /^\[:([^\]]*):\]/.exec(pattern.slice(i)) : null;
    if (named) {
      const belongs = classes.get(named[1] ?? "");
      if (!belongs) return undefined;
      for (let byte = 0; byte < 256; byte++) if (belongs.test(String.fromCharCode(byte))) members[byte] = 1;
      i += named[0].length - 1;
      before = 0;
      continue;
    }
    if (pattern[i] === "[" && next === ":" && !pattern.includes("]", i)) return undefined;
    if (pattern[i] === "\\") i++;
    if (i >= pattern.length) return undefined;
    before = pattern.charCodeAt(i);
    members[before] = 1;
  }
  if (negated) for (let byte = 0; byte < 256; byte++) members[byte] = 1 - (members[byte] ?? 0);
  members[0x2f] = 0; // no set holds the slash
  return { token: tokenOf(members), end: i };
}

function tokenOf(members: Uint8Array): Token {
  const key = members.join("");
  const known = setTokens.get(key);
  if (known !== undefined) return known;
  sets.push(members);
  const token = firstSet - (sets.length - 1);
  setTokens.set(key, token);
  return token;
}

/**
 * A test that most names fail, without the matcher: the longest text that the pattern needs, and its last token. All
 * comparisons go to the end of the name.
 */
function hopes(tokens: readonly Token[]): (text: string) => boolean {
  const runs = tokens.map((token) => (token > 0 ? String.fromCharCode(token) : "\0")).join("");
  const needed = runs.split("\0").reduce((best, run) => (run.length > best.length ? run : best), "");
  const last = tokens.at(-1) ?? never;
  return (text) =>
    text.includes(needed) && (last === star || last === starStar || accepts(last, text.charCodeAt(text.length - 1)));
}

/** Compare all of `text` from `from` on. */
function match(tokens: readonly Token[], text: string, from: number): boolean {
  let p = 0;
  let i = from;
  // Where to go on when a comparison fails: the token after the last star, and the place it was last tried at.
  let starToken = -1;
  let starAt = 0;
  let crossToken = -1;
  let crossAt = 0;
  for (;;) {
    const token = tokens[p];
    if (token === starStar) {
      if (p + 1 === tokens.length) return true;
      crossToken = ++p;
      crossAt = i;
      starToken = -1; // what it matched stays: giving more to it would gain nothing
      continue;
    }
    if (token === star) {
      if (p + 1 < tokens.length) {
        starToken = ++p;
        starAt = i;
        continue;
      }
      if (!text.includes("/", i)) return true;
    } else if (i >= text.length)
      return token === undefined; // starting later leaves even less
    else if (token !== undefined && accepts(token, text.charCodeAt(i))) {
      p++;
      i++;
      continue;
    }
    if (starToken >= 0) {
      if (text.charCodeAt(starAt) !== 0x2f) {
        p = starToken;
        i = ++starAt;
        continue;
      }
      starToken = -1;
    }
    if (crossToken < 0 || crossAt >= text.length) return false;
    p = crossToken;
    i = ++crossAt;
  }
}

function accepts(token: Token, byte: number): boolean {
  if (token > 0) return token === byte;
  if (token === one) return byte !== 0x2f;
  return token <= firstSet && sets[firstSet - token]?.[byte] === 1;
}

/** Compare the last `parts` parts of a path; 0 for all of it. */
function matchTail(tokens: readonly Token[], path: string, parts: number): boolean {
  let from = path.length;
  for (let n = parts; n > 0; n--) {
    if (from < 0) return false;
    from = from === 0 ? -1 : path.lastIndexOf("/", from - 1);
  }
  return match(tokens, path, parts === 0 ? 0 : from + 1);
}

function matchAt(tokens: readonly Token[], path: string): boolean {
  return match(tokens, path, 0);
}

/** Compare at the beginning and after each slash. */
function matchAnywhere(tokens: readonly Token[], path: string): boolean {
  if (match(tokens, path, 0)) return true;
  for (let at = path.indexOf("/"); at >= 0; at = path.indexOf("/", at + 1)) {
    if (match(tokens, path, at + 1)) return true;
  }
  return false;
}
