/**
 * The pushes of `ef exec --push`: the one when the command has ended, and those before it, while the job still has time.
 *
 * What Slurm does (seen with 22.05): at the time limit and at `scancel`, SIGCONT and SIGTERM go to every process of the job,
 * and SIGKILL KillWait seconds later. The signal of `sbatch --signal=B:…` goes to the process of the batch script alone, and
 * a shell hands none on to what it waits for; when that process ends, the rest of the job is killed at once. Hence `exec ef
 * exec` in a job script.
 */
import { EfError, Exit } from "../lib/base/errors.ts";
import { humanDuration, plural, sizeText } from "../lib/base/units.ts";
import type { Config } from "../lib/config/schema.ts";
import { jobOf, type SlurmJob } from "../lib/drivers/slurm.ts";
import { type AskOptions, jobEnd, killWaitS } from "../lib/drivers/slurm-time.ts";
import { type PushEvent, type PushOptions, type PushResult, push } from "../lib/push.ts";
import { type Ending, PushClock } from "./exec-clock.ts";
import { Stopped, say } from "./process.ts";
import { pushProgress } from "./push.ts";

export interface PushTimes {
  /** How long after SIGTERM a push may take, in seconds; undefined: what the cluster leaves. */
  withinS: number | undefined;
  /** How long before the job's time is over a first push begins, in seconds; 0 for none. */
  beforeS: number;
}

/** Without a word of Slurm's: its usual KillWait (slurm.conf(5)), less the moment that it takes to stop in order. */
const usualWithinS = 27;
const inOrderS = 3;
/** How long Slurm is asked for it once SIGTERM has come, in seconds. */
const answerS = 1;
/** A command that takes longer after SIGTERM may take all the time that there is, in seconds. */
const lingerS = 5;
/** So long after its time is over no SIGKILL is to be expected any more, in seconds. */
const pardonS = 10;
/** What the command changed within so many seconds may be half written. */
const settledS = 10;
/** When what was left is looked at again, in seconds, and how often. */
const againS = 15;
const mostAgain = 4;
/** A timer takes no more milliseconds. */
const mostTimerMs = 2 ** 31 - 1;

export class Pushes {
  readonly #config: Config;
  readonly #what: PushOptions;
  readonly #times: PushTimes;
  readonly #ending: Ending;
  /** Ends the questions to Slurm, and what is planned. */
  readonly #ended = new AbortController();
  #clock: PushClock | undefined;
  /** The push that runs beside the command. */
  #early: Promise<void> | undefined;
  #isAskedAgain = false;
  #again = 0;
  /** Is it still to be found out how long a push may take? */
  #isOpen = false;

  /** @param what to push: the variables that the command was given */
  constructor(config: Config, what: PushOptions, times: PushTimes) {
    this.#config = config;
    this.#what = what;
    this.#times = times;
    this.#ending = { withinS: times.withinS ?? usualWithinS };
  }

  /** The command runs. */
  begin(): void {
    const job = jobOf(process.env);
    // Of many tasks on a node one asks and pushes early: the others would push the same files.
    if (!job || Number(process.env.SLURM_LOCALID) > 0) return;
    this.#isOpen = this.#times.withinS === undefined;
    void this.#askSlurm(job);
  }

