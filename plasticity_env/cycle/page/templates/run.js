// What the reader has chosen outlives the reload of a running experiment's page.
const kept = {
  get(name) { try { return sessionStorage.getItem(location.pathname + name); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(location.pathname + name, value); } catch { /* not allowed here */ } },
};

if (page.moments.length) {
  const moments = page.moments, label = document.getElementById("moment-label");
  const move = stepper("moment", moments.length, 900, index => {
    const now = moments[index];
    label.textContent = `${now.label} (${index + 1} / ${moments.length})`;
    document.getElementById("moment").setAttribute("aria-valuetext", now.label);
    for (const [name, map] of Object.entries(now.maps)) {
      const data = page.figures[name].data;
      Object.assign(data[0], { z: map.z, customdata: map.values });
      Object.assign(data[1], now.pruned);
      Object.assign(data[2], now.fresh);
      draw(document.getElementById(name));
    }
  }, (index, last) => kept.set("moment", index === last ? "" : index));
  const former = Number(kept.get("moment") || NaN);
  move(former < moments.length ? former : moments.length - 1);
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
