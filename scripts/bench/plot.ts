/**
 * Bars of seconds as an SVG, two panels in a row, one logarithmic axis for all. Pure: numbers in, text out.
 *
 * The colours follow the reader's theme: GitHub shows an SVG as an image, and its own style sheet holds in there.
 */

export interface Bar {
  label: string;
  seconds: number;
  /** ef's, in colour. */
  own: boolean;
}

export interface Panel {
  title: string;
  bars: Bar[];
  /** Drawn as a line: nobody can be to the left of it. */
  limitS?: number | undefined;
}

const width = 880;
const gap = 24;
const panelWidth = (width - gap) / 2;
const labels = 112;
const values = 52;
const barsWidth = panelWidth - labels - values;
const barHeight = 17;
const titleHeight = 30;
const axisHeight = 24;
const headHeight = 28;

const style = `
    text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
    .title { font-weight: 600 }
    .quiet { fill: #59636e; font-size: 11px }
    .bar { fill: #afb8c1 }
    .own { fill: #0969da }
    .grid { stroke: #d1d9e0 }
    .limit { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 4 3 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .quiet { fill: #9198a1 }
      .bar { fill: #656c76 }
      .own { fill: #4493f8 }
      .grid { stroke: #3d444d }
      .limit { stroke: #f85149 }
    }
  `;

export function plot(panels: readonly Panel[], title = "ef and others: seconds, shorter is better"): string {
  const scale = axis(panels.flatMap(({ bars, limitS }) => [...bars.map((bar) => bar.seconds), limitS ?? Infinity]));
  let top = headHeight;
  const drawn: string[] = [];
  for (let i = 0; i < panels.length; i += 2) {
    const row = panels.slice(i, i + 2);
    row.forEach((panel, column) => {
      drawn.push(`<g transform="translate(${column * (panelWidth + gap)} ${top})">`, ...draw(panel, scale), "</g>");
    });
    top += Math.max(...row.map(heightOf));
  }
  const hasLimit = panels.some(({ limitS }) => limitS !== undefined);
  const legend = `${title} (logarithmic)${hasLimit ? "; dashed: the model's limit" : ""}`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${top}" width="${width}" height="${top}" role="img">
  <title>${escapeXml(title)}</title>
  <style>${style}</style>
  ${text(0, 14, legend, "quiet")}
  ${drawn.join("\n  ")}
</svg>
`;
}

interface Axis {
  /** From the left of the bars, in pixels. */
  at: (seconds: number) => number;
  ticks: number[];
}

/** Whole powers of ten around all values; those that are not finite and above 0 do not count. */
function axis(all: number[]): Axis {
  const seconds = all.filter((value) => value > 0 && Number.isFinite(value));
  const from = Math.floor(Math.log10(Math.min(...seconds, 1)));
  const to = Math.max(from + 1, Math.ceil(Math.log10(Math.max(...seconds, 0.1))));
  const at = (value: number) => ((Math.log10(Math.max(value, 10 ** from)) - from) / (to - from)) * barsWidth;
  return { at, ticks: Array.from({ length: to - from + 1 }, (_, i) => 10 ** (from + i)) };
}

const heightOf = ({ bars }: Panel) => titleHeight + bars.length * barHeight + axisHeight;

function draw({ title, bars, limitS }: Panel, { at, ticks }: Axis): string[] {
  const bottom = titleHeight + bars.length * barHeight;
  const line = (x: number, kind: string) =>
    `<line class="${kind}" x1="${round(x)}" x2="${round(x)}" y1="${titleHeight - 4}" y2="${bottom}"/>`;
  const sorted = bars.toSorted((a, b) => a.seconds - b.seconds);
  return [
    text(0, 18, title, "title"),
    ...ticks.flatMap((tick) => [
      line(labels + at(tick), "grid"),
      text(labels + at(tick), bottom + 13, `${+tick.toPrecision(1)} s`, "quiet", "middle"),
    ]),
    ...sorted.flatMap(({ label, seconds, own }, i) => {
      const y = titleHeight + i * barHeight;
      const length = Math.max(2, at(seconds));
      return [
        `<rect class="${own ? "own" : "bar"}" x="${labels}" y="${y}" width="${round(length)}" height="${barHeight - 4}" rx="2"/>`,
        text(labels - 6, y + 11, label, own ? "title" : "", "end"),
        text(labels + length + 5, y + 11, secondsText(seconds)),
      ];
    }),
    ...(limitS === undefined ? [] : [line(labels + at(limitS), "limit")]),
  ];
}

function text(x: number, y: number, content: string, kind = "", anchor = ""): string {
  const attributes = `${kind && ` class="${kind}"`}${anchor && ` text-anchor="${anchor}"`}`;
  return `<text x="${round(x)}" y="${round(y)}"${attributes}>${escapeXml(content)}</text>`;
}

const secondsText = (seconds: number) => `${+seconds.toPrecision(seconds < 0.1 ? 2 : 3)}`;
const round = (value: number) => Math.round(value * 10) / 10;
const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escapeXml = (content: string) => content.replace(/[&<>"]/g, (found) => entities[found]!);
