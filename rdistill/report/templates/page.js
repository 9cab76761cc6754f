"use strict";
(() => {
  const PAPER = 700; // CSS pixels between the margins of an A4 page, as in style.css
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 40rem)");
  const root = document.documentElement;
  let packed = null; // figures and themes, once they are unpacked
  let printing = false;

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  function element(name, content, attributes = {}) {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...[content].flat());
    return made;
  }

  // ------------------------------------------------------------------ figures

  // "$best" -> the theme's colour of that name. As `coloured` in theme.py does.
  function coloured(value, theme) {
    if (Array.isArray(value)) return value.map((item) => coloured(item, theme));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, theme)]));
    return typeof value === "string" && value[0] === "$" ? theme[value.slice(1)] ?? value : value;
  }

  // A figure as it is chosen now, in the colours of a theme, of a width where one is given.
  function figureOf(name, theme, width) {
    const figure = packed.figures[name];
    const chosen = document.getElementById("choose-" + name);
    const data = chosen && figure.variants ? figure.variants[chosen.value] : figure.data;
    const layout = structuredClone(figure.layout);
    if (width) layout.width = width;
    else if (narrow.matches) layout.font.size = 12;
    return { data: coloured(data, packed.themes[theme]), layout: coloured(layout, packed.themes[theme]) };
  }

  function draw(div) {
    const name = div.dataset.figure;
    // A wide figure is drawn as wide as it must be and made smaller where there is less room, so that nothing scrolls.
    // On paper half a row is as wide as a small figure.
    const paper = div.closest(".small .figure:not(.wide)") ? PAPER / 2 - 24 : PAPER;
    const room = printing ? paper : div.parentElement.clientWidth;
    const needed = packed.figures[name].width;
    const width = printing ? Math.max(room, needed) : room && needed > room ? needed : 0;
    const smaller = width > room ? room / width : 1;
    const figure = figureOf(name, !printing && dark.matches ? "dark" : "light", width);
    div.style.zoom = smaller < 1 ? smaller : "";
    const config = { responsive: !printing, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]] };
    return Plotly.react(div, figure.data, figure.layout, config);
  }

  const widthOf = (name) => packed.figures[name].width || 1000;

  // Always in light colours, for papers and slides.
  const picture = (name, format) =>
    Plotly.toImage(figureOf(name, "light", widthOf(name)),
      { format, width: widthOf(name), height: packed.figures[name].layout.height, scale: format === "png" ? 2 : 1 });

  function pictureTools(name) {
    const buttons = ["svg", "png"].map((format) => {
      const button = element("button", format.toUpperCase(), { type: "button" });
      button.addEventListener("click", async () =>
        element("a", "", { href: await picture(name, format), download: name + "." + format }).click());
      return button;
    });
    return element("p", ["Download as", ...buttons], { className: "tools" });
  }

  async function drawAll() {
    packed = JSON.parse(await unpack("figures-packed"));
    const divs = [...document.querySelectorAll(".plot")];
    const card = document.querySelector("details.card");
    if (divs.length || card) {
      const script = document.createElement("script");
      script.textContent = await unpack("plotly-packed");
      document.head.append(script);
    }
    for (const select of document.querySelectorAll("select[data-figure]"))
      select.addEventListener("change", () => draw(document.querySelector(`.plot[data-figure="${CSS.escape(select.dataset.figure)}"]`)));
    for (const div of divs) div.closest("figure").querySelector("details.data").before(pictureTools(div.dataset.figure));
    if (card) {
      card.querySelector("figure").append(pictureTools(card.dataset.figure));
      card.addEventListener("toggle", async () => { card.querySelector("img").src = await picture(card.dataset.figure, "svg"); });
    }
    dark.addEventListener("change", () => divs.forEach(draw));
    await Promise.all(divs.map(draw));
    root.dataset.drawn = divs.length;
  }

  // ------------------------------------------------------------------ tables

  const heads = (table) => [...table.tHead.rows[0].cells];
  const hiding = new Map(); // table -> the style element that hides some of its columns

  function hideColumns(table, indices) {
    if (!hiding.has(table)) {
      table.id ||= "table-" + hiding.size;
      hiding.set(table, document.head.appendChild(document.createElement("style")));
    }
    const cells = [...indices].map((index) => `#${table.id} tr>:nth-child(${index + 1})`);
    hiding.get(table).textContent = cells.length ? cells.join() + "{display:none}" : "";
  }

  // Columns of the highest rank go first, until the rest fits; a button brings them back.
  function fit(box) {
    const table = box.querySelector("table");
    const scroll = table.parentElement;
    if (printing || !scroll.clientWidth) return;
    hideColumns(table, []);
    const overflows = table.offsetWidth > scroll.clientWidth;
    const hidden = [];
    if (!box.dataset.all) {
      const order = heads(table).map((head, index) => [Number(head.dataset.rank), index]).filter(([rank]) => rank > 0);
      order.sort((a, b) => b[0] - a[0] || b[1] - a[1]);
      while (table.offsetWidth > scroll.clientWidth && order.length) {
        hidden.push(order.shift()[1]);
        hideColumns(table, hidden);
      }
    }
    const button = box.querySelector(".columns");
    button.hidden = !overflows || (!hidden.length && !box.dataset.all);
    button.textContent = box.dataset.all ? "Only the columns that fit" : `Show ${hidden.length} more column${hidden.length > 1 ? "s" : ""}`;
  }

  const MINUS = "\u2212", DASH = "\u2013";

  // Heading and rows as text, with the rows' notes as a last column; `numbers`: with all digits that are known.
  function cellsOf(table, numbers) {
    const words = (cell) => {
      if (numbers && cell.classList.contains("n") && cell.dataset.sort !== undefined) return cell.dataset.sort;
      const text = [...cell.childNodes].filter((node) => !node.classList?.contains("with")).map((node) => node.textContent).join("").trim();
      return numbers ? (text === DASH ? "" : text.replaceAll(MINUS, "-")) : text;
    };
    const rows = [...table.rows].map((row) => [...row.cells].map(words));
    const notes = [...table.tBodies[0].rows].map((row) => row.querySelector(".with")?.textContent ?? "");
    if (notes.some(Boolean)) rows.forEach((row, index) => row.push(index ? notes[index - 1] : "note"));
    return rows;
  }

  const FORMS = {
    Markdown(table) {
      const line = (row) => "| " + row.map((text) => text.replaceAll("|", "\\|")).join(" | ") + " |\n";
      const [head, ...rows] = cellsOf(table);
      const rule = head.map((_, index) => (heads(table)[index]?.classList.contains("n") ? "---:" : "---"));
      return line(head) + "|" + rule.join("|") + "|\n" + rows.map(line).join("");
    },
    LaTeX(table) {
      const special = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", [MINUS]: "$-$", [DASH]: "--", "±": "$\\pm$" };
      const escaped = (text) => text.replace(/[\\~^&%$#_{}\u2212\u2013±]/g, (letter) => special[letter] ?? "\\" + letter);
      const line = (row) => row.map(escaped).join(" & ") + " \\\\\n";
      const [head, ...rows] = cellsOf(table);
      const columns = head.map((_, index) => (heads(table)[index]?.classList.contains("n") ? "r" : "l")).join("");
      return `% needs \\usepackage{booktabs}\n\\begin{tabular}{${columns}}\n\\toprule\n${line(head)}\\midrule\n${rows.map(line).join("")}\\bottomrule\n\\end{tabular}\n`;
    },
    CSV(table) {
      const quoted = (text) => (/[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);
      return cellsOf(table, true).map((row) => row.map(quoted).join(",") + "\n").join("");
    },
  };

  async function copy(text, button, tools) {
    try {
      await navigator.clipboard.writeText(text);
      const before = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = before; }, 1500);
    } catch { // the browser does not let a page from disk: the reader copies it
      tools.querySelector("textarea")?.remove();
      const area = element("textarea", text, { readOnly: true, ariaLabel: "The table as text, to be copied" });
      tools.append(area);
      area.select();
    }
  }

  function tableTools(box) {
    const table = box.querySelector("table");
    const tools = element("p", [], { className: "tools" });
    const columns = element("button", "", { type: "button", className: "columns", hidden: true });
    columns.addEventListener("click", () => {
      box.dataset.all = box.dataset.all ? "" : "yes";
      fit(box);
    });
    tools.append(columns);
    if (table.classList.contains("folded")) {
      const rows = element("button", `Show all ${table.tBodies[0].rows.length} rows`, { type: "button" });
      rows.addEventListener("click", () => { table.classList.add("unfolded"); rows.remove(); });
      tools.append(rows);
    }
    tools.append("Copy as");
    for (const [name, form] of Object.entries(FORMS)) {
      const button = element("button", name, { type: "button" });
      button.addEventListener("click", () => copy(form(table), button, tools));
      tools.append(button);
    }
    box.append(tools);
  }

  function sortable(table) {
    heads(table).forEach((head, index) => {
      const button = element("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : head.classList.contains("n");
        heads(table).forEach((other) => other.removeAttribute("aria-sort"));
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

  // ------------------------------------------------------------------ paper

  // A table that is wider than the paper is printed in parts, each with the first column.
  function inParts(box) {
    const table = box.querySelector("table");
    if (!table.offsetWidth) return;
    hideColumns(table, []);
    if (table.offsetWidth <= PAPER) return;
    const widths = heads(table).map((head) => head.getBoundingClientRect().width);
    const parts = [[]];
    let used = widths[0];
    for (let index = 1; index < widths.length; index++) {
      if (used + widths[index] > PAPER && parts.at(-1).length) {
        parts.push([]);
        used = widths[0];
      }
      parts.at(-1).push(index);
      used += widths[index];
    }
    parts.forEach((part, number) => {
      const clone = table.cloneNode(true);
      clone.id = `${table.id}-part-${number}`;
      if (number) clone.caption.append(" (continued)");
      box.append(element("div", clone, { className: "part" }));
      hideColumns(clone, [...widths.keys()].filter((index) => index && !part.includes(index)));
    });
    table.parentElement.hidden = true;
  }

  function print(on) {
    if (on === printing) return;
    printing = on;
    root.classList.toggle("printing", on);
    const boxes = [...document.querySelectorAll(".table")];
    if (on) boxes.forEach(inParts);
    else {
      for (const part of document.querySelectorAll(".table .part")) {
        hiding.get(part.firstChild)?.remove();
        hiding.delete(part.firstChild);
        part.remove();
      }
      for (const box of boxes) box.querySelector(".scroll").hidden = false;
      boxes.forEach(fit);
    }
    for (const listing of document.querySelectorAll("details.listing")) listing.open = on;
    if (root.dataset.drawn) document.querySelectorAll(".plot").forEach(draw);
  }

  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
  window.matchMedia("print").addEventListener("change", (event) => print(event.matches));

  // ------------------------------------------------------------------ the page

  const boxes = [...document.querySelectorAll(".table")];
  document.querySelectorAll("table.sortable").forEach(sortable);
  boxes.forEach(tableTools);
  boxes.forEach(fit);
  window.addEventListener("resize", () => {
    boxes.forEach(fit);
    if (root.dataset.drawn && !printing) document.querySelectorAll(".wide .plot").forEach(draw);
  });
  document.addEventListener("toggle", (event) => event.target.querySelectorAll?.(".table").forEach(fit), true);
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
