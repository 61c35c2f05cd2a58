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
  for (const name of ["xaxis", "yaxis", ...Object.keys(layout).filter(key => /^[xy]axis\d+$/.test(key))])
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

// A slider with buttons back, play and next around it: `show` draws a position, `chosen` hears what the reader chose.
function stepper(name, count, pause, show, chosen = () => {}) {
  const [slider, back, play, next] = ["", "-back", "-play", "-next"].map(part => document.getElementById(name + part));
  const last = count - 1;
  let timer = null;
  slider.max = last;
  function move(index) { slider.value = Math.min(last, Math.max(0, index)); show(Number(slider.value)); }
  function choose(index) { move(index); chosen(Number(slider.value), last); }
  function halt() { clearInterval(timer); timer = null; play.textContent = "Play"; }
  slider.addEventListener("input", () => { halt(); choose(Number(slider.value)); });
  back.addEventListener("click", () => { halt(); choose(Number(slider.value) - 1); });
  next.addEventListener("click", () => { halt(); choose(Number(slider.value) + 1); });
  play.addEventListener("click", () => {
    if (timer) return halt();
    if (Number(slider.value) === last) choose(0);
    play.textContent = "Pause";
    timer = setInterval(() => { choose(Number(slider.value) + 1); if (Number(slider.value) === last) halt(); }, pause);
  });
  return move;
}
