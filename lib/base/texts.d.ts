/** Files that are imported as what they hold: `import text from "./run.py" with { type: "text" }`. */
declare module "*.py" {
  const text: string;
  export default text;
}

/** Files that are imported as their path. */
declare module "*.wasm" {
  const path: string;
  export default path;
}

/** Of the build (scripts/types-asset.ts): declarations as JSON, compressed by zstd, in base64. */
declare module "ef-types" {
  const packed: string;
  export default packed;
}
