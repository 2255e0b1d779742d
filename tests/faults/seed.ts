/** The same slice each time in `npm test`; another one each time in the long form. */
export const isLong = process.env.EF_FAULTS === "long";
export const seed = Number(process.env.EF_FAULT_SEED ?? (isLong ? Math.floor(Date.now() / 1000) : 1));
