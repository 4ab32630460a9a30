// The loss curve of one run: asks for the points told since the last time and redraws.
// Needs uPlot; reads `data-curves` (the address), `data-live`, `data-unit` (of the loss) and
// `data-judged` (what the second curve is called) of #chart.
"use strict";

(() => {
  const figure = document.getElementById("chart");
  const holder = figure.querySelector(".plot");
  const judged = figure.dataset.judged;
  const series = { train: new Map(), validation: new Map() }; // step -> value; a resume tells steps again
  const PERIOD_MS = 2000;
  const HEIGHT = 300;
  let offset = 0;
  let plot = null;

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function data() {
    const steps = [...new Set([...series.train.keys(), ...series.validation.keys()])].sort((a, b) => a - b);
    const column = (points) => steps.map((step) => points.get(step) ?? null);
    return [steps, column(series.train), column(series.validation)];
  }

  function axis(extra) {
    return {
      stroke: color("--muted"),
      grid: { stroke: color("--line"), width: 1 },
      ticks: { show: false },
      font: `12px ${getComputedStyle(document.body).fontFamily}`,
      ...extra,
    };
  }

  function options(width) {
    const precise = (_, value) => (value == null ? "–" : value.toFixed(3));
    const axes = [
      axis({ size: 28, label: "step", labelSize: 18, labelFont: axis().font }),
      axis({ size: 40, label: figure.dataset.unit, labelSize: 18, labelFont: axis().font }),
    ];
    return {
      width, height: HEIGHT, axes,
      padding: [12, 16, 0, 0],
      scales: { x: { time: false } },
      legend: { live: true },
      cursor: { y: false },
      series: [
        { label: "step", value: (_, value) => (value == null ? "–" : String(value)) },
        { label: "training", stroke: color("--train"), width: 1.75, points: { show: false },
          spanGaps: true, value: precise },
        { label: judged, stroke: color("--validation"), width: 2,
          spanGaps: true, points: { show: true, size: 7, fill: color("--validation") }, value: precise },
      ],
    };
  }

  function draw(afresh) {
    const columns = data();
    if (columns[0].length === 0) return;
    figure.querySelector(".chart-empty").hidden = true;
    if (afresh && plot) {
      plot.destroy();
      plot = null;
    }
    if (plot) plot.setData(columns);
    else plot = new uPlot(options(holder.clientWidth), columns, holder);
    holder.setAttribute("aria-label", `Loss by step. ${tell("training", series.train)}${tell(judged, series.validation)}`);
  }

  function tell(name, points) {
    const steps = [...points.keys()].sort((a, b) => a - b);
    if (steps.length === 0) return "";
    const at = (step) => `${points.get(step).toFixed(3)} at step ${step}`;
    return `${name}: ${at(steps[0])}, ${at(steps[steps.length - 1])}. `;
  }

  async function ask() {
    let news = null;
    try {
      const response = await fetch(`${figure.dataset.curves}?offset=${offset}`);
      if (response.ok) news = await response.json();
    } catch {
      // live.js says so: its own requests fail for the same reason.
    }
    if (news !== null) take(news);
    const live = document.querySelector("#live[hx-get]") !== null;
    if (live || news === null) setTimeout(ask, PERIOD_MS);
  }

  function take(news) {
    if (news.offset < offset) { // the file was made anew
      series.train.clear();
      series.validation.clear();
    }
    for (const name of ["train", "validation"]) {
      for (const [step, value] of news[name]) series[name].set(step, value);
    }
    const some = news.train.length + news.validation.length > 0;
    offset = news.offset;
    if (some) draw(false);
    figure.dataset.points = String(series.train.size + series.validation.size);
  }

  new ResizeObserver(() => {
    if (plot && plot.width !== holder.clientWidth) plot.setSize({ width: holder.clientWidth, height: HEIGHT });
  }).observe(holder);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(true));
  ask();
})();
