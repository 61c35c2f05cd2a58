"""What the page of an experiment looks like and does beyond the dashboard's own style sheet and script."""

STYLE = """
:root { --experiment: #0072b2; --control: #8a6100; --prune: #c24a00; --revive: #7a52b3; --grow: #007a59;
  --warm: rgba(230, 159, 0, 0.16); --tune: rgba(0, 114, 178, 0.10); --other: rgba(120, 120, 130, 0.10);
  --off: #d9dad7; --on: #3b7fae; --new: #2fa37e; --good: #00704f; --bad: #b03a00; }
@media (prefers-color-scheme: dark) { :root { --experiment: #5fb2ea; --control: #e0ae4a; --prune: #f0854a;
  --revive: #b795ea; --grow: #3cc79a; --warm: rgba(230, 159, 0, 0.17); --tune: rgba(86, 180, 233, 0.12);
  --other: rgba(160, 160, 170, 0.12); --off: #33373e; --on: #3f86b5; --new: #38b58c; --good: #4fd0a4; --bad: #f59a6a; } }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; font-size: 0.9rem; margin: 0 0 1.2rem; }
p.state { margin: -0.8rem 0 1rem; color: var(--soft); font-size: 0.9rem; }
p.state b { color: var(--ink); }
p.state.failed b { color: var(--bad); }
p.verdict { margin: 0 0 1rem; max-width: 52rem; }
ul.legend { display: flex; flex-wrap: wrap; gap: 0.15rem 1.1rem; list-style: none; margin: 0.2rem 0 0; padding: 0;
  font-size: 0.82rem; color: var(--soft); }
ul.legend i { display: inline-block; width: 1.1rem; height: 0.65rem; margin-right: 0.4rem; border-radius: 2px;
  background: var(--of); vertical-align: 0; font-style: normal; }
ul.legend i.line { height: 0; border-top: 3px solid var(--of); background: none; border-radius: 0; vertical-align: 0.25em; }
ul.legend i.dash { height: 0; border-top: 3px dotted var(--of); background: none; border-radius: 0; vertical-align: 0.25em; }
ul.legend i.mark { width: auto; height: auto; background: none; color: var(--of); font-size: 0.95rem; line-height: 1; }
.controls.bar { position: sticky; top: 0; z-index: 2; background: var(--paper); padding: 0.5rem 0; flex-wrap: wrap; }
.controls.bar output { flex-basis: 100%; color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.filters { display: flex; flex-wrap: wrap; gap: 0.5rem 0.9rem; align-items: center; margin: 0.2rem 0 0.7rem; }
.filters label { display: inline-flex; gap: 0.45rem; align-items: center; }
input[type=search] { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: 0.3rem 0.6rem; min-height: 2.2rem; width: 10rem; max-width: 100%; }
.scroll.tall { max-height: 28rem; overflow-y: auto; }
.scroll.tall thead th { position: sticky; top: 0; background: var(--card); z-index: 1; }
.scroll.tall thead th:first-child { z-index: 2; }
table.text td, table.text th { text-align: left; vertical-align: top; }
table.text thead button { min-width: 3.2rem; }
td.wrap { white-space: normal; min-width: 13rem; } td.long { min-width: 25rem; }
.soft { color: var(--soft); }
td.number { text-align: right !important; }
.edit { font-weight: 600; }
.edit.prune, .worse { color: var(--prune); } .edit.revive { color: var(--revive); }
.edit.grow, .better { color: var(--grow); }
dl.details { display: grid; grid-template-columns: max-content 1fr; gap: 0 0.7rem; margin: 0; font-size: 0.85rem; }
dl.details dt { font-size: 0.85rem; } dl.details dd { font-size: 0.85rem; font-weight: 400; white-space: pre-wrap; }
details > summary { cursor: pointer; color: var(--accent); }
.prompt { margin: 1.1rem 0 0.5rem; overflow-wrap: anywhere; }
.sample p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.9rem; }
.sample b { color: var(--soft); font-weight: 600; }
@media (max-width: 600px) { td.wrap { min-width: 17rem; } td.long { min-width: 30rem; }
  main > details > dl.details, section > details > dl.details { grid-template-columns: 1fr; } }
"""

