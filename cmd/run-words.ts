/** `ef run SCRIPT ARGS`: what follows the script's name is the script's, as it stands there, `--help` and `--json` too. */
const valued = ["--types", "--into", "--config"];

/** `ef run --into DIR a.ts -x` as the parser takes it: `ef run --into DIR -- a.ts -x`. Other command lines stay as they are. */
export function beforeScript(argv: readonly string[]): readonly string[] {
  const run = skipOptions(argv, 0);
  if (argv[run] !== "run") return argv;
  const script = skipOptions(argv, run + 1);
  if (script >= argv.length || argv[script] === "--") return argv;
  return [...argv.slice(0, script), "--", ...argv.slice(script)];
}

function skipOptions(argv: readonly string[], at: number): number {
  let i = at;
  for (let word = argv[i]; word?.startsWith("-") && word !== "--" && word !== "-"; word = argv[i])
    i += valued.includes(word) ? 2 : 1;
  return i;
}
