/** Keys, tokens and passwords, which must not leave in a package unless they were named themselves. */
import { closeSync, openSync, readSync, realpathSync } from "node:fs";
import { basename } from "node:path";

/** Names of files that hold such things, and what they are. */
const names: readonly (readonly [RegExp, string])[] = [
  [/^\.env(?:rc|\..+)?$|\.env$/i, "variables of an environment"],
  [/\.(?:pem|key|p12|pfx|jks|keystore|ppk|kdbx)$/i, "a key"],
  [/^(?:id|identity)_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?(?!.*\.pub$)/i, "a private key of ssh"],
  [/^\.?netrc$|^\.pgpass$|^\.my\.cnf$|^\.htpasswd$|^\.git-credentials$|^\.dockercfg$/i, "passwords"],
  [/^\.pypirc$|^\.npmrc$|^\.yarnrc(?:\.yml)?$|^\.condarc$/i, "a token of a package registry"],
  [/^(?:credentials?|secrets?)(?:\.(?:json|ya?ml|toml|ini|cfg|txt))?$/i, "credentials"],
  // tokens.txt and added_tokens.json are vocabularies.
  [/^(?:(?:hf|huggingface|access|api|auth|github|wandb)[._-])?token(?:\.(?:txt|json))?$|^stored_tokens$/i, "a token"],
  [/^kaggle\.json$|^kubeconfig$|^service[-_]?account.*\.json$|^application_default_credentials\.json$/i, "credentials"],
  [/^rclone\.conf$|^\.s3cfg$|^\.boto$|^\.Renviron$/, "credentials"],
];
/** Directories whose files are such things. */
const dirs = /(?:^|\/)\.(?:aws|ssh|gnupg|kube|azure|docker|config\/gcloud)\//;

/** What begins a private key, wherever it stands; and one of a service account. */
const contents: readonly (readonly [RegExp, string])[] = [
  [/"private_key"\s*:\s*"-----BEGIN/, "it holds the key of a service account"],
  [/-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----/, "it holds a private key"],
];
/** In code, which may well look for such a beginning, what follows must be a key too. */
const inCode = /-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----(?:[\s"'+]|\\[nr])*[A-Za-z0-9+/=]{32}/;

/** Keys are small, in bytes: no more of a file is looked into. */
const lookedInto = 64 << 10;

/**
 * Why a file looks like a secret; undefined if it does not.
 *
 * @param path within the project
 * @param source absolute; where it is a link, what it leads to counts as well
 */
export function secretIn(path: string, source: string, kind: "code" | "data"): string | undefined {
  const head = headOf(source);
  if (kind === "code") return inCode.test(head) ? "it holds a private key" : undefined;
  return byName(path) ?? byName(realOf(source)) ?? contents.find(([pattern]) => pattern.test(head))?.[1];
}

function byName(path: string): string | undefined {
  const [, what] = names.find(([pattern]) => pattern.test(basename(path))) ?? [];
  if (what !== undefined) return `by its name it holds ${what}`;
  return dirs.test(path) ? "it lies in a directory of keys and tokens" : undefined;
}

function realOf(source: string): string {
  try {
    return realpathSync(source);
  } catch {
    return source; // whoever packs it hears why
  }
}

function headOf(source: string): string {
  const buffer = Buffer.alloc(lookedInto);
  try {
    const fd = openSync(source, "r");
    try {
      return buffer.toString("latin1", 0, readSync(fd, buffer, 0, lookedInto, 0));
    } finally {
      closeSync(fd);
    }
  } catch {
    return ""; // whoever packs it hears why
  }
}
