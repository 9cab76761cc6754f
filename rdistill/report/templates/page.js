"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 40rem)");

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // "$best" -> the theme's colour of that name. As `coloured` in theme.py does.
  function coloured(value, theme) {
    if (Array.isArray(value)) return value.map((item) => coloured(item, theme));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, theme)]));
    return typeof value === "string" && value[0] === "$" ? theme[value.slice(1)] ?? value : value;
  }

  function draw(div, packed) {
    const figure = packed.figures[div.dataset.figure];
    const chosen = document.getElementById("choose-" + div.dataset.figure);
    const data = chosen && figure.variants ? figure.variants[chosen.value] : figure.data;
    const theme = packed.themes[dark.matches ? "dark" : "light"];
    const layout = structuredClone(figure.layout);
    if (narrow.matches) layout.font.size = 12;
    const config = { responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };
    return Plotly.react(div, coloured(data, theme), coloured(layout, theme), config);
  }

  async function drawAll() {
    const packed = JSON.parse(await unpack("figures-packed"));
    const divs = [...document.querySelectorAll(".plot")];
    if (divs.length) {
      const script = document.createElement("script");
      script.textContent = await unpack("plotly-packed");
      document.head.append(script);
    }
    const all = () => Promise.all(divs.map((div) => draw(div, packed)));
    for (const select of document.querySelectorAll("select[data-figure]"))
      select.addEventListener("change", () => draw(document.querySelector(`.plot[data-figure="${CSS.escape(select.dataset.figure)}"]`), packed));
    dark.addEventListener("change", all);
    await all();
    document.documentElement.dataset.drawn = divs.length;
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : head.classList.contains("n");
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[index].dataset.sort;
        const rows = [...table.tBodies[0].rows].sort((a, b) => {
          const [first, second] = [key(a), key(b)];
          if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
          const numbers = [Number(first), Number(second)];
          const order = numbers.some(Number.isNaN) ? first.localeCompare(second) : numbers[0] - numbers[1];
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  document.querySelectorAll("table.sortable").forEach(sortable);
  for (const image of document.querySelectorAll(".strip img")) {
    const tiny = () => image.naturalWidth < 200 && image.classList.add("tiny");
    image.complete ? tiny() : image.addEventListener("load", tiny);
  }
  drawAll().catch((error) => {
    const box = document.getElementById("cannot");
    box.hidden = false;
    box.textContent = "Figures cannot be drawn here (" + error.message + "): they need a browser of 2023 or later. The tables say the same.";
    if (typeof DecompressionStream !== "undefined") throw error;
  });
})();
