// Values under the pointer; the page is complete without them.
"use strict";

function pointsOf(group) {
  const path = group.querySelector("path.line");
  const found = path ? (path.getAttribute("d").match(/-?[\d.]+(?:e-?\d+)?/g) || []).map(Number) : [];
  const points = [];
  for (let i = 0; i + 1 < found.length; i += 2) points.push([found[i], found[i + 1]]);
  return points;
}

function shown(value) {
  return Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
}

for (const svg of document.querySelectorAll("svg.plot")) {
  const [left, top, right, bottom] = svg.dataset.plot.split(" ").map(Number);
  const [x0, x1] = svg.dataset.x.split(" ").map(Number);
  const [y0, y1] = svg.dataset.y.split(" ").map(Number);
  const readout = svg.parentElement.querySelector(".readout");
  const cursor = svg.querySelector(".cursor");
  const lines = [...svg.querySelectorAll("g.thin, g.bold")].map((group) => ({ label: group.dataset.label, points: pointsOf(group) }));

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = Math.min(right, Math.max(left, ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width));
    const texts = [];
    for (const { label, points } of lines) {
      if (!points.length) continue;
      const near = points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
      // Where a curve has nothing there is nothing to say.
      if (Math.abs(near[0] - x) < 20) texts.push(`${label}: ${shown(y0 + ((near[1] - bottom) / (top - bottom)) * (y1 - y0))}`);
    }
    const at = Math.round(x0 + ((x - left) / (right - left)) * (x1 - x0));
    cursor.setAttribute("d", `M${x},${top}V${bottom}`);
    readout.textContent = `${at.toLocaleString("en")} ${svg.dataset.xLabel}: ${texts.join("; ")}`;
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("d", "");
    readout.textContent = "";
  });
}

// Clips play by themselves, without a sound; a click, or Enter, stops one and starts it again.
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
for (const video of document.querySelectorAll("video")) {
  const toggle = () => (video.paused ? video.play() : video.pause());
  video.addEventListener("click", toggle);
  video.addEventListener("keydown", (event) => event.key === "Enter" && toggle());
  if (still) {
    video.removeAttribute("autoplay");
    video.pause();
  }
}
