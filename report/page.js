"use strict";
// Draws the figures of the page from the JSON in it, in the colours of the theme. The texts of the
// data reach the page as text nodes, and Plotly escaped, so that none of them is read as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const narrow = () => window.innerWidth < 560;
  const hasWebGL = Boolean(document.createElement("canvas").getContext("webgl"));
  const touched = window.matchMedia("(pointer: coarse)").matches;

  const darkness = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => darkness.matches && !document.documentElement.classList.contains("print");

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const names = ["ink", "soft", "accent", "rule", "paper", "sans"];
    const pairs = names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]);
    return { ...Object.fromEntries(pairs), scale: isDark() ? data.scales.dark : data.scales.light };
  }

  // A colour "@ink" of a figure becomes that of the theme.
  function themed(value, colours, key = "") {
    if (Array.isArray(value)) return value.map((item) => themed(item, colours, key));
    if (value !== null && typeof value === "object") {
      const pairs = Object.entries(value).map(([name, item]) => [name, themed(item, colours, name)]);
      return Object.fromEntries(pairs);
    }
    const isColour = /color(scale)?$/.test(key) && typeof value === "string" && value.startsWith("@");
    return isColour ? colours[value.slice(1)] : value;
  }

  function template(colours) {
    const axis = { gridcolor: colours.rule, linecolor: colours.rule, zerolinecolor: colours.rule,
      zeroline: false, tickcolor: colours.rule };
    return { layout: {
      font: { family: colours.sans, size: 12, color: colours.ink },
      title: { font: { size: 13 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.soft, activecolor: colours.ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: axis, yaxis: axis, hovermode: "closest",
      hoverlabel: { bgcolor: colours.paper, bordercolor: colours.soft, align: "left",
        font: { family: colours.sans, color: colours.ink } },
    } };
  }

  function drawFigure(place) {
    const colours = theme();
    const figure = themed(data.figures[place.dataset.figure], colours);
    const { height, ...rest } = figure.layout;
    place.style.height = `${height}px`; // of the place, so that it keeps it when its width changes
    const layout = { ...rest, template: template(colours), dragmode: false };
    layout.xaxis = { ...layout.xaxis, fixedrange: true };
    layout.yaxis = { ...layout.yaxis, fixedrange: true };
    return Plotly.react(place, figure.data, layout, { responsive: true, displayModeBar: false });
  }

  // --- The map ---------------------------------------------------------------------------------

  const map = data.map;
  const place = document.getElementById("umap");
  const menu = document.getElementById("colouring");
  const legend = document.getElementById("legend");
  let chosen = new Set();

  function unpack(array) {
    const bytes = Uint8Array.from(atob(array.bdata), (letter) => letter.charCodeAt(0));
    return array.dtype === "u2" ? new Uint16Array(bytes.buffer) : bytes;
  }

  const escaped = (text) =>
    text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function unpackMap() {
    const coordinate = (array, [low, high]) =>
      Float32Array.from(unpack(array), (value) => low + (value / 65534) * (high - low));
    map.xs = coordinate(map.x, map.ranges[0]);
    map.ys = coordinate(map.y, map.ranges[1]);
    map.certainty = map.probability && unpack(map.probability);
    for (const entry of map.entries) entry.numbers = unpack(entry.values);
    const [clusters] = map.entries;
    map.hover = map.names.map((name, cell) => {
      const cluster = clusters.groups[clusters.numbers[cell]] ?? "none";
      const certainty = map.certainty ? map.certainty[cell] / 254 : 2;
      const tail = certainty <= 1 ? `<br>probability ${certainty.toFixed(2)}` : "";
      return `${escaped(name)}<br>cluster ${escaped(cluster)}${tail}`;
    });
  }

  const pointSize = () => {
    const sizes = [[800, 8], [3000, 6], [10000, 4.5], [25000, 3.5], [Infinity, 2.5]];
    const [, size] = sizes.find(([cells]) => map.cells <= cells);
    return narrow() ? size * 0.6 : size;
  };

  function points(cells, marker) {
    return {
      type: hasWebGL ? "scattergl" : "scatter", mode: "markers",
      x: cells.map((cell) => map.xs[cell]), y: cells.map((cell) => map.ys[cell]),
      text: cells.map((cell) => map.hover[cell]), hovertemplate: "%{text}<extra></extra>",
      marker: { size: pointSize(), line: { width: 0 }, opacity: 0.85, ...marker }, showlegend: false,
    };
  }

  function scaleMarker(entry) {
    const ticks = entry.ticks
      ? { tickvals: entry.ticks.map(([value]) => value), ticktext: entry.ticks.map(([, text]) => text) }
      : { nticks: 5 };
    return {
      colorscale: entry.picture ? data.scales.light : theme().scale, cmin: entry.low, cmax: entry.high > entry.low ? entry.high : entry.low + 1,
      showscale: true,
      colorbar: { orientation: "h", thickness: 9, len: narrow() ? 0.9 : 0.5, y: 0, yanchor: "top", ypad: 8,
        outlinewidth: 0, title: { text: escaped(entry.title), side: "top" }, ...ticks },
    };
  }

  const opacityOf = (group) => (chosen.size === 0 || chosen.has(group) ? 0.85 : 0.06);

  function traces(entry) {
    if (entry.picture) {
      if (entry.groups) return [{ type: "scatter", x: [null], y: [null], showlegend: false }];
      const marker = { color: [entry.low], ...scaleMarker(entry) };
      return [{ type: "scatter", mode: "markers", x: [null], y: [null], marker, showlegend: false }];
    }
    const cells = Array.from(entry.numbers.keys());
    if (entry.groups) {
      const without = cells.filter((cell) => entry.numbers[cell] >= entry.groups.length);
      const members = entry.groups.map(() => []);
      for (const cell of cells) members[entry.numbers[cell]]?.push(cell);
      return [
        points(without, { color: map.missing, opacity: opacityOf(-1) }),
        ...members.map((group, i) => points(group, { color: entry.colours[i], opacity: opacityOf(i) })),
      ];
    }
    const known = cells.filter((cell) => entry.numbers[cell] < 255);
    known.sort((one, other) => entry.numbers[one] - entry.numbers[other]);
    const values = known.map((cell) => entry.low + (entry.numbers[cell] / 254) * (entry.high - entry.low));
    return [
      points(cells.filter((cell) => entry.numbers[cell] === 255), { color: map.missing }),
      points(known, { color: values, ...scaleMarker(entry) }),
    ];
  }

  function marksOf(colours) {
    const { groups } = map.entries[0];
    return map.marks.map(([x, y, cluster]) => ({
      x, y, text: escaped(groups[cluster]), showarrow: false, bgcolor: colours.paper, opacity: 0.85,
      borderpad: 1, font: { size: 12, color: colours.ink },
    }));
  }

  function drawMap() {
    const colours = theme();
    const entry = map.entries[menu.value || 0];
    const [xs, ys] = map.ranges;
    const axis = { visible: false, showgrid: false };
    const layout = {
      template: template(colours), dragmode: touched ? false : "pan",
      margin: { l: 0, r: 0, t: 8, b: entry.groups ? 0 : 70 },
      xaxis: { ...axis, range: xs }, yaxis: { ...axis, range: ys, scaleanchor: "x" },
      annotations: entry === map.entries[0] ? marksOf(colours) : [],
      images: entry.picture
        ? [{ source: entry.picture, xref: "x", yref: "y", x: xs[0], y: ys[1], sizex: xs[1] - xs[0],
            sizey: ys[1] - ys[0], sizing: "stretch", layer: "below" }]
        : [],
    };
    const buttons = ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"];
    const config = { responsive: true, displaylogo: false, modeBarButtons: [buttons] };
    return Plotly.react(place, traces(entry), layout, config);
  }

  function legendItem(entry, group, name, size, colour) {
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colour;
    const count = document.createElement("span");
    count.className = "size";
    count.textContent = ` ${size.toLocaleString("en")}`;
    const button = document.createElement("button");
    button.type = "button";
    button.append(swatch, name, count);
    button.disabled = Boolean(entry.picture);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      if (!chosen.delete(group)) chosen.add(group);
      button.setAttribute("aria-pressed", String(chosen.has(group)));
      const order = [-1, ...entry.groups.keys()];
      Plotly.restyle(place, { "marker.opacity": order.map(opacityOf) });
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  function fillLegend() {
    const entry = map.entries[menu.value];
    const items = (entry.groups ?? []).map((name, group) =>
      legendItem(entry, group, name, entry.sizes[group], entry.colours[group]));
    if (entry.without) items.push(legendItem(entry, -1, "none", entry.without, map.missing));
    legend.replaceChildren(...items);
  }

  function fillMenu() {
    const sections = new Map();
    map.entries.forEach((entry, i) => {
      if (!sections.has(entry.section)) {
        const group = document.createElement("optgroup");
        group.label = entry.section;
        sections.set(entry.section, group);
      }
      sections.get(entry.section).append(new Option(entry.name, String(i)));
    });
    menu.replaceChildren(...sections.values());
    menu.addEventListener("change", () => { chosen = new Set(); fillLegend(); drawMap(); });
  }

  // --- The whole -------------------------------------------------------------------------------

  const places = [...document.querySelectorAll("[data-figure]")];

  async function drawAll() {
    if (map) await drawMap();
    for (const figure of places) await drawFigure(figure);
    document.documentElement.dataset.drawn = "yes";
  }

  async function forPrint(on) {
    document.documentElement.classList.toggle("print", on);
    if (on) for (const folded of document.querySelectorAll("details")) folded.open = true;
    for (const figure of [place, ...places]) if (figure) Plotly.Plots.resize(figure);
    await drawAll();
  }

  async function copyText(button) {
    const source = document.getElementById(button.dataset.copy);
    const status = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(source.innerText);
      status.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(source);
      status.textContent = document.execCommand("copy") ? "Copied." : "Selected: copy it with Ctrl+C.";
    }
  }

  if (map) {
    if (map.names) unpackMap();
    fillMenu();
    fillLegend();
  }
  drawAll();
  darkness.addEventListener("change", drawAll);
  window.addEventListener("beforeprint", () => forPrint(true));
  window.addEventListener("afterprint", () => forPrint(false));
  for (const button of document.querySelectorAll("[data-copy]"))
    button.addEventListener("click", () => copyText(button));
})();
