const setting = document.getElementById("setting");
if (setting) setting.addEventListener("change", () => {
  for (const group of document.querySelectorAll("[data-setting]")) {
    group.hidden = group.dataset.setting !== setting.value;
    if (!group.hidden) group.querySelectorAll(".plot").forEach(draw);
  }
});

if (page.frames.length) {
  const picture = document.getElementById("frame");
  stepper("step", page.frames.length, 700, index => {
    picture.src = page.frames[index].src;
    picture.alt = document.getElementById("caption").textContent = page.frames[index].caption;
    document.getElementById("step-label").textContent = `${index + 1} / ${page.frames.length}`;
  })(0);
}
