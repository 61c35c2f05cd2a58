"use strict";
// What the runs have written so far, as it arrives; drawn again a moment after it changes.
const at = id => document.getElementById(id);
const FIRST = [/return/, /potential/, /reward(?!_)/, /test_ppl/, /ppl/, /flops_kept/, /(test|train)_loss/, /rise/, /active_heads|sparsity/, /loss/], SHOWN = 6, COLUMNS = 5;
let runs = [], state = "Connecting …", due = null, every = false, playing = null;

function start(names) {
  runs = names.map(name => ({ name, metrics: new Map(), last: null, rows: 0, heads: new Map(), episodes: new Map() }));
  at("problems").replaceChildren();
  at("problems").hidden = true;
}

function take(event) {
  if (event.kind === "start") start(event.runs);
  if (event.kind === "caught up") state = "Live: new lines appear as they are written.";
  if (event.kind === "problem") {
    const name = event.run === null || event.run === undefined ? "" : `${runs[event.run].name}: `;
    if (at("problems").children.length < 20) at("problems").append(element("li", name + event.said));
    at("problems").hidden = false;
  }
  const run = runs[event.run];
  if (event.kind === "anew") forget(run, event.file);
  if (event.kind === "rows") for (const row of event.rows) add(run, event.file, row);
  if (due === null) due = setTimeout(draw, 60);
}

function forget(run, file) {
  if (file === "metrics") { run.metrics.clear(); run.last = null; run.rows = 0; }
  else run[file].clear();
}

function add(run, file, row) {
  const step = row.global_step;
  run.last = Math.max(run.last ?? step, step);
  if (file === "episodes") run.episodes.set(row.model, row);
  if (file === "heads") { if (!run.heads.has(row.model)) run.heads.set(row.model, []); run.heads.get(row.model).push(row); }
  if (file !== "metrics") return;
  run.rows += 1;
  for (const [name, value] of Object.entries(row)) {
    if (name === "global_step") continue;
    if (!run.metrics.has(name)) run.metrics.set(name, []);
    run.metrics.get(name).push([step, value]);
  }
}

