import { EfError } from "../lib/base/errors.ts";
import { sizeText } from "../lib/base/units.ts";
import { columns } from "../lib/init.ts";
import type { PackageInfo } from "../lib/pack/package.ts";
import { cleanPackages, inspectPackage } from "../lib/pack.ts";
import { command, type Output } from "./args.ts";
import { type PackingArgs, pack, packageJson, packing, shown, tellPackage } from "./packing.ts";
import { say } from "./process.ts";

interface PackArgs {
  output: string | undefined;
  "dry-run": boolean;
  json: boolean;
}

export default command({
  name: "pack",
  description: "Pack a Python function, or a script, with all that it needs, into one archive",
  examples: [
    ["ef pack analysis.py:main --args '[3]'", "prints the path of the archive"],
    ["python3 $(ef pack analysis.py:main)", "run it: nothing but Python is needed"],
    ["ef pack --inspect main-3f9a2c1b45d60718.zip", "what is in it"],
    ["ef pack --clean --older-than 30d", "remove packages older than 30 days"],
  ],
  args: {
    target: {
      type: "positional",
      valueHint: "FILE.py:FUNCTION|FILE.ts",
      description: "What to pack",
      values: "file",
    },
    ...packing,
    output: {
      type: "string",
      alias: "o",
      valueHint: "FILE",
      description: "Where to write it (default: ~/.cache/ef/packages, $EF_PACKAGE_DIR)",
      values: "file",
    },
    "dry-run": { type: "boolean", alias: "n", description: "Say what would be packed, write nothing" },
    inspect: {
      type: "string",
      valueHint: "ARCHIVE",
      description: "Say what is in a package, and check it",
      values: "file",
    },
    clean: { type: "boolean", description: "Remove packages that nobody has made anew for a while" },
    "older-than": { type: "string", valueHint: "AGE", description: "For --clean: 30d, 12h, 45m (default: 30d)" },
  },
  async run({ args }): Promise<Output> {
    const tasks = { inspect: args.inspect !== undefined, clean: args.clean, target: args.target !== undefined };
    const [task, other] = Object.entries(tasks).flatMap(([name, isAsked]) => (isAsked ? [name] : []));
    if (task === undefined)
      throw new EfError("USAGE", "ef pack: there is nothing to pack", { hint: "write: ef pack FILE.py:FUNCTION" });
    if (other !== undefined) throw new EfError("USAGE", `ef pack: --${task} stands alone`);
    if (args["older-than"] !== undefined && !args.clean)
      throw new EfError("USAGE", "ef pack: --older-than is for --clean");
    if (args.inspect !== undefined) {
      const info = await inspectPackage(args.inspect);
      return { json: packageJson(info), text: contents(info) };
    }
    if (args.clean) {
      const removed = cleanPackages({ olderThanS: seconds(args["older-than"]), dryRun: args["dry-run"] });
      const what = args["dry-run"] ? "would remove" : "removed";
      if (!args.json) for (const path of removed) say(`${what} ${path}\n`);
      return { json: { dry_run: args["dry-run"], removed }, text: "" };
    }
    return packed(args.target ?? "", args);
  },
});

async function packed(target: string, args: PackingArgs & PackArgs): Promise<Output> {
  if (target.endsWith(".zip"))
    throw new EfError("USAGE", `ef pack ${target}: it is a package already`, {
      hint: `look into it: ef pack --inspect`,
    });
  const dryRun = args["dry-run"];
  const info = await pack(target, args, { dryRun, ...(args.output === undefined ? {} : { output: args.output }) });
  if (!args.json) tellPackage(info);
  return { json: { dry_run: dryRun, ...packageJson(info) }, text: dryRun ? contents(info) : `${info.packagePath}\n` };
}

function seconds(text = "30d"): number {
  const [, count, unit = "d"] = /^(\d{1,6}(?:\.\d+)?)([dhms]?)$/.exec(text) ?? [];
  const inUnit = { d: 86_400, h: 3600, m: 60, s: 1 }[unit || "d"];
  if (count !== undefined && inUnit !== undefined) return Number(count) * inUnit;
  throw new EfError("USAGE", `ef pack --older-than ${text}: not an age`, { hint: "write: 30d, 12h, 45m" });
}

function contents({ packageId, metadata, dependencies }: PackageInfo): string {
  const { function_info: info } = metadata;
  const rows = metadata.files.map(({ path, size_bytes }) => [sizeText(size_bytes), shown(path)]);
  return [
    `${info.name}  ${shown(info.file)}${metadata.kind === "python" ? `:${info.lineno}` : ""}`,
    `id ${packageId}`,
    ...(metadata.python_version === null ? [] : [`Python ${metadata.python_version}`]),
    ...columns(rows),
    ...dependencies.packages.map(({ name, version }) => `${name}${version === null ? "" : `==${version}`}`),
    "",
  ].join("\n");
}
