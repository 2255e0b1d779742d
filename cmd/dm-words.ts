/** `ef dm cp -r A B`: what follows the tool's name is the tool's, as it stands there, `--help` and `--json` too. */
import { allArgs, type Commands, subcommands } from "./args.ts";
import run from "./dm-run.ts";

/** `ef dm -v cp -r A B` as the parser takes it: `ef dm run -v -- cp -r A B`. Other command lines stay as they are. */
export function beforeTool(argv: readonly string[], commands: Commands): readonly string[] {
  const dm = skipOptions(argv, 0);
  if (argv[dm] !== "dm") return argv;
  const at = skipOptions(argv, dm + 1);
  const word = argv[at];
  const before = argv.slice(0, dm + 1);
  const options = argv.slice(dm + 1, at);
  if (word !== undefined && subcommands(commands, "dm").includes(word)) {
    const rest = argv.slice(at + 1);
    if (word !== "run") return [...before, word, ...options, ...rest];
    const tool = skipOptions(rest, 0);
    const end = tool >= rest.length || rest[tool] === "--" ? [] : ["--"];
    return [...before, word, ...options, ...rest.slice(0, tool), ...end, ...rest.slice(tool)];
  }
  if (word === undefined) {
    const isHelp = options.length === 0 || options.some((option) => option === "--help" || option === "-h");
    return isHelp ? argv : [...before, "run", ...options];
  }
  return [...before, "run", ...options, ...(word === "--" ? [] : ["--"]), ...argv.slice(at)];
}

/** The flags of `ef dm run` that take a value, as the next word. */
const valued = Object.entries(allArgs(run)).flatMap(([name, { type }]) => (type === "string" ? [`--${name}`] : []));

/** The place of the first word from `at` on that is neither an option nor the value of one; `--` is one. */
function skipOptions(argv: readonly string[], at: number): number {
  let i = at;
  for (let word = argv[i]; word?.startsWith("-") && word !== "--" && word !== "-"; word = argv[i]) {
    i += valued.includes(word) ? 2 : 1;
  }
  return Math.min(i, argv.length);
}