function names() {
  const rank = name => {
    const found = FIRST.findIndex(part => part.test(name));
    return (found < 0 ? FIRST.length : found) + (name.startsWith("control/") ? 0.5 : 0);
  };
  return [...new Set(runs.flatMap(run => [...run.metrics.keys()]))].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

function dot(run, text, kind) {
  const made = element(kind, "", `run${run}`);
  made.append(element("span", "", "dot"), text);
  made.title = text;
  return made;
}

function lastOf(run, name) { return run.metrics.get(name)?.findLast(point => point[1] !== null)?.[1] ?? null; }

function drawRuns(metrics) {
  const columns = metrics.slice(0, COLUMNS);
  at("headings").replaceChildren(...["Run", "Last step", "Rows", ...columns].map(text => {
    const made = element("th", text);
    made.scope = "col";
    return made;
  }));
  at("runs").replaceChildren(...runs.map((run, number) => {
    const line = element("tr"), first = dot(number, run.name, "th");
    first.scope = "row";
    const told = [run.last ?? "–", run.rows, ...columns.map(name => figure(lastOf(run, name)))];
    line.append(first, ...told.map(text => element("td", text)));
    return line;
  }));
}

function drawCurves(metrics) {
  const asked = at("filter").value.trim().toLowerCase(), fitting = metrics.filter(name => name.toLowerCase().includes(asked));
  const shown = every || asked ? fitting : fitting.slice(0, SHOWN);
  at("curves-part").hidden = !metrics.length;
  at("all").hidden = metrics.length <= SHOWN;
  at("all").textContent = every ? `First ${SHOWN}` : `All ${metrics.length}`;
  at("all").setAttribute("aria-pressed", every);
  at("curves").replaceChildren(...shown.map(curve));
}

function curve(name) {
  const series = runs.map((run, number) => ({ run: number, points: run.metrics.get(name) ?? [] })).filter(one => one.points.length);
  const card = element("figure", "", "card"), caption = element("figcaption"), { picture, at: stepAt } = chart(series);
  const read = step => {
    const told = series.map(({ run, points }) => {
      const known = points.filter(point => point[1] !== null);
      if (!known.length) return null;
      const point = step === null ? known.at(-1) : known.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
      return [run, point];
    }).filter(Boolean);
    caption.replaceChildren(...told.flatMap(([run, point], place) => [place ? "  " : `step ${point[0]}: `, element("b", figure(point[1]), `run${run}`)]));
    picture.setAttribute("aria-label", `${name}: ${told.map(([run, point]) => `${runs[run].name} ${figure(point[1])} at step ${point[0]}`).join(", ")}`);
  };
  picture.addEventListener("pointermove", event => read(stepAt(event.clientX)));
  picture.addEventListener("pointerleave", () => { stepAt(null); read(null); });
  read(null);
  card.append(element("h3", name), picture, caption);
  return card;
}

function cards(part) { return runs.flatMap((run, number) => [...run[part]].map(([model, value]) => ({ run: number, model, value }))); }

function card(run, model, more) {
  const made = element("div", "", `card run${run}`);
  made.append(dot(run, runs[run].name, "h3"), element("p", [model, more].filter(Boolean).join(", "), "of"));
  return made;
}

function drawHeads() {
  const found = cards("heads"), slider = at("when"), steps = [...new Set(found.flatMap(one => one.value.map(row => row.global_step)))].sort((a, b) => a - b);
  at("heads-part").hidden = !found.length;
  if (!found.length) return;
  const follows = Number(slider.value) >= Number(slider.max);
  slider.max = steps.length - 1;
  if (follows) slider.value = slider.max;
  const step = steps[slider.value];
  slider.setAttribute("aria-valuetext", at("when-says").textContent = `step ${step}`);
  at("heads").replaceChildren(...found.map(({ run, model, value }) => {
    const place = Math.max(0, value.findLastIndex(row => row.global_step <= step)), row = value[place];
    const made = card(run, model, `step ${row.global_step}: ${says(row.active, row.heads)}`);
    made.append(map(row.active, row.heads, value[place - 1]?.active ?? null, run, runs[run].name));
    if (value.length > 1) made.append(strip(value, place, run));
    return made;
  }));
}

function drawEpisodes() {
  const found = cards("episodes"), slider = at("at");
  at("episode-part").hidden = !found.length;
  if (!found.length) return;
  const follows = Number(slider.value) >= Number(slider.max) && playing === null;
  slider.max = Math.max(...found.map(one => one.value.steps.length)) - 1;
  if (follows) slider.value = slider.max;
  const step = Number(slider.value);
  slider.setAttribute("aria-valuetext", at("at-says").textContent = `${step} of ${slider.max}`);
  at("episodes").replaceChildren(...found.map(({ run, model, value }) => {
    const place = Math.min(step, value.steps.length - 1), shown = value.steps[place];
    const made = card(run, model, [value.title, `played at step ${value.global_step}`].filter(Boolean).join(", "));
    made.append(map(shown.active, value.heads, place ? value.steps[place - 1].active : null, run, runs[run].name));
    const list = element("ul", "", "numbers");
    for (const [name, number] of Object.entries(shown.numbers)) {
      const entry = element("li", `${name} `);
      entry.append(element("b", figure(number)));
      list.append(entry);
    }
    made.append(element("p", `step ${place}: ${shown.note || says(shown.active, value.heads)}`, "of"), list);
    return made;
  }));
}

function draw() {
  due = null;
  const metrics = names(), nothing = !metrics.length && !cards("heads").length && !cards("episodes").length;
  at("state").textContent = nothing && state.startsWith("Live") ? "Live: nothing has been written yet." : state;
  drawRuns(metrics);
  drawCurves(metrics);
  drawHeads();
  drawEpisodes();
}

function play() {
  const on = playing === null;
  clearInterval(playing);
  playing = on ? setInterval(() => {
    const slider = at("at");
    slider.value = Number(slider.value) >= Number(slider.max) ? 0 : Number(slider.value) + 1;
    drawEpisodes();
  }, 700) : null;
  at("play").textContent = on ? "Pause" : "Play";
  at("play").setAttribute("aria-pressed", on);
}

at("filter").addEventListener("input", () => drawCurves(names()));
at("all").addEventListener("click", () => { every = !every; drawCurves(names()); });
at("when").addEventListener("input", drawHeads);
at("at").addEventListener("input", drawEpisodes);
at("play").addEventListener("click", play);
const source = new EventSource("events");
source.addEventListener("message", event => take(JSON.parse(event.data)));
source.addEventListener("error", () => { at("state").textContent = state = "The server does not answer: what is shown is what it said last."; });
