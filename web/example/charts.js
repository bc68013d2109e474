/** Small charts of the example page. Text is set as text, never as HTML. */

export function element(tag, text, className) {
  const found = document.createElement(tag);
  if (text !== undefined) found.textContent = text;
  if (className) found.className = className;
  return found;
}

const number = (value) => {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1) : value.toPrecision(3);
};

/** The largest values as horizontal bars, with the index of each in the output. */
export function barChart(values, { most, isShare, names }) {
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a]);
  const kept = order.slice(0, most);
  const low = isShare ? 0 : Math.min(0, ...values);
  const span = (isShare ? 1 : Math.max(0, ...values)) - low || 1;
  const chart = element("div", undefined, "bars");
  for (const index of kept) {
    const isBest = values.length > 1 && index === order[0];
    const track = element("div", undefined, "track");
    const bar = element("div", undefined, isBest || values.length === 1 ? "bar best" : "bar");
    const [start, end] = [Math.min(0, values[index]), Math.max(0, values[index])];
    bar.style.left = `${((start - low) / span) * 100}%`;
    bar.style.width = `${((end - start) / span) * 100}%`;
    track.append(bar);
    const text = isShare ? `${(values[index] * 100).toFixed(1)} %` : number(values[index]);
    const className = isBest ? "best" : "";
    chart.append(
      element("span", names?.[index] ?? String(index), className),
      track,
      element("span", text, className),
    );
  }
  if (kept.length === order.length) return chart;
  const whole = element("div", undefined, "output");
  whole.append(
    chart,
    element("p", `The ${kept.length} largest of ${order.length} values.`, "quiet"),
  );
  return whole;
}

/** `[steps, values]` as a map: steps from left to right, one row per value. */
export function heatmap({ shape: [steps, features], data }, across, down) {
  const canvas = element("canvas");
  canvas.width = steps;
  canvas.height = Math.max(1, features);
  canvas.style.height = `${Math.min(14, Math.max(2, features * 0.9))}rem`;
  const values = Array.from(data, Number);
  const finite = values.filter(Number.isFinite);
  const low = finite.reduce((a, b) => Math.min(a, b), Infinity);
  const high = finite.reduce((a, b) => Math.max(a, b), -Infinity);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const [from, to] = isDark
    ? [
        [38, 45, 58],
        [150, 180, 255],
      ]
    : [
        [238, 241, 246],
        [30, 64, 160],
      ];
  for (let step = 0; step < steps; step += 1) {
    for (let row = 0; row < features; row += 1) {
      const value = values[step * features + row];
      const share = high > low ? (value - low) / (high - low) : 0.5;
      const at = 4 * (row * steps + step);
      from.forEach((start, i) => (image.data[at + i] = start + (to[i] - start) * share));
      image.data[at + 3] = Number.isFinite(value) ? 255 : 0;
    }
  }
  context.putImageData(image, 0, 0);
  canvas.setAttribute("role", "img");
  const words = `${steps} ${across}s across, ${features} ${down}s down`;
  canvas.setAttribute("aria-label", `Heat map: ${words}`);
  const figure = element("figure");
  const range = finite.length ? `, ${number(low)} (faint) to ${number(high)} (strong)` : "";
  figure.append(canvas, element("figcaption", words + range));
  return figure;
}

/** Numbers in a row, such as ids. */
export function chips(values) {
  const found = element("div", undefined, "chips");
  found.append(...values.slice(0, 400).map((value) => element("span", number(value))));
  if (values.length > 400) found.append(element("span", `… ${values.length} in all`));
  return found;
}

/** The time of each call as a bar. */
export function runsChart(times, format) {
  const names = "http://www.w3.org/2000/svg";
  const chart = document.createElementNS(names, "svg");
  const width = 100 / times.length;
  const largest = Math.max(...times);
  // A pause of the browser would flatten all other bars.
  const top = Math.min(largest, 3 * [...times].sort((a, b) => a - b)[times.length >> 1]);
  chart.setAttribute("viewBox", "0 0 100 30");
  chart.setAttribute("preserveAspectRatio", "none");
  chart.setAttribute("role", "img");
  const range = `${format(Math.min(...times))} to ${format(largest)} ms`;
  chart.setAttribute("aria-label", `Time of each call, from first to last: ${range}`);
  times.forEach((time, i) => {
    const bar = document.createElementNS(names, "rect");
    const height = (Math.min(time, top) / top) * 30;
    if (time > top) bar.setAttribute("class", "cut");
    const place = { x: i * width, y: 30 - height, width: width * 0.7, height };
    for (const [key, value] of Object.entries(place)) bar.setAttribute(key, String(value));
    chart.append(bar);
  });
  const figure = element("figure");
  figure.append(chart, element("figcaption", `From first to last: ${range} a call`));
  return figure;
}

/** Tokens with the tag of each; the outside tag "O" stays pale. */
export function tagged(tags) {
  const found = element("div", undefined, "tagged");
  for (const { token, tag, start } of tags) {
    const one = element("span", token ?? String(start), tag === "O" ? "" : "marked");
    one.append(element("small", tag));
    found.append(one);
  }
  return found;
}

export function table(heads, rows) {
  const found = element("table");
  const line = (cells, tag) => {
    const row = element("tr");
    row.append(...cells.map((cell) => element(tag, cell)));
    return row;
  };
  found.append(line(heads, "th"), ...rows.map((row) => line(row, "td")));
  const scroll = element("div", undefined, "scroll");
  scroll.append(found);
  return scroll;
}
