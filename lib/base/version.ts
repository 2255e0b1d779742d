/** Set by the build; absent when run from the sources. */
declare const EF_VERSION: string;

/** Of ef. */
export const version: string = typeof EF_VERSION === "undefined" ? "0.1.0" : EF_VERSION;