  /** The command was sent a signal. */
  hear(name: NodeJS.Signals): void {
    if (name === "SIGUSR1") this.#pushEarly("SIGUSR1");
    if (name !== "SIGTERM" || this.#ending.termAtMs !== undefined) return;
    this.#ending.termAtMs = performance.now();
    this.#clock?.start();
    this.#in(Math.min(lingerS, this.#ending.withinS / 4) * 1000, () => this.#pushEarly("the command still runs"));
  }

  /**
   * The command has ended: push the rest, within the time that is left where SIGTERM has come. What is not pushed by then is
   * still on scratch, and each file at the source its old or its new whole self.
   *
   * @returns the exit code of the push
   */
  async end(): Promise<number> {
    this.#ended.abort();
    await this.#early;
    // scancel may have ended the one that was asking, too.
    if (this.#ending.termAtMs !== undefined) await this.#askKillWait({ timeoutS: answerS });
    const { termAtMs, withinS } = this.#ending;
    const isPardoned = termAtMs !== undefined && performance.now() > termAtMs + (withinS + pardonS) * 1000;
    if (isPardoned) this.#ending.termAtMs = undefined;
    const far = new Map<string, { files: number; bytes: number }>();
    const tell = pushProgress({ quiet: false, names: "none" });
    const onEvent = (event: PushEvent) => {
      if (event.type === "progress") far.set(event.name, event);
      if (event.type === "result") far.delete(event.result.name);
      tell(event);
    };
    using clock = new PushClock(this.#ending);
    try {
      const { errors } = await this.#push(clock, { onEvent });
      return errors.length > 0 ? Exit.failed : Exit.ok;
    } catch (error) {
      for (const [name, { files, bytes }] of far)
        say(`${name}: ${plural(files, "file")}, ${sizeText(bytes)} pushed, the rest is still on scratch: ef push\n`);
      return sayWhy(error, clock);
    }
  }

  #push(clock: PushClock, options: PushOptions): Promise<PushResult> {
    return push(this.#config, { ...this.#what, ...options, signal: clock.signal });
  }

  async #askSlurm(job: SlurmJob): Promise<void> {
    const { signal } = this.#ended;
    const [endMs] = await Promise.all([jobEnd(job, { signal }), this.#askKillWait({ signal })]);
    if (endMs !== undefined && this.#times.beforeS > 0) this.#awaitEnd(job, endMs);
  }

  async #askKillWait(options: AskOptions): Promise<void> {
    const waitS = this.#isOpen ? await killWaitS(options) : undefined;
    if (waitS === undefined) return;
    this.#isOpen = false;
    this.#ending.withinS = Math.max(1, waitS - inOrderS);
  }

  /** Have a push begin before the job's time is over, or at the half of it where that is soon. */
  #awaitEnd(job: SlurmJob, endMs: number): void {
    const leftMs = endMs - Date.now();
    const beforeMs = Math.min(this.#times.beforeS * 1000, leftMs / 2);
    this.#in(leftMs - beforeMs, () => void this.#nearEnd(job, endMs, beforeMs));
  }

  async #nearEnd(job: SlurmJob, endMs: number, beforeMs: number): Promise<void> {
    // Somebody may have given it more time (scontrol update TimeLimit).
    const nowMs = (await jobEnd(job, { signal: this.#ended.signal, isAsked: true })) ?? endMs;
    if (nowMs > endMs + beforeMs) this.#awaitEnd(job, nowMs);
    else this.#pushEarly(`time limit in ${humanDuration(Math.max(0, nowMs - Date.now()) / 1000)}`);
  }

  /** Do something later, if the command still runs then. */
  #in(ms: number, work: () => void): void {
    const timer = setTimeout(
      () => {
        this.#ended.signal.removeEventListener("abort", cancel);
        if (ms > mostTimerMs) this.#in(ms - mostTimerMs, work);
        else work();
      },
      Math.min(Math.max(0, ms), mostTimerMs),
    );
    const cancel = () => clearTimeout(timer);
    if (this.#ended.signal.aborted) cancel();
    else this.#ended.signal.addEventListener("abort", cancel, { once: true });
  }

  /** One at a time: what is asked for meanwhile comes after it. */
  #pushEarly(why: string): void {
    if (this.#ended.signal.aborted) return;
    if (this.#early !== undefined) {
      this.#isAskedAgain = true;
      return;
    }
    say(`ef exec: ${why}: pushing what is there\n`);
    this.#again = 0;
    this.#early = this.#runEarly();
  }

  async #runEarly(): Promise<void> {
    do {
      this.#isAskedAgain = false;
      const began = performance.now();
      const later = await this.#oneEarly();
      if (later > 0 && this.#again++ < mostAgain && this.#ending.termAtMs === undefined)
        this.#in(Math.max(againS * 1000, performance.now() - began), () => {
          this.#early ??= this.#runEarly();
        });
    } while (this.#isAskedAgain && !this.#ended.signal.aborted);
    this.#early = undefined;
  }

  /** What goes wrong with it is said, and is for the last push to do better. @returns how much is left for later */
  async #oneEarly(): Promise<number> {
    using clock = new PushClock(this.#ending);
    this.#clock = clock;
    try {
      const onEvent = pushProgress({ quiet: false, names: "none", beside: true });
      const { vars } = await this.#push(clock, { settledS, onEvent });
      return vars.reduce((sum, { later = 0 }) => sum + later, 0);
    } catch (error) {
      if (!clock.signal.aborted) sayWhy(error, clock);
      return 0;
    } finally {
      this.#clock = undefined;
    }
  }
}

/** @returns the exit code for a push that was stopped, or could not begin */
function sayWhy(error: unknown, clock: PushClock): number {
  if (error instanceof Stopped) {
    say(`ef exec: the push was ${error.message}\n`);
    return error.exitCode;
  }
  if (clock.isOver) {
    say("ef exec: the push was stopped before SIGKILL comes; what it did not reach is still on scratch: ef push\n");
    return Exit.failed;
  }
  const { message, hint } = error as EfError;
  say(`error: ${message}\n${hint ? `  ${hint}\n` : ""}`);
  return error instanceof EfError ? error.exit : Exit.failed;
}
