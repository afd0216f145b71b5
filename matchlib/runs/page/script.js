"use strict";
const all = (query, root = document) => [...root.querySelectorAll(query)];
const root = document.documentElement;

document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

const tabs = all("[role=tab]");
function select(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", other === tab);
    document.getElementById(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
}
for (const tab of tabs) tab.addEventListener("click", () => select(tab));
function follow() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const panel = target && target.closest("[role=tabpanel]");
  if (panel) { select(tabs.find((tab) => tab.getAttribute("aria-controls") === panel.id)); target.scrollIntoView(); }
}
if (tabs.length) select(tabs[0]);
addEventListener("hashchange", follow);
follow();

for (const button of all(".save")) button.addEventListener("click", () => {
  const figure = button.closest("figure");
  const copy = figure.querySelector("svg").cloneNode(true);
  for (const extra of all(".cross", copy)) extra.remove();
  copy.removeAttribute("data-plot");
  const style = document.createElementNS("http://www.w3.org/2000/svg", "style");
  style.textContent = document.getElementById("plot-style").textContent;
  copy.prepend(style);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], {type: "image/svg+xml"}));
  link.download = (figure.querySelector("figcaption b").textContent.replace(/[^\w-]+/g, "-") || "plot") + ".svg";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

for (const svg of all("svg[data-plot]")) {
  const plot = JSON.parse(svg.dataset.plot);
  const [low, high] = plot.x;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  svg.parentNode.append(tip);
  const cross = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cross.setAttribute("class", "cross");
  svg.append(cross);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const wanted = low + ((event.clientX - box.left) / scale - plot.left) / (plot.right - plot.left) * (high - low);
    const nearest = (line) => line.x.reduce((best, x, i) => Math.abs(x - wanted) < Math.abs(line.x[best] - wanted) ? i : best, 0);
    const places = plot.lines.map(nearest);
    const x = plot.lines[0].x[places[0]];
    const across = plot.left + (x - low) / (high - low) * (plot.right - plot.left);
    cross.setAttribute("d", `M${across} ${plot.top}V${plot.bottom}`);
    tip.textContent = [`${plot.label} ${+(plot.log ? 10 ** x : x).toPrecision(6)}`, ...plot.lines.map((line, i) => `${line.name} ${line.y[places[i]]}`)].join("\n");
    tip.hidden = false;
    const left = svg.offsetLeft + across * scale + 10;
    tip.style.left = Math.max(0, Math.min(left, svg.parentNode.clientWidth - tip.offsetWidth - 4)) + "px";
    tip.style.top = svg.offsetTop + plot.top * scale + "px";
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; cross.removeAttribute("d"); });
}
