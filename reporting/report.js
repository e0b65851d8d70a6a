"use strict";
(() => {
  const FIELDS = ["variant", "knowledge", "attack"];
  const root = document.documentElement;
  const filters = document.getElementById("filters");
  const page = JSON.parse(document.getElementById("charts").textContent);
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  // --- what is selected

  const boxes = (field) => [...filters.querySelectorAll(`input[name="${field}"]`)];
  const selected = {};

  function readFilters() {
    const limits = [];
    for (const field of FIELDS) {
      const all = boxes(field), checked = all.filter((box) => box.checked);
      selected[field] = new Set(checked.map((box) => box.value));
      const words = all.length === 1 || field === "knowledge" ? field : `${field}s`;
      if (checked.length < all.length)
        limits.push(`${checked.length} of ${all.length} ${words}`);
    }
    document.getElementById("selection").textContent = limits.join(", ") || "everything";
  }

  const matches = (labels) =>
    FIELDS.every((field) => !labels[field] || selected[field].has(labels[field]));

  function filterTables() {
    for (const row of document.querySelectorAll("tbody tr[data-variant]"))
      row.hidden = !matches(row.dataset);
    const rows = [...document.querySelectorAll("#attacks tbody tr")];
    const shown = rows.filter((row) => !row.hidden).length;
    for (const table of document.querySelectorAll("table"))
      table.classList.toggle("filtered", table.querySelector("tbody tr[hidden]") !== null);
    document.getElementById("count").textContent =
      `${shown} of ${rows.length} attacks are shown.`;
  }

  // --- tables

  function compare(first, second) {
    const [a, b] = [first.dataset.value, second.dataset.value];
    if (a !== undefined && b !== undefined) return a - b;
    return first.textContent.localeCompare(second.textContent, "en", { numeric: true });
  }

  function sort(table, column, direction) {
    const body = table.tBodies[0], rows = [...body.rows];
    const numeric = rows.some((row) => row.cells[column].dataset.value !== undefined);
    const unknown = (row) => numeric && row.cells[column].dataset.value === undefined;
    rows.sort(
      (a, b) => // unknown values stay below, whatever the direction
        unknown(a) - unknown(b) || direction * compare(a.cells[column], b.cells[column]),
    );
    body.append(...rows);
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      const order = direction > 0 ? "ascending" : "descending";
      head.setAttribute("aria-sort", index === column ? order : "none");
    });
  }

  function makeSortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () =>
        sort(table, column, head.getAttribute("aria-sort") === "ascending" ? -1 : 1),
      );
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
    });
  }

  // --- figures

  const printing = () => "print" in root.dataset;
  const isDark = () =>
    !printing() && (root.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";

  function choose(traces) {
    const best = new Map(); // the highest rank in each group
    for (const { meta } of traces)
      if (meta.group && matches(meta) && !(best.get(meta.group)?.rank >= meta.rank))
        best.set(meta.group, meta);
    return traces.filter(
      ({ meta }) => matches(meta) && (!meta.group || best.get(meta.group) === meta),
    );
  }

  function colour(trace, dark) {
    const color = trace.meta.colours[dark ? 1 : 0];
    const coloured = { ...trace, fillcolor: trace.fillcolor && `${color}1f` };
    for (const part of ["line", "marker", "textfont", "error_x", "error_y"])
      if (trace[part]) coloured[part] = { ...trace[part], color };
    return coloured;
  }

  function layOut(panel, plot) {
    const style = getComputedStyle(plot.parentElement);
    const axis = {
      color: style.color,
      gridcolor: style.borderTopColor,
      linecolor: style.borderTopColor,
      zeroline: false,
      showline: true,
      automargin: true,
    };
    return {
      ...panel.layout,
      xaxis: { ...axis, ...panel.layout.xaxis },
      yaxis: { ...axis, ...panel.layout.yaxis },
      font: { family: style.fontFamily, size: 12, color: style.color },
      paper_bgcolor: style.backgroundColor,
      plot_bgcolor: style.backgroundColor,
      hoverlabel: {
        bgcolor: style.backgroundColor,
        bordercolor: style.color,
        font: { color: style.color },
        align: "left",
      },
      margin: { t: 10, r: 10, b: 40, l: 50 },
      hovermode: "closest",
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls
      showlegend: false,
      width: plot.clientWidth,
      height: plot.clientHeight,
    };
  }

  function key({ meta, line, marker, mode }) {
    const drawn = [];
    if (mode.includes("lines"))
      drawn.push(`<path d="M-16 0H16" stroke-dasharray="${line.dash.replaceAll("px", "")}"/>`);
    if (mode.includes("markers")) {
      const [symbol, hollow] = marker.symbol.split("-open");
      const look = hollow === undefined ? "filled" : "hollow";
      drawn.push(`<path class="${look}" d="${page.symbols[symbol]}"/>`);
      if (hollow) drawn.push('<circle class="filled" r="1.5"/>');
    }
    const entry = document.createElement("li");
    const [light, dark] = meta.colours;
    entry.innerHTML = `<svg class="key" viewBox="-16 -6 32 12" aria-hidden="true"
      style="color: light-dark(${light}, ${dark})">${drawn.join("")}</svg>`;
    entry.append(meta.label);
    return entry;
  }

  const panels = []; // of all charts

  function build(figure, chart) {
    const grid = figure.querySelector(".panels");
    grid.style.setProperty("--columns", chart.columns);
    if (chart.title) {
      const title = document.createElement("p");
      title.className = "note";
      title.textContent = chart.title;
      grid.before(title);
    }
    figure.querySelector(".legend").replaceChildren(...chart.legend.map(key));
    for (const panel of chart.panels) {
      const [box, title] = [document.createElement("div"), document.createElement("h3")];
      const [plot, legend] = [document.createElement("div"), document.createElement("ul")];
      box.className = "panel";
      plot.className = panel.layout.xaxis.tickangle ? "plot upright" : "plot";
      legend.className = "legend";
      title.textContent = panel.heading;
      box.append(...(panel.heading ? [title] : []), plot, legend);
      grid.append(box);
      panels.push({ panel, plot, legend });
    }
  }

  function drawFigures() {
    const dark = isDark();
    for (const { panel, plot, legend } of panels) {
      const traces = choose(panel.data).map((trace) => colour(trace, dark));
      Plotly.react(plot, traces, layOut(panel, plot), {
        displaylogo: false,
        displayModeBar: matchMedia("(pointer: coarse)").matches ? false : "hover",
      });
      if (panel.legend)
        legend.replaceChildren(...traces.filter(({ meta }) => meta.label).map(key));
    }
  }

  // --- light and dark, paper

  const toggle = document.getElementById("theme");

  function showTheme() {
    toggle.textContent = isDark() ? "☀ Light" : "☾ Dark";
    toggle.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"}`);
    drawFigures();
  }

  function print(on) {
    if (on === printing()) return;
    root.toggleAttribute("data-print", on);
    for (const details of document.querySelectorAll("main details")) details.open = on;
    drawFigures();
  }

  // --- begin

  filters.addEventListener("change", () => {
    readFilters();
    filterTables();
    drawFigures();
  });
  filters.addEventListener("click", ({ target }) => {
    const { set, clear, toggle: whole } = target.dataset;
    const changed = whole === undefined
      ? boxes(set ?? clear)
      : [...target.parentElement.querySelectorAll("input")];
    if (!changed.length) return;
    const on = set !== undefined || (whole !== undefined && !changed.every((box) => box.checked));
    for (const box of changed) box.checked = on;
    filters.dispatchEvent(new Event("change"));
  });
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  prefersDark.addEventListener("change", showTheme);
  matchMedia("print").addEventListener("change", ({ matches: on }) => print(on));
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  let resized;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(drawFigures, 150);
  });

  filters.hidden = toggle.hidden = false;
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll("figure[data-chart]").forEach((figure, i) =>
    build(figure, page.charts[i]),
  );
  readFilters();
  filterTables();
  showTheme();
})();
