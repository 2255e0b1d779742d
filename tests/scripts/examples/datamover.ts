#!/usr/bin/env -S ef run
/** Fetch a data set by the site's data movers, and bring results to the archive in the background. */
import { Datamover, moveInBackground, moverJobEnd, waitfor } from "ef";

const [from = "", to = "", results = "", archive = ""] = process.argv.slice(2);
const dm = new Datamover();
const code = await waitfor(dm.dtcp("-r", from, to));
if (code !== 0) throw new Error(`dtcp ended with ${code}`);
console.log((await dm.dtls(to).communicate()).stdout.trim());

const { id } = await moveInBackground(dm, "cp", ["-r", results, archive]);
const { state } = await moverJobEnd(id, { timeoutS: 600 });
console.log(`job ${id}: ${state}`);
process.exitCode = state === "completed" ? 0 : 1;
