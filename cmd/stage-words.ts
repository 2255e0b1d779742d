/** `ef stage --job -N 3 --time=30`: what follows `--job` and is no flag of ef's is sbatch's, also without a `--` before it. */
import { allArgs, flagName } from "./args.ts";
import stage from "./stage.ts";

/** The long flags of `ef stage`, and whether a value follows as the next word. Short ones are sbatch's: its `-n` is no dry run. */
const own = new Map(
  Object.entries(allArgs(stage)).map(([name, arg]) => [flagName(name, arg), arg.type !== "boolean"] as const),
);

/** The command line as the parser takes it: `ef stage --job -- -N 3 --time=30`. Others stay as they are. */
export function beforeSbatch(argv: readonly string[]): readonly string[] {
  const job = argv.indexOf("--job");
  if (argv.find((word) => !word.startsWith("-")) !== "stage" || job === -1 || argv.includes("--")) return argv;
  const ours = argv.slice(0, job + 1);
  const theirs: string[] = [];
  for (let i = job + 1; i < argv.length; i++) {
    const word = argv[i] as string;
    const hasValue = own.get(word);
    if (hasValue === undefined && !own.has(word.split("=", 1)[0] ?? "")) theirs.push(word);
    else ours.push(word, ...(hasValue ? argv.slice(++i, i + 1) : []));
  }
  return theirs.length > 0 ? [...ours, "--", ...theirs] : argv;
}
