"use strict";
// Drawing: curves, maps of heads, and heads by layer over time. Everything is SVG, coloured by the style sheet.
const SVG = "http://www.w3.org/2000/svg";
const WIDE = 360, HIGH = 170, LEFT = 50, RIGHT = 8, TOP = 8, BOTTOM = 18, POINTS = 300;

function shape(kind, values, inside = null) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
  if (inside) inside.append(made);
  return made;
}

function label(text, values, inside) { shape("text", values, inside).textContent = text; }

function element(kind, text = "", className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = className;
  return made;
}

function figure(number) {
  if (number === null || number === undefined || !Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return number.toExponential(1);
  if (Number.isInteger(number)) return String(number);
  return size >= 100 ? number.toFixed(0) : size >= 10 ? number.toFixed(1) : size >= 1 ? number.toFixed(2) : number.toFixed(3);
}

function short(number) { return figure(number).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, ""); }

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(times => times * power).find(times => times >= rough * 0.999);
  const found = [];
  for (let number = Math.ceil(low / step); number * step <= high + step * 1e-9; number += 1) found.push(number * step);
  return found;
}

// Points as they are drawn: of many, the lowest and the highest of each part, so that no peak is lost.
function thinned(points) {
  if (points.length <= 2 * POINTS) return points;
  const found = [], size = points.length / POINTS;
  for (let part = 0; part < POINTS; part += 1) {
    const these = points.slice(Math.floor(part * size), Math.floor((part + 1) * size));
    const seen = these.filter(point => point[1] !== null);
    if (!seen.length) { found.push(these[0]); continue; }
    const low = seen.reduce((a, b) => b[1] < a[1] ? b : a), high = seen.reduce((a, b) => b[1] > a[1] ? b : a);
    found.push(...(low[0] <= high[0] ? [low, high] : [high, low]));
  }
  found.push(points.at(-1));
  return found;
}

// Curves of one metric: series are [{run, points: [[step, value or null], ...]}].
function chart(series) {
  const all = series.flatMap(one => one.points).filter(point => point[1] !== null);
  const picture = shape("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img" });
  if (!all.length) { label("no number yet", { x: LEFT, y: HIGH / 2 }, picture); return { picture, at: () => null }; }
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [x, y] of all) { x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y); }
  if (x0 === x1) { x0 -= 1; x1 += 1; }
  if (y0 === y1) { const room = Math.abs(y0) * 0.1 || 1; y0 -= room; y1 += room; }
  const x = step => LEFT + (step - x0) / (x1 - x0) * (WIDE - LEFT - RIGHT);
  const y = value => HIGH - BOTTOM - (value - y0) / (y1 - y0) * (HIGH - TOP - BOTTOM);
  for (const tick of ticks(y0, y1, 5)) {
    shape("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y(tick), y2: y(tick), class: "axis" }, picture);
    label(short(tick), { x: LEFT - 5, y: y(tick) + 3, "text-anchor": "end" }, picture);
  }
  for (const tick of ticks(x0, x1, 4)) {
    if (!Number.isInteger(tick)) continue;
    const end = x(tick) > WIDE - 24 ? "end" : "middle";
    label(short(tick), { x: x(tick), y: HIGH - 4, "text-anchor": end }, picture);
  }
  for (const { run, points } of series) {
    let path = "", on = false;
    for (const [step, value] of thinned(points)) {
      if (value === null) { on = false; continue; }
      path += `${on ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      on = true;
    }
    shape("path", { d: path, class: `line run${run}` }, picture);
    const last = points.findLast(point => point[1] !== null);
    if (last) shape("circle", { cx: x(last[0]), cy: y(last[1]), r: 2.4, class: `point run${run}` }, picture);
  }
  const hand = shape("line", { y1: TOP, y2: HIGH - BOTTOM, class: "hand", visibility: "hidden" }, picture);
  // The step that a place on the screen means; null takes the hand away.
  const at = place => {
    hand.setAttribute("visibility", place === null ? "hidden" : "visible");
    if (place === null) return null;
    const box = picture.getBoundingClientRect(), across = (place - box.left) / box.width * WIDE;
    const step = x0 + Math.min(1, Math.max(0, (across - LEFT) / (WIDE - LEFT - RIGHT))) * (x1 - x0);
    for (const end of ["x1", "x2"]) hand.setAttribute(end, x(step));
    return step;
  };
  return { picture, at };
}

function counted(grid, from, to) { return grid.reduce((sum, row) => sum + row.slice(from, to).reduce((a, b) => a + b, 0), 0); }

function says(grid, heads) {
  const of = (from, to, what) => to > from ? `${figure(counted(grid, from, to))} of ${grid.length * (to - from)} ${what}` : "";
  return [of(0, heads, "heads"), of(heads, grid[0].length, "MLP blocks")].filter(Boolean).join(", ");
}

// A map: a row is a layer; `before` is the grid that changes are told from, or null.
function map(grid, heads, before, run, name) {
  const size = 20, gap = 3, columns = grid[0].length, apart = heads > 0 && heads < columns ? size / 2 : 0;
  const wide = columns * (size + gap) + apart, high = grid.length * (size + gap);
  const picture = shape("svg", { viewBox: `-2 -2 ${Math.max(wide, 8 * size) + 2} ${high + 2}`, class: `map run${run}`, role: "img" });
  picture.setAttribute("aria-label", `${name}: ${says(grid, heads)} active`);
  grid.forEach((row, layer) => row.forEach((value, column) => {
    const place = { x: column * (size + gap) + (column >= heads ? apart : 0), y: layer * (size + gap), width: size, height: size, rx: 3 };
    const cell = shape("g", {}, picture);
    shape("rect", { ...place, class: "cell" }, cell);
    if (value > 0) shape("rect", { ...place, class: "on", "fill-opacity": value }, cell);
    if (before && before[layer]?.[column] !== value) shape("rect", { ...place, class: "changed" }, cell);
    const what = column < heads ? `head ${column + 1}` : `MLP block ${column - heads + 1}`;
    const state = value === 1 ? "active" : value === 0 ? "pruned" : `active on ${(100 * value).toFixed(0)}% of the texts`;
    shape("title", {}, cell).textContent = `layer ${layer + 1}, ${what}: ${state}`;
  }));
  return picture;
}

// The share of each layer that is active, over the rows of a run; a line marks the row that is shown.
function strip(rows, shown, run) {
  const most = 120, layers = rows[0].active.length, high = Math.min(8, 72 / layers), picked = [];
  for (let part = 0; part < Math.min(most, rows.length); part += 1) picked.push(Math.floor(part * rows.length / Math.min(most, rows.length)));
  const wide = 240 / picked.length;
  const picture = shape("svg", { viewBox: `0 0 240 ${layers * high}`, class: `strip run${run}`, role: "img",
    "aria-label": "share of each layer that is active, over the run" });
  picked.forEach((number, column) => rows[number].active.forEach((row, layer) => {
    const share = row.reduce((a, b) => a + b, 0) / row.length;
    const place = { x: column * wide, y: layer * high, width: wide, height: high - 1 };
    shape("rect", { ...place, class: "on", "fill-opacity": (0.08 + 0.92 * share).toFixed(3) }, picture);
  }));
  const now = (shown + 0.5) / rows.length * 240;
  shape("line", { x1: now, x2: now, y1: 0, y2: layers * high, class: "now" }, picture);
  return picture;
}
