"use strict";
const at = id => document.getElementById(id);
const percent = share => `${(100 * share).toFixed(1)}%`;
let structures = [], shown = null, asking = null;

function row(cells, now = false) {
  const line = document.createElement("tr");
  line.classList.toggle("now", now);
  cells.forEach((text, place) => {
    const cell = document.createElement(place ? "td" : "th");
    if (!place) cell.scope = "row";
    cell.textContent = cell.title = text;
    line.append(cell);
  });
  return line;
}

function count(mask) { return mask.flat().filter(Boolean).length; }
function of(mask) { return `${count(mask)} of ${mask.flat().length}`; }

// A row is a layer: its heads, a gap, its MLP blocks where these are units too.
function draw(name) {
  const now = structures.find(one => one.name === name), before = structures.find(one => one.name === shown);
  if (!now) return;
  const cells = [];
  now.heads.forEach((heads, layer) => {
    const parts = [["head", heads, before?.heads[layer]], ["MLP block", now.blocks[layer], before?.blocks[layer]]];
    parts.forEach(([what, mask, old], part) => {
      if (part && mask.length) cells.push(cell("gap"));
      mask.forEach((on, number) => {
        const one = cell(on ? "on" : "off");
        if (old && old[number] !== on) one.classList.add("new");
        one.title = `layer ${layer + 1}, ${what} ${number + 1}: ${on ? "runs" : "pruned"}`;
        cells.push(one);
      });
    });
  });
  const blocks = now.blocks[0].length, columns = now.heads[0].length + (blocks ? blocks + 1 : 0), map = at("map");
  map.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  map.style.maxWidth = `${Math.min(30, 2.1 * columns)}rem`;
  map.replaceChildren(...cells);
  map.setAttribute("aria-label", `${name}: ${of(now.heads)} heads run`);
  at("map-says").textContent = `${name}: a row is a layer, a column a head` + (blocks ? ", then its MLP blocks." : ".");
  at("structure").textContent = name;
  at("running").textContent = of(now.heads);
  shown = name;
}

function cell(kind) {
  const made = document.createElement("i");
  made.className = `cell ${kind}`;
  return made;
}

async function load() {
  structures = await (await fetch("v1/structures")).json();
  at("structures").replaceChildren(...structures.map(one => row([
    one.name, of(one.heads), percent(one.flops_kept), one.requests, one.tokens,
    one.tokens_per_second === null ? "–" : one.tokens_per_second.toFixed(0),
    one.served_flops_kept === null ? "–" : percent(1 - one.served_flops_kept),
  ], one.name === shown)));
  if (shown === null) draw(structures[0].name);
}

function fail(said) { at("problem").textContent = said; at("problem").hidden = false; }

function hear(data, state) {
  if (data.error) throw new Error(data.error.message);
  const [part] = data.choices;
  if (part.text) at("made").textContent += part.text;
  const about = part.plasticity;
  if (about && about.structure !== state.structure) { state.structure = about.structure; draw(about.structure); }
  if (about && part.finish_reason) {
    at("saved").textContent = percent(1 - about.flops_kept);
    at("speed").textContent = about.tokens_per_second.toFixed(1);
    at("requests").prepend(row([state.prompt, about.structure, about.completion_tokens, about.tokens_per_second.toFixed(1),
      percent(1 - about.flops_kept), about.seed]));
    while (at("requests").rows.length > 20) at("requests").lastChild.remove();
    at("history").hidden = false;
  }
}

async function generate() {
  const prompt = at("prompt").value, seed = at("seed").value;
  const body = { model: at("model").value, prompt, max_tokens: Number(at("max-tokens").value),
    temperature: Number(at("temperature").value), stream: true, ...(seed === "" ? {} : { seed: Number(seed) }) };
  asking = new AbortController();
  at("send").disabled = true;
  at("stop").disabled = false;
  at("problem").hidden = at("empty").hidden = true;
  at("given").textContent = prompt;
  at("made").textContent = "";
  for (const id of ["saved", "speed"]) at(id).textContent = "–";
  try {
    const answer = await fetch("v1/completions", { method: "POST", signal: asking.signal,
      headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(), state = { prompt, structure: null };
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n\n");
      rest = lines.pop();
      for (const line of lines) if (line !== "data: [DONE]") hear(JSON.parse(line.slice(6)), state);
    }
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
  } finally {
    at("send").disabled = false;
    at("stop").disabled = true;
    load().catch(error => fail(error.message));
  }
}

at("ask").addEventListener("submit", event => { event.preventDefault(); generate(); });
at("stop").addEventListener("click", () => asking?.abort());
at("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
for (const button of document.querySelectorAll(".example"))
  button.addEventListener("click", () => { at("prompt").value = button.dataset.prompt; at("ask").requestSubmit(); });
load().catch(error => fail(error.message));
