for (const chip of document.querySelectorAll("ul.chips button")) chip.addEventListener("click", () => {
  const trace = page.figures[chip.dataset.figure].data[Number(chip.dataset.trace)];
  trace.visible = !trace.visible;
  chip.setAttribute("aria-pressed", String(trace.visible));
  draw(document.getElementById(chip.dataset.figure));
});

for (const choices of document.querySelectorAll(".choices")) {
  const [player, share] = choices.querySelectorAll("select");
  function show() {
    const held = page.maps[choices.dataset.board][player.value];
    for (const [figure, map] of [[choices.dataset.shares, held.share], [choices.dataset.rounds, held.rounds[share.value]]]) {
      Object.assign(page.figures[figure].data[0], { z: map.z, customdata: map.text });
      draw(document.getElementById(figure));
    }
  }
  player.addEventListener("change", show);
  share.addEventListener("change", show);
  show();
}