SCRIPT = """
// What the reader has chosen outlives the reload of a running experiment's page.
const kept = {
  get(name) { try { return sessionStorage.getItem(location.pathname + name); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(location.pathname + name, value); } catch { /* not allowed here */ } },
};

const moment = document.getElementById("moment");
if (moment) {
  const moments = page.moments, label = document.getElementById("moment-label");
  const run = document.getElementById("moment-play");
  let timer = null;
  moment.max = moments.length - 1;
  function showMoment(index) {
    moment.value = index;
    const now = moments[index];
    label.textContent = `${now.label} (${index + 1} / ${moments.length})`;
    moment.setAttribute("aria-valuetext", now.label);
    for (const [name, map] of Object.entries(now.maps)) {
      const data = page.figures[name].data;
      Object.assign(data[0], { z: map.z, customdata: map.values });
      Object.assign(data[1], now.pruned);
      Object.assign(data[2], now.fresh);
      draw(document.getElementById(name));
    }
  }
  function halt() { clearInterval(timer); timer = null; run.textContent = "Play"; }
  function choose(index) {
    const last = moments.length - 1, to = Math.min(last, Math.max(0, index));
    kept.set("moment", to === last ? "" : to);
    showMoment(to);
  }
  moment.addEventListener("input", () => { halt(); choose(Number(moment.value)); });
  document.getElementById("moment-back").addEventListener("click", () => { halt(); choose(Number(moment.value) - 1); });
  document.getElementById("moment-next").addEventListener("click", () => { halt(); choose(Number(moment.value) + 1); });
  run.addEventListener("click", () => {
    if (timer) return halt();
    if (Number(moment.value) === moments.length - 1) choose(0);
    run.textContent = "Pause";
    timer = setInterval(() => { choose(Number(moment.value) + 1);
      if (Number(moment.value) === moments.length - 1) halt(); }, 900);
  });
  const former = Number(kept.get("moment") || NaN);
  showMoment(former < moments.length ? former : moments.length - 1);
}

const filters = [...document.querySelectorAll("[data-filter]")];
function applyFilters() {
  const rows = document.querySelectorAll("#decisions tbody tr");
  let shown = 0;
  for (const row of rows) {
    row.hidden = !filters.every(one => !one.value || (one.dataset.filter === "words"
      ? row.textContent.toLowerCase().includes(one.value.toLowerCase()) : row.dataset[one.dataset.filter] === one.value));
    shown += !row.hidden;
  }
  document.getElementById("decision-count").textContent = `${shown} of ${rows.length} decisions`;
}
for (const one of filters) {
  const former = kept.get("filter-" + one.dataset.filter);
  if (former && (one.type === "search" || [...one.options].some(option => option.value === former))) one.value = former;
  one.addEventListener("input", () => { kept.set("filter-" + one.dataset.filter, one.value); applyFilters(); });
}
if (filters.length) applyFilters();

const told = document.getElementById("sample-cycle");
if (told) {
  function showSamples() {
    for (const card of document.querySelectorAll("[data-cycle].sample")) card.hidden = card.dataset.cycle !== told.value;
  }
  told.addEventListener("change", showSamples);
  showSamples();
}

// A run that was killed cannot say so itself: its page tells how long nothing was written.
const running = document.getElementById("silence");
if (running) {
  const minutes = Math.floor((Date.now() / 1000 - Number(running.dataset.written)) / 60);
  if (minutes >= 5) running.textContent = ` Nothing was written for ${minutes} minutes: the run may have been cut off.`;
  const place = Number(kept.get("scroll") || 0);
  if (place) scrollTo(0, place);
  addEventListener("pagehide", () => kept.set("scroll", scrollY));
}
"""
