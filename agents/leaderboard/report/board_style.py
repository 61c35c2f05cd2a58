"""What the leaderboard's page looks like and does beyond the dashboard's own style sheet and script."""

STYLE = """
:root { --learned: #0072b2; --search: #7a52b3; --own: #00704f; --first: #b03a00; --middle: #e8b04a; --last: #7fb2d6;
  --c0: #0072b2; --c1: #b03a00; --c2: #00704f; --c3: #7a52b3; --c4: #8a6100; --c5: #b0307a; --c6: #3a6ea5; --c7: #5f7a00;
  --c8: #8c4a3a; --c9: #008a94; --c10: #5b5fc7; --c11: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --learned: #6cb8ea; --search: #b795ea; --own: #4fd0a4; --first: #f0854a;
  --middle: #a8842e; --last: #2f6188; --c0: #6cb8ea; --c1: #f59a6a; --c2: #4fd0a4; --c3: #b795ea; --c4: #e0ae4a;
  --c5: #ef86bd; --c6: #8fb5e0; --c7: #b4cf55; --c8: #d99a88; --c9: #53cfd8; --c10: #a3a6f5; --c11: #a8a8a8; } }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; font-size: 0.9rem; margin: 0 0 1.2rem; }
ul.chips { display: flex; flex-wrap: wrap; gap: 0.35rem; list-style: none; margin: 0.5rem 0 0; padding: 0; }
ul.chips button { font: inherit; font-size: 0.8rem; color: var(--ink); background: var(--card); cursor: pointer;
  border: 1px solid var(--line); border-radius: 999px; padding: 0.2rem 0.7rem; min-height: 1.9rem; overflow-wrap: anywhere; }
ul.chips button::before { content: ""; display: inline-block; width: 1.1rem; margin-right: 0.4rem; vertical-align: 0.25em;
  border-top: 3px var(--dash, solid) var(--of); }
ul.chips button[aria-pressed=false] { color: var(--soft); background: none; }
ul.chips button[aria-pressed=false]::before { opacity: 0.35; }
ul.legend { display: flex; flex-wrap: wrap; gap: 0.15rem 1.1rem; list-style: none; margin: 0.2rem 0 0.6rem; padding: 0;
  font-size: 0.82rem; color: var(--soft); }
ul.legend i { display: inline-block; width: 0.65rem; height: 0.65rem; margin-right: 0.4rem; border-radius: 50%;
  background: var(--of); }
.choices { display: flex; flex-wrap: wrap; gap: 0.5rem 1.2rem; margin: 0.4rem 0 0.7rem; }
.choices label { display: inline-flex; gap: 0.5rem; align-items: center; }
.choices select { max-width: 15rem; }
.card > .scroll { margin-top: 0.3rem; }
"""

SCRIPT = """
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
"""
