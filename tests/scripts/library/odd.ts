/** Times and names that runtimes see differently: syncs, and writes what came of it. */
import { writeFileSync } from "node:fs";
import * as ef from "ef";

const config = await ef.loadConfig();
const { steps, errors } = await ef.sync(config);
const again = await ef.sync(config, { force: true });
const verified = await ef.verify(config);
writeFileSync(
  process.env.REPORT ?? "",
  JSON.stringify({
    errors,
    files: steps[0]?.plan?.files,
    again: again.steps[0]?.plan?.files,
    verified: verified.errors,
  }),
);
