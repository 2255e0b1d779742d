/** Where many tasks write to one log, each line says whose it is. */
export interface LineTag {
  /** The node's name and a space. */
  text: string;
  /** Do other tasks write to the same terminal? */
  isShared: boolean;
}

/**
 * In a Slurm job of several nodes or tasks; undefined elsewhere. A step is what counts within one, else the job: `srun` of
 * one task in a job of many has its log for itself, and yet it may be started on each node in turn.
 *
 * Reads the environment itself: what asks Slurm takes longer to load than a whole fresh sync.
 *
 * @see https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES
 */
export function lineTag(env: Record<string, string | undefined>): LineTag | undefined {
  const { SLURM_JOB_ID: job, SLURMD_NODENAME: node, SLURM_STEP_ID: step } = env;
  if (!job || !node) return undefined;
  const isMany = (count: string | undefined) => Number(count) > 1;
  const isShared = Boolean(step) && isMany(env.SLURM_STEP_NUM_TASKS ?? env.SLURM_NTASKS);
  return isShared || isMany(env.SLURM_JOB_NUM_NODES) || isMany(env.SLURM_NTASKS)
    ? { text: `${node} `, isShared }
    : undefined;
}
