/** The function that is asked for: is it there, can it be packed, what does it take, what does it call. */
import { EfError } from "../base/errors.ts";
import { nearest } from "../base/nearest.ts";
import type { ReadModule } from "./python.ts";
import type { Definition, Parameters } from "./python-facts.ts";

type LookUp = (module: string) => ReadModule | undefined;

/** Built into Python; there is no code of them. */
const builtins = new Set(
  `abs aiter all anext any ascii bin bool breakpoint bytearray bytes callable chr classmethod compile complex delattr dict dir divmod
  enumerate eval exec filter float format frozenset getattr globals hasattr hash help hex id input int isinstance issubclass iter len list
  locals map max memoryview min next object oct open ord pow print property range repr reversed round set setattr slice sorted staticmethod
  str sum super tuple type vars zip __import__`.split(/\s+/),
);

/** `main`, or `Class.method`; undefined if the top of the file does not bind it. */
export function definitionAt({ facts }: Pick<ReadModule, "facts">, name: string): Definition | undefined {
  const [first = "", second] = name.split(".");
  const top = facts.definitions.get(first);
  if (second === undefined) return top;
  return top?.kind === "class" ? top.methods?.get(second) : undefined;
}

/**
 * @param isStandard of a module's first name
 * @throws {EfError} NOT_PACKABLE that says why not, and what to do
 */
export function assertFunction(
  module: ReadModule,
  name: string,
  lookUp: LookUp,
  isStandard: (top: string) => boolean,
): void {
  const bad = (why: string, hint?: string) =>
    new EfError("NOT_PACKABLE", `Cannot pack ${name} of ${module.file}: ${why}`, { hint, path: module.file });
  const { definitions } = module.facts;
  const [first = "", ...rest] = name.split(".");
  const found = definitions.get(first);
  if (found?.kind === "import" && found.import && rest.length === 0) {
    const { level, module: from } = found.import;
    const top = from.split(".")[0] ?? "";
    const isLocal = level > 0 || lookUp(from) !== undefined || lookUp(top) !== undefined;
    if (!isLocal)
      throw bad(
        `it is imported from ${from}, ${isStandard(top) ? "which is Python's own" : "an outside package"}: there is no code of yours to pack`,
        `write a function that calls it: def run(*args): return ${name}(*args)`,
      );
  }
  if (found && (rest.length === 0 || found.kind !== "class" || definitionAt(module, name))) return;
  if (rest.length > 0 && found?.kind === "class")
    throw bad(
      `the class ${first} defines no ${rest.join(".")}`,
      like(rest[0] ?? "", [...(found.methods?.keys() ?? [])]),
    );
  if (builtins.has(name)) throw bad("it is built into Python: there is no code to pack");
  const outer = [...definitions].find(([, { inner }]) => inner.has(name))?.[0];
  if (outer !== undefined)
    throw bad(
      `it is defined inside of ${outer}, and exists only while that runs`,
      "move it to the top of the file, or pack a function that calls it",
    );
  throw bad("there is no such function", like(name, functionsOf(module)));
}

const like = (name: string, known: readonly string[]): string | undefined => {
  const near = nearest(name, known);
  const all = known.length > 0 ? `there are: ${known.slice(0, 20).join(", ")}` : "it defines none";
  return near === undefined ? all : `did you mean ${near}? ${all}`;
};

/** What could be packed of a file. */
export const functionsOf = ({ facts }: Pick<ReadModule, "facts">): string[] =>
  [...facts.definitions]
    .filter(([name, { kind }]) => kind === "function" && !name.startsWith("_"))
    .map(([name]) => name);

/** Functions and classes of the project that it uses, by their names: as far as that can be told. */
export function localFunctions(
  main: ReadModule,
  name: string,
  lookUp: LookUp,
): { module: ReadModule; name: string; lineno: number }[] {
  const found = new Map<string, { module: ReadModule; name: string; lineno: number }>();
  const own = `${main.name}:${name.split(".")[0]}`;
  const todo: { module: ReadModule; name: string }[] = [{ module: main, name: name.split(".")[0] ?? "" }];
  const seen = new Set<string>();
  for (let next = todo.pop(); next; next = todo.pop()) {
    const { module, name: each } = next;
    const key = `${module.name}:${each}`;
    const definition = module.facts.definitions.get(each);
    if (!definition || seen.has(key)) continue;
    seen.add(key);
    if (definition.kind === "import" && definition.import) {
      const { level, module: from, names } = definition.import;
      const target = lookUp(level === 0 ? from : relativeName(module, level, from));
      const original = names.find(({ name: n, alias }) => (alias ?? n) === each)?.name;
      if (target && original !== undefined) todo.push({ module: target, name: original });
      continue;
    }
    if (key !== own && (definition.kind === "function" || definition.kind === "class"))
      found.set(key, { module, name: each, lineno: definition.lineno });
    for (const used of definition.uses) todo.push({ module, name: used });
  }
  return [...found.values()].sort((a, b) =>
    a.module.file === b.module.file ? a.lineno - b.lineno : a.module.file < b.module.file ? -1 : 1,
  );
}

const relativeName = ({ name, isPackage }: ReadModule, level: number, from: string): string => {
  const parts = name.split(".");
  return [...parts.slice(0, parts.length - level + (isPackage ? 1 : 0)), ...(from === "" ? [] : [from])].join(".");
};

/**
 * Do these arguments fit? Only where the code says it for sure: a plain function without decorators.
 *
 * @throws {EfError} USAGE, with what it takes
 */
export function checkArguments(
  definition: Definition | undefined,
  name: string,
  args: readonly unknown[],
  kwargs: Readonly<Record<string, unknown>>,
): void {
  const parameters = definition?.kind === "function" && !definition.isDecorated ? definition.parameters : undefined;
  if (!parameters || name.includes(".")) return;
  const why = misfit(parameters, args, kwargs);
  if (why === undefined) return;
  throw new EfError("USAGE", `Cannot call ${name} with these arguments: ${why}`, {
    hint: `it takes: ${name}${parameters.text}`,
  });
}

function misfit(
  { places, names, required, hasArgs, hasKwargs }: Parameters,
  args: readonly unknown[],
  kwargs: Readonly<Record<string, unknown>>,
): string | undefined {
  if (args.length > places.length && !hasArgs) return `${args.length} by their place, and it takes ${places.length}`;
  const given = new Set([...places.slice(0, args.length), ...Object.keys(kwargs)]);
  const unknown = Object.keys(kwargs).find((name) => !names.includes(name));
  if (unknown !== undefined && !hasKwargs) return `it takes no ${unknown}`;
  const twice = places.slice(0, args.length).find((name) => name in kwargs);
  if (twice !== undefined) return `${twice} is given twice`;
  const missing = required.filter((name) => !given.has(name));
  return missing.length > 0 ? `${missing.join(", ")} is missing` : undefined;
}
