"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 600px)");
  const charts = [];

  // Colours are names of the style sheet's variables, which follow the scheme.
  function coloured(value, style) {
    if (typeof value === "string") {
      return value.startsWith("var(") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
    }
    if (Array.isArray(value)) return value.map((each) => coloured(each, style));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each, style)]));
    }
    return value;
  }

  function draw({ plot, source }) {
    const { data, layout } = coloured(source, getComputedStyle(document.documentElement));
    if (narrow.matches) layout.font.size = 11;
    return Plotly.react(plot, data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  }

  function start(frame) {
    const source = JSON.parse(frame.querySelector("script").textContent);
    const plot = document.createElement("div");
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", frame.dataset.alt);
    plot.style.height = `${source.layout.height}px`;
    frame.append(plot);
    const chart = { plot, source };
    // The picture stays where drawing fails.
    draw(chart).then(() => {
      frame.classList.add("live");
      charts.push(chart);
    }, () => plot.remove());
  }

  // One chart a frame, so that the page can be read meanwhile.
  const waiting = [...document.querySelectorAll("[data-chart]")];
  function next() {
    if (window.Plotly === undefined || waiting.length === 0) {
      document.documentElement.dataset.drawn = "yes";
      return;
    }
    start(waiting.shift());
    setTimeout(next);
  }
  next();
  dark.addEventListener("change", () => charts.forEach(draw));
})();
