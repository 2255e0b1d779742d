/** What a worker of a script loads before its own file: there too, `import … from "ef"` is what the program holds. */
import { provide } from "./run-modules.ts";

await provide(!import.meta.url.includes("/$bunfs/")); // as cmd/run.ts does
