/** What one Python file says of itself: what it imports, defines, and reads. Nothing is resolved yet. */
import type { Node } from "./parser.ts";
import { argumentsOf, calledName, calledObject } from "./python-values.ts";

/** An import as it stands there. */
export interface Import {
  /** `a.b`; for a relative one without its dots. */
  module: string;
  /** How many dots: 0 for an absolute one. */
  level: number;
  /** Imported names and what they are called here; `*` for all. */
  names: { name: string; alias: string | null }[];
  alias: string | null;
  isFrom: boolean;
  lineno: number;
  /** Its failure is expected: `try: … except ImportError`. */
  isOptional: boolean;
}

export interface Parameters {
  /** Names of those that may be given by place, `*args` and such left out. */
  places: string[];
  /** Names that may be given by name. */
  names: string[];
  /** Names that must be given. */
  required: string[];
  hasArgs: boolean;
  hasKwargs: boolean;
  text: string;
}

/** A name that is bound at the top of a file. */
export interface Definition {
  kind: "function" | "class" | "value" | "import";
  lineno: number;
  isAsync: boolean;
  isDecorated: boolean;
  parameters?: Parameters | undefined;
  /** Of a class. */
  methods?: Map<string, Definition>;
  /** Names that its code uses. */
  uses: Set<string>;
  /** Functions that are defined inside. */
  inner: Set<string>;
  import?: Import;
}

export interface Facts {
  imports: Import[];
  definitions: Map<string, Definition>;
  /** Each call, with the function that it stands in. */
  calls: { call: Node; scope: Node | undefined }[];
  /** The only assignment of a name, of the module and of each function. */
  constants: (scope: Node | undefined, name: string) => Node | undefined;
  /** `__all__`, as far as it is literal. */
  all: string[];
}

interface Place {
  scope: Node | undefined;
  isOptional: boolean;
}

