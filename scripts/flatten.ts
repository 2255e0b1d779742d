/**
 * Many declaration files as one: what the names that a module exports need, and nothing else. Pure: texts in, text out.
 *
 * The texts are what tsc writes, always in one form (`name: type`, `A extends B ? C : D`), so a scanner that knows comments,
 * strings and brackets can tell declarations and names apart; tsc then checks what comes out (scripts/declarations.ts).
 */
import { dirname, join, normalize } from "node:path";

/** A name in a file: of a type, or of a value. Classes are both. */
type Space = "type" | "value";
type Declaration = { name: string; spaces: Space[]; doc: string; text: string };
type Imported = { from: string; name: string };
type Module = { declarations: Declaration[]; imports: Map<string, Imported>; exports: Map<string, Imported & Listed> };
type Listed = { space: Space | undefined };

const token =
  /\/\*[\s\S]*?\*\/|\/\/[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\[\s\S]|[^`\\])*`|[A-Za-z_$][\w$]*|[^\s]/g;
const isText = (piece: string) => /^(?:\/[*/]|["'`])/.test(piece);
const isName = (piece: string) => /^[A-Za-z_$]/.test(piece);

/** The statements of a declaration file, each with the comments before it. */
function statements(text: string): { before: string; body: string }[] {
  const found: { before: string; body: string }[] = [];
  let [start, bodyAt, depth] = [0, -1, 0];
  for (const { 0: piece, index } of text.matchAll(token)) {
    if (/^\/[*/]/.test(piece)) continue;
    if (bodyAt < 0) bodyAt = index;
    if ("([{".includes(piece)) depth++;
    if (")]}".includes(piece)) depth--;
    const block = /^(?:export |declare |abstract |default )*(?:interface|class|enum|namespace)\b/;
    const ends = piece === ";" || (piece === "}" && block.test(text.slice(bodyAt, index)));
    if (depth > 0 || !ends) continue;
    const end = index + piece.length;
    found.push({ before: text.slice(start, bodyAt), body: text.slice(bodyAt, end) });
    [start, bodyAt] = [end, -1];
  }
  return found;
}

const listOf = (names: string) =>
  names.split(",").flatMap((item) => {
    const [, type, name = "", as] = /^\s*(type\s+)?([\w$]+)(?:\s+as\s+([\w$]+))?\s*$/.exec(item) ?? [];
    return name ? [{ name, as: as ?? name, space: type ? ("type" as const) : undefined }] : [];
  });

function parse(path: string, text: string): Module {
  const module: Module = { declarations: [], imports: new Map(), exports: new Map() };
  const from = (specifier: string) =>
    specifier.startsWith(".") ? normalize(join(dirname(path), specifier)).replace(/\.[jt]s$/, ".d.ts") : specifier;
  for (const { before, body } of statements(text)) {
    const importing = /^import\s+(?:type\s+)?(?:\{([^}]*)\}|\*\s+as\s+(\w+))\s+from\s+["']([^"']+)["'];$/.exec(body);
    const [, names, space, where = ""] = importing ?? [];
    for (const { name, as } of listOf(names ?? "")) module.imports.set(as, { from: from(where), name });
    if (space !== undefined) module.imports.set(space, { from: from(where), name: "*" });
    if (importing || /^import\s*["']/.test(body)) continue;
    const listing = /^export\s+(type\s+)?\{([^}]*)\}(?:\s+from\s+["']([^"']+)["'])?;$/.exec(body);
    if (listing) {
      const source = listing[3] === undefined ? path : from(listing[3]);
      for (const { name, as, space } of listOf(listing[2] ?? ""))
        module.exports.set(as, { from: source, name, space: listing[1] ? "type" : space });
      continue;
    }
    const [, kind = "", name] =
      /^(?:export |declare |abstract |const (?=enum))*(interface|type|class|enum|namespace|function|const|let|var)\s+([\w$]+)/.exec(
        body,
      ) ?? [];
    if (name === undefined) throw new Error(`Cannot read the declaration in ${path}: ${body.slice(0, 200)}`);
    const spaces: Space[] =
      kind === "interface" || kind === "type"
        ? ["type"]
        : kind === "class" || kind === "enum" || kind === "namespace"
          ? ["type", "value"]
          : ["value"];
    const doc = before.match(/\/\*\*[\s\S]*?\*\//g)?.at(-1) ?? "";
    const bare = body.replace(/^(?:export |declare )+/, "");
    module.declarations.push({
      name,
      spaces,
      doc,
      text: kind === "interface" || kind === "type" ? bare : `declare ${bare}`,
    });
  }
  return module;
}

/** The names in a text that may be those of other declarations. `visit` gives what stands there instead. */
function eachName(text: string, visit: (name: string, space: Space) => string): string {
  let before = "";
  let last = "";
  return text.replace(token, (piece: string, index: number) => {
    const [previous, previousToken] = [before, last];
    before = piece;
    last = isText(piece) ? "" : piece;
    if (isText(piece) || !isName(piece)) return piece;
    const isMember = previousToken === "." || /^\??:/.test(text.slice(index + piece.length));
    return isMember ? piece : visit(piece, previous === "typeof" ? "value" : "type");
  });
}

const key = ({ from, name }: Imported, space: Space) => `${space} ${name} ${from}`;

export interface Flattened {
  /** Of the module that is made, without its doc comment. */
  text: string;
  /** What it imports, other than `node:` modules. */
  packages: string[];
}

/**
 * One file for what `entry` exports.
 *
 * @param files text by path, relative to the root of all, e.g. "lib/sync.d.ts"
 */
export function flatten(entry: string, files: ReadonlyMap<string, string>): Flattened {
  const modules = new Map([...files].map(([path, text]) => [path, parse(path, text)]));
  const moduleOf = (path: string) => {
    const module = modules.get(path);
    if (!module) throw new Error(`Cannot find the declarations of ${path}`);
    return module;
  };
  /** Where a name of a module is declared; undefined for what is of the language or the runtime. */
  const resolve = ({ from, name }: Imported): Imported | undefined => {
    if (!files.has(from)) return from.endsWith(".d.ts") ? void moduleOf(from) : { from, name };
    const { declarations, imports, exports } = moduleOf(from);
    if (declarations.some((one) => one.name === name)) return { from, name };
    const next = imports.get(name) ?? exports.get(name);
    return next && resolve(next);
  };
  const parts = ({ from, name }: Imported, space: Space) =>
    modules.get(from)?.declarations.filter((one) => one.name === name && one.spaces.includes(space)) ?? [];

  // What is needed, in the order in which it is met.
  const needed = new Map<string, { at: Imported; space: Space; exported: string | undefined }>();
  const flatNames = new Map<string, string>();
  const taken = new Set<string>();
  const nameFor = (at: Imported, exported: string | undefined) => {
    const id = `${at.name} ${at.from}`;
    const known = flatNames.get(id);
    if (known !== undefined) return;
    const stem = at.from.replace(/^.*\//, "").replace(/\.d\.ts$/, "");
    const longer = `${stem}-${at.name}`.replace(/(?:^|[^A-Za-z0-9]+)(\w)/g, (_, letter) => letter.toUpperCase());
    const name = exported ?? [at.name, longer, `${longer}_`].find((one) => !taken.has(one)) ?? id.replace(/\W/g, "_");
    taken.add(name);
    flatNames.set(id, name);
  };
  const need = (at: Imported, space: Space, exported?: string) => {
    if (needed.has(key(at, space))) return;
    if (modules.has(at.from) && parts(at, space).length === 0) return;
    needed.set(key(at, space), { at, space, exported });
    nameFor(at, exported);
  };
  for (const [as, { from, name, space }] of moduleOf(entry).exports) {
    const at = resolve({ from, name });
    if (!at) throw new Error(`Cannot find ${name} of ${from}`);
    for (const one of space ? [space] : (["type", "value"] as const)) need(at, one, as);
  }
  for (const { at, space } of needed.values())
    for (const { text } of parts(at, space))
      eachName(text, (name, ofSpace) => {
        const found = resolve({ from: at.from, name });
        if (found) need(found, ofSpace);
        return name;
      });
  return written(needed, { modules, parts, resolve, flatNames });
}

type Context = {
  modules: ReadonlyMap<string, Module>;
  parts: (at: Imported, space: Space) => Declaration[];
  resolve: (at: Imported) => Imported | undefined;
  flatNames: ReadonlyMap<string, string>;
};

function written(
  needed: ReadonlyMap<string, { at: Imported; space: Space; exported: string | undefined }>,
  { modules, parts, resolve, flatNames }: Context,
): Flattened {
  const flat = ({ from, name }: Imported) => flatNames.get(`${name} ${from}`) ?? name;
  const imports = new Map<string, string[]>();
  const done = new Set<Declaration>();
  const texts: string[] = [];
  for (const { at, space, exported } of needed.values()) {
    if (!modules.has(at.from)) {
      const name = flat(at);
      const item = at.name === "*" ? `* as ${name}` : at.name === name ? name : `${at.name} as ${name}`;
      imports.set(at.from, [...new Set([...(imports.get(at.from) ?? []), item])]);
      continue;
    }
    for (const declaration of parts(at, space)) {
      if (done.has(declaration)) continue;
      done.add(declaration);
      const renamed = eachName(declaration.text, (name) => {
        const found = resolve({ from: at.from, name });
        return found ? flat(found) : name;
      });
      const doc = declaration.doc === "" ? "" : `${declaration.doc}\n`;
      texts.push(`${doc}${exported === undefined ? "" : "export "}${renamed}\n`);
    }
  }
  const importLines = [...imports].sort().map(([from, names]) => {
    const spaces = names.filter((name) => name.startsWith("*")).map((name) => `import type ${name} from "${from}";\n`);
    const plain = names.filter((name) => !name.startsWith("*")).sort();
    return `${spaces.join("")}${plain.length > 0 ? `import type { ${plain.join(", ")} } from "${from}";\n` : ""}`;
  });
  const packages = [...imports.keys()].filter((name) => !name.startsWith("node:"));
  return { text: `${importLines.join("")}\n${texts.join("\n")}\nexport {};\n`, packages };
}
