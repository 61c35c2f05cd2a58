"""The look and the behaviour of the dashboard: its style sheet and its script, which load nothing."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #ffffff; --ink: #1d2024; --soft: #666d76; --line: #e3e4e2;
  --accent: #0072b2; --best: #e8f3ea; --grid: #e9eae8; --low: #f4f5f4; --high: #0b4f7d; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --card: #1c1f24; --ink: #e6e8ea; --soft: #9aa2ab;
  --line: #30343b; --accent: #6cb8ea; --best: #1f3a2a; --grid: #2b2f36; --low: #262a30; --high: #8fd0f8; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 1.4rem; letter-spacing: -0.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 0.3rem; letter-spacing: -0.01em; }
h3 { font-size: 0.95rem; margin: 0 0 0.2rem; font-weight: 600; overflow-wrap: anywhere; }
p.note { margin: 0.1rem 0 0.9rem; color: var(--soft); font-size: 0.9rem; max-width: 46rem; }
p.missing { color: var(--soft); font-style: italic; border: 1px dashed var(--line); border-radius: 8px;
  padding: 0.8rem 1rem; margin: 0.6rem 0; }
code { font: 0.82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
a { color: var(--accent); overflow-wrap: anywhere; }
dl.facts { display: grid; gap: 0.7rem; margin: 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); }
dl.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.6rem 0.85rem; }
dt { color: var(--soft); font-size: 0.8rem; }
dd { margin: 0; font-size: 1.05rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.grid { display: grid; gap: 0.9rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least, 30rem)), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.8rem 0.9rem;
  min-width: 0; }
.card + .card:not(.grid > .card) { margin-top: 0.9rem; }
.plot { width: 100%; overflow: hidden; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.4rem 0.5rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { vertical-align: bottom; padding: 0; }
thead button { all: unset; box-sizing: border-box; width: 100%; cursor: pointer; color: var(--soft); font-weight: 600;
  font-size: 0.8rem; line-height: 1.25; padding: 0.4rem 0.5rem; white-space: normal; min-width: 4.6rem; }
thead button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
tbody th { font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
td small { display: block; color: var(--soft); font-size: 0.75rem; }
td.best { font-weight: 700; background: var(--best); }
td.none { color: var(--soft); }
label, .controls { font-size: 0.9rem; color: var(--soft); }
select, .controls button { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: 0.3rem 0.7rem; min-height: 2.2rem; cursor: pointer; }
label.choice { display: inline-flex; gap: 0.6rem; align-items: center; margin-bottom: 0.8rem; }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 6px; }
figcaption { min-height: 1.6em; margin: 0.6rem 0; text-align: center; overflow-wrap: anywhere; }
.controls { display: flex; gap: 0.6rem; align-items: center; }
.controls input { flex: 1; min-width: 4rem; accent-color: var(--accent); }
ul.files { padding-left: 1.1rem; margin: 0.4rem 0; }
[hidden] { display: none !important; }
@media (max-width: 600px) { main { padding: 1.3rem 0.8rem 3rem; } .card { padding: 0.6rem 0.55rem; }
  dl.facts { grid-template-columns: repeat(2, minmax(0, 1fr)); } h2 { margin-top: 2rem; } }
"""

SCRIPT = """
"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const drawn = new Set();

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim(); }

// Figures arrive without the page's own colours; these follow light and dark. "var:soft" names one of them.
function draw(plot) {
  const figure = JSON.parse(JSON.stringify(page.figures[plot.id]),
    (_, value) => typeof value === "string" && value.startsWith("var:") ? colour(value.slice(4)) : value);
  const axis = { gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("grid") };
  const layout = Object.assign(figure.layout, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("accent") },
  });
  for (const name of ["xaxis", "yaxis", ...Object.keys(layout).filter(key => /^[xy]axis\\d+$/.test(key))])
    layout[name] = { ...axis, ...layout[name] };
  for (const trace of figure.data) {
    if (trace.meta === "ink") trace.marker.color = colour("ink");
    if (trace.type === "heatmap") trace.colorscale ??= [[0, colour("low")], [1, colour("high")]];
  }
  for (const shape of layout.shapes || []) shape.line.color ??= colour("soft");
  drawn.add(plot);
  Plotly.react(plot, figure.data, layout, { responsive: true, displaylogo: false,
    displayModeBar: matchMedia("(hover: hover) and (min-width: 601px)").matches ? "hover" : false,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
}

for (const plot of document.querySelectorAll(".plot")) if (!plot.closest("[hidden]")) draw(plot);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));

const setting = document.getElementById("setting");
if (setting) setting.addEventListener("change", () => {
  for (const group of document.querySelectorAll("[data-setting]")) {
    group.hidden = group.dataset.setting !== setting.value;
    if (!group.hidden) group.querySelectorAll(".plot").forEach(draw);
  }
});

// A missing value sorts last either way.
function sortBy(header) {
  const table = header.closest("table"), body = table.tBodies[0], column = header.cellIndex;
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[column].dataset.value;
  const order = (a, b) => (isNaN(a) || isNaN(b)) ? a.localeCompare(b) : a - b;
  const rows = [...body.rows].sort((one, two) => {
    const a = key(one), b = key(two);
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return up ? order(a, b) : order(b, a);
  });
  body.append(...rows);
}
for (const header of document.querySelectorAll("thead th")) header.addEventListener("click", () => sortBy(header));

const slider = document.getElementById("step");
if (slider) {
  const picture = document.getElementById("frame"), caption = document.getElementById("caption");
  const play = document.getElementById("play");
  let timer = null;
  slider.max = page.frames.length - 1;
  function show(index) {
    slider.value = index;
    picture.src = page.frames[index].src;
    picture.alt = caption.textContent = page.frames[index].caption;
    document.getElementById("count").textContent = `${index + 1} / ${page.frames.length}`;
  }
  function stop() { clearInterval(timer); timer = null; play.textContent = "Play"; }
  function move(by) { show(Math.min(page.frames.length - 1, Math.max(0, Number(slider.value) + by))); }
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  document.getElementById("back").addEventListener("click", () => { stop(); move(-1); });
  document.getElementById("next").addEventListener("click", () => { stop(); move(1); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) === page.frames.length - 1) show(0);
    play.textContent = "Pause";
    timer = setInterval(() => { move(1); if (Number(slider.value) === page.frames.length - 1) stop(); }, 700);
  });
  show(0);
}
"""