/** Blocks that do not run when a file is imported, or only for type checkers. */
const isIdle = (condition: string): "never" | "main" | undefined =>
  /^(?:typing\.)?TYPE_CHECKING$/.test(condition)
    ? "never"
    : /^__name__\s*==\s*(["'])__main__\1$/.test(condition) || /^(["'])__main__\1\s*==\s*__name__$/.test(condition)
      ? "main"
      : undefined;

export function factsOf(root: Node): Facts {
  const facts: Facts = { imports: [], definitions: new Map(), calls: [], constants: () => undefined, all: [] };
  const assigned = new Map<number, Map<string, Node | null>>();
  const scopeId = (scope: Node | undefined) => scope?.id ?? 0;
  facts.constants = (scope, name) => {
    const inner = scope ? assigned.get(scopeId(scope))?.get(name) : undefined;
    return (inner === undefined ? assigned.get(0)?.get(name) : inner) ?? undefined;
  };
  const note = (scope: Node | undefined, name: string, value: Node | null) => {
    const names = assigned.get(scopeId(scope)) ?? new Map<string, Node | null>();
    assigned.set(scopeId(scope), names);
    names.set(name, names.has(name) ? null : value); // assigned twice: only running it would tell
  };
  const todo: { node: Node; place: Place }[] = [{ node: root, place: { scope: undefined, isOptional: false } }];
  for (let next = todo.pop(); next; next = todo.pop()) visit(next.node, next.place);
  facts.imports.sort((a, b) => a.lineno - b.lineno);
  readAll(root, facts);
  return facts;

  function visit(node: Node, place: Place): void {
    switch (node.type) {
      case "import_statement":
      case "import_from_statement":
        facts.imports.push(...importsOf(node, place.isOptional));
        return;
      case "if_statement": {
        const idle = isIdle(node.childForFieldName("condition")?.text ?? "");
        const skipped = idle ? node.childForFieldName("consequence")?.id : undefined;
        children(node, place, (child) => child.id !== skipped);
        return;
      }
      case "try_statement": {
        const expects = node.namedChildren.some((each) => each?.type === "except_clause" && expectsImportError(each));
        const body = node.childForFieldName("body");
        for (const child of node.namedChildren)
          if (child)
            todo.push({
              node: child,
              place: { ...place, isOptional: place.isOptional || (expects && child.id === body?.id) },
            });
        return;
      }
      case "function_definition":
      case "lambda":
        for (const parameter of node.childForFieldName("parameters")?.namedChildren ?? []) {
          const name =
            parameter?.childForFieldName("name")?.text ??
            (parameter?.type === "identifier" ? parameter.text : undefined);
          if (name) note(node, name, parameter?.childForFieldName("value") ?? null);
        }
        children(node, { ...place, scope: node });
        return;
      case "assignment": {
        const left = node.childForFieldName("left");
        if (left?.type === "identifier") note(place.scope, left.text, node.childForFieldName("right"));
        children(node, place);
        return;
      }
      case "augmented_assignment":
      case "for_statement":
      case "named_expression": {
        const left = node.childForFieldName("left") ?? node.childForFieldName("name");
        if (left?.type === "identifier") note(place.scope, left.text, null);
        children(node, place);
        return;
      }
      case "call":
        facts.calls.push({ call: node, scope: place.scope });
        children(node, place);
        return;
      default:
        children(node, place);
        return;
    }
  }

  function children(node: Node, place: Place, keep: (child: Node) => boolean = () => true): void {
    for (const child of node.namedChildren) if (child && keep(child)) todo.push({ node: child, place });
  }
}

/** `except ImportError`, `except (ImportError, …)`, `except Exception`, `except:`. */
function expectsImportError(clause: Node): boolean {
  const head = clause.text.split(":", 1)[0] ?? "";
  return /^except\*?\s*$/.test(head) || /\b(?:ImportError|ModuleNotFoundError|Exception|BaseException)\b/.test(head);
}

function importsOf(node: Node, isOptional: boolean): Import[] {
  const lineno = node.startPosition.row + 1;
  const named = (each: Node) =>
    each.type === "aliased_import"
      ? { name: each.childForFieldName("name")?.text ?? "", alias: each.childForFieldName("alias")?.text ?? null }
      : { name: each.text, alias: null };
  const clean = (name: string) => name.replaceAll(/\s+/g, "");
  if (node.type === "import_statement") {
    return node.childrenForFieldName("name").flatMap((each) => {
      if (!each) return [];
      const { name, alias } = named(each);
      return [{ module: clean(name), level: 0, names: [], alias, isFrom: false, lineno, isOptional }];
    });
  }
  const from = node.childForFieldName("module_name");
  const dots = from?.type === "relative_import" ? clean(from.firstChild?.text ?? "") : "";
  const module = clean(
    from?.type === "relative_import"
      ? (from.namedChildren.find((each) => each?.type === "dotted_name")?.text ?? "")
      : (from?.text ?? ""),
  );
  const isAll = node.namedChildren.some((each) => each?.type === "wildcard_import");
  const names = isAll
    ? [{ name: "*", alias: null }]
    : node.childrenForFieldName("name").flatMap((each) => (each ? [named(each)] : []));
  return [{ module, level: dots.length, names, alias: null, isFrom: true, lineno, isOptional }];
}

/** Names that the top of a file binds, in whatever way; the last one counts. */
function readAll(root: Node, facts: Facts): void {
  const bind = (name: string, definition: Definition) => facts.definitions.set(name, definition);
  const walk = (node: Node): void => {
    for (const child of node.namedChildren) {
      if (!child) continue;
      const lineno = child.startPosition.row + 1;
      switch (child.type) {
        case "decorated_definition": {
          const inner = child.childForFieldName("definition");
          const name = inner?.childForFieldName("name")?.text;
          if (inner && name) bind(name, { ...definitionOf(inner), isDecorated: true, uses: usedIn(child) });
          break;
        }
        case "function_definition":
        case "class_definition":
          bind(child.childForFieldName("name")?.text ?? "", definitionOf(child));
          break;
        case "expression_statement":
          for (const assignment of child.namedChildren) {
            if (assignment?.type === "assignment") bindAssignment(assignment, bind, facts);
            else if (assignment) extendAll(assignment, facts);
          }
          break;
        case "if_statement":
        case "else_clause":
        case "elif_clause":
        case "try_statement":
        case "except_clause":
        case "finally_clause":
        case "with_statement":
        case "for_statement":
        case "while_statement":
        case "block":
          walk(child);
          break;
        case "import_statement":
        case "import_from_statement":
          for (const each of importsOf(child, false)) {
            const one = (name: string) =>
              bind(name, {
                kind: "import",
                lineno,
                isAsync: false,
                isDecorated: false,
                uses: new Set(),
                inner: new Set(),
                import: each,
              });
            if (each.isFrom) for (const { name, alias } of each.names) one(alias ?? name);
            else one(each.alias ?? each.module.split(".")[0] ?? "");
          }
      }
    }
  };
  walk(root);
}

function bindAssignment(assignment: Node, bind: (name: string, definition: Definition) => void, facts: Facts): void {
  const left = assignment.childForFieldName("left");
  const right = assignment.childForFieldName("right");
  if (!left) return;
  const names = left.type === "identifier" ? [left] : left.descendantsOfType("identifier");
  for (const name of names) {
    if (!name) continue;
    const lineno = name.startPosition.row + 1;
    bind(name.text, {
      kind: "value",
      lineno,
      isAsync: false,
      isDecorated: false,
      uses: right ? usedIn(right) : new Set(),
      inner: new Set(),
    });
    if (name.text === "__all__" && right) facts.all.push(...literalsIn(right));
  }
  if (right?.type === "assignment") bindAssignment(right, bind, facts);
}

/** `__all__ += […]`, `__all__.extend([…])`, `__all__.append("x")`. */
function extendAll(node: Node, facts: Facts): void {
  const isMore = node.type === "augmented_assignment" && node.childForFieldName("left")?.text === "__all__";
  const isCall =
    node.type === "call" && calledObject(node)?.text === "__all__" && ["extend", "append"].includes(calledName(node));
  if (isMore) facts.all.push(...literalsIn(node.childForFieldName("right") as Node));
  else if (isCall) for (const argument of argumentsOf(node).places) facts.all.push(...literalsIn(argument));
}

const literalsIn = (node: Node): string[] =>
  node.descendantsOfType("string_content").flatMap((each) => (each ? [each.text] : []));

function definitionOf(node: Node): Definition {
  const base = { lineno: node.startPosition.row + 1, isDecorated: false, uses: usedIn(node), inner: innerOf(node) };
  const isAsync = node.children[0]?.type === "async";
  if (node.type === "function_definition")
    return { ...base, kind: "function", isAsync, parameters: parametersOf(node) };
  const methods = new Map<string, Definition>();
  for (const child of node.childForFieldName("body")?.namedChildren ?? []) {
    const inner = child?.type === "decorated_definition" ? child.childForFieldName("definition") : child;
    if (inner?.type !== "function_definition" || !child) continue;
    const isDecorated = child.type === "decorated_definition";
    methods.set(inner.childForFieldName("name")?.text ?? "", { ...definitionOf(inner), isDecorated });
  }
  return { ...base, kind: "class", isAsync: false, methods };
}

const usedIn = (node: Node): Set<string> =>
  new Set(node.descendantsOfType("identifier").flatMap((each) => (each ? [each.text] : [])));

const innerOf = (node: Node): Set<string> =>
  new Set(
    node
      .descendantsOfType("function_definition")
      .flatMap((each) => (each && each.id !== node.id ? [each.childForFieldName("name")?.text ?? ""] : [])),
  );

function parametersOf(node: Node): Parameters {
  const parameters = node.childForFieldName("parameters");
  const found: Parameters = {
    places: [],
    names: [],
    required: [],
    hasArgs: false,
    hasKwargs: false,
    text: parameters?.text ?? "()",
  };
  let onlyNames = false;
  for (const child of parameters?.namedChildren ?? []) {
    if (!child || child.type === "comment") continue;
    const pattern = child.type === "typed_parameter" ? child.namedChildren[0] : child;
    if (pattern?.type === "list_splat_pattern") {
      found.hasArgs = true;
      onlyNames = true;
    } else if (pattern?.type === "dictionary_splat_pattern") found.hasKwargs = true;
    else if (child.type === "keyword_separator") onlyNames = true;
    else if (child.type === "positional_separator") found.names = [];
    else {
      const name = child.childForFieldName("name")?.text ?? pattern?.text ?? "";
      if (!onlyNames) found.places.push(name);
      found.names.push(name);
      if (!child.type.includes("default")) found.required.push(name);
    }
  }
  return found;
}
