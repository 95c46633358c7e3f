"use strict";
// The panel of records behind a mark. The address says which mark (#cell-12, #group-3, #slope-4, #set-5, #record-6), so
// that the browser's own history, links and keyboard work; the panel only follows the address.
(() => {
  const ROWS = 60; // shown at once; more on demand
  const panel = document.getElementById("panel");
  const kinds = ["cell", "group", "slope", "set", "record"];
  let data = null;
  let opener = null;

  // Rows of tables carry the anchors for readers without scripts; with the panel, going there must not scroll the page.
  for (const row of document.querySelectorAll("tr[id]")) row.removeAttribute("id");

  const load = () => (data ??= JSON.parse(document.getElementById("data").textContent));

  const positions = (text) =>
    text === "" ? [] : text.split(",").flatMap((part) => {
      const [start, stop = start] = part.split("-").map(Number);
      return Array.from({ length: stop - start + 1 }, (_, step) => start + step);
    });

  const element = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const number = (value, digits = 2, sign = false) => {
    if (value === null || value === undefined) return "–";
    const text = Math.abs(value).toFixed(digits);
    const mark = value < 0 && Number(text) !== 0 ? "−" : sign && Number(text) !== 0 ? "+" : "";
    return mark + text;
  };
  const estimate = (row, table) => {
    const low = table.low[row], high = table.high[row];
    const interval = low === null || high === null ? "" : ` [${number(low)}, ${number(high)}]`;
    return number(table.gain[row], 2, true) + interval;
  };
  const mean = (values) => {
    const known = values.filter((value) => value !== null && value !== undefined);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };

  const table = (columns, rows, makeRow) => {
    const body = element("tbody");
    const head = element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)));
    const add = (from, to) => {
      for (const row of rows.slice(from, to)) {
        const cells = makeRow(row).map((content) =>
          element("td", typeof content === "string" && /^[+−–\d]/.test(content) ? { class: "n" } : {}, content));
        body.append(element("tr", {}, ...cells));
      }
    };
    add(0, ROWS);
    const whole = element("div", { class: "box", tabindex: "0" }, element("table", {}, element("thead", {}, head), body));
    if (rows.length > ROWS) {
      const more = element("button", { type: "button" }, `Show all ${rows.length}`);
      more.addEventListener("click", () => { add(ROWS, rows.length); more.remove(); });
      whole.append(more);
    }
    return whole;
  };

  const name = (kind, position) => data.names[kind][position];
  const cellName = (cell) => {
    const { cells } = data;
    return `${name("arm", cells.arm[cell])} → ${name("target", cells.target[cell])}, ${name("task", cells.task[cell])} in ` +
      `${name("language", cells.language[cell])}, ${name("size", cells.size[cell])}`;
  };
  const groupName = (group) => {
    const { groups } = data;
    return `${name("arm", groups.arm[group])}, ${groups.name[group]}, ${name("size", groups.size[group])}`;
  };
  const recordLink = (record) => {
    if (record < 0) return "–";
    const { records } = data;
    const label = records.name[record];
    const pattern = records.patterns[records.file[record]];
    return pattern ? element("a", { href: pattern.replaceAll("*", () => encodeURIComponent(label)) }, label) : label;
  };
  const seeds = (record) => {
    const shown = (seed) => (seed < 0 ? "all" : String(seed));
    return record < 0 ? "–" : `${shown(data.records.intermediateSeed[record])} / ${shown(data.records.targetSeed[record])}`;
  };

  // Pairs of runs behind some cells, each with the mean of its scores over those cells.
  const pairsOf = (cells) => {
    const found = new Map();
    for (const cell of cells) {
      const flat = data.pairLists[data.cells.pairs[cell]];
      const base = data.scoreLists[data.cells.base[cell]], arm = data.scoreLists[data.cells.with[cell]];
      for (let pair = 0; pair < flat.length / 2; pair++) {
        const key = `${flat[2 * pair]} ${flat[2 * pair + 1]}`;
        if (!found.has(key)) found.set(key, { base: flat[2 * pair], arm: flat[2 * pair + 1], baseScores: [], armScores: [] });
        const entry = found.get(key);
        if (base[pair] !== null && arm[pair] !== null) {
          entry.baseScores.push(base[pair] / 100);
          entry.armScores.push(arm[pair] / 100);
        }
      }
    }
    return [...found.values()];
  };

  const pairTable = (cells) => {
    const pairs = pairsOf(cells);
    const many = cells.length > 1;
    return [
      element("h3", {}, `${pairs.length} pair${pairs.length === 1 ? "" : "s"} of records`),
      element("p", { class: "about" }, (many ? "Scores are plain means over those of the cells that a pair has. " : "") +
        "Seeds: intermediate / target."),
      table(["baseline's record", "arm's record", "seeds", "baseline", "with arm", "gain"], pairs, (pair) => {
        const base = mean(pair.baseScores), arm = mean(pair.armScores);
        const difference = base === null ? null : arm - base;
        return [recordLink(pair.base), recordLink(pair.arm), seeds(pair.arm), number(base), number(arm), number(difference, 2, true)];
      }),
    ];
  };

  const cellTable = (cells) => [
    element("h3", {}, `${cells.length} cell${cells.length === 1 ? "" : "s"}`),
    table(["cell", "gain"], cells, (cell) => {
      const shared = name("same", data.cells.same[cell]);
      const note = shared ? ` (shares data: ${shared})` : "";
      return [element("a", { href: `#cell-${cell}` }, cellName(cell) + note), estimate(cell, data.cells)];
    }),
  ];

  const views = {
    cell(cell) {
      const shared = name("same", data.cells.same[cell]);
      const collapsed = data.cells.collapsed[cell];
      return [
        element("h2", {}, cellName(cell)),
        element("p", {}, `Gain ${estimate(cell, data.cells)} points.` +
          (shared ? ` Arm and target share data (${shared}): in no mean.` : "") +
          (collapsed ? ` Pairs with a collapsed run: ${collapsed}.` : "")),
        ...pairTable([cell]),
      ];
    },
    group(group) {
      const { groups } = data;
      const cells = positions(groups.cells[group]);
      return [
        element("h2", {}, groupName(group)),
        element("p", {}, `Gain ${estimate(group, groups)} points: baseline ${number(groups.base[group])}, with the arm ` +
          `${number(groups.with_arm[group])}. Intermediate seeds ${groups.seeds[group] ?? "–"}, run pairs ` +
          `${groups.pairs[group] ?? "–"}, cells left out for shared data ${groups.excluded[group] ?? 0}.`),
        ...cellTable(cells), ...pairTable(cells),
      ];
    },
    slope(slope) {
      const { slopes, groups } = data;
      const fitted = positions(slopes.groups[slope]);
      const cells = [...new Set(fitted.flatMap((group) => positions(groups.cells[group])))];
      return [
        element("h2", {}, slopes.title[slope]),
        element("h3", {}, "Gains that it is fitted to"),
        table(["group", "gain"], fitted, (group) =>
          [element("a", { href: `#group-${group}` }, groupName(group)), estimate(group, groups)]),
        ...pairTable(cells),
      ];
    },
    set(set) {
      const { title, cells, records } = data.sets[set];
      const chosen = positions(cells);
      return [
        element("h2", {}, title),
        ...(chosen.length ? [...cellTable(chosen), ...pairTable(chosen)] : []),
        ...(records ? [recordTable(positions(records))] : []),
      ];
    },
    record(record) {
      const { records, cells } = data;
      const own = new Set();
      data.pairLists.forEach((flat, list) => { if (flat.includes(record)) own.add(list); });
      const chosen = cells.pairs.map((list, cell) => (own.has(list) ? cell : -1)).filter((cell) => cell >= 0);
      return [
        element("h2", {}, records.name[record]),
        recordTable([record]),
        ...cellTable(chosen),
      ];
    },
  };

  const recordTable = (chosen) =>
    table(["record", "seeds", "size", "arm", "target"], chosen, (record) => [
      recordLink(record), seeds(record), name("size", data.records.size[record]), name("arm", data.records.arm[record]),
      name("target", data.records.target[record]),
    ]);

  const counts = { cell: "cells", group: "groups", slope: "slopes", record: "records" };
  const exists = (kind, position) => {
    if (kind === "set") return position < data.sets.length;
    const columns = Object.values(data[counts[kind]]).filter(Array.isArray);
    return columns.length > 0 && position < (kind === "record" ? data.records.name : columns[0]).length;
  };

  const close = () => history.pushState(null, "", location.pathname + location.search);

  const follow = () => {
    const match = /^#(\w+)-(\d+)$/.exec(location.hash);
    if (!match || !kinds.includes(match[1]) || !exists(match[1], Number(match[2]), load())) {
      if (!panel.hidden) {
        panel.hidden = true;
        panel.replaceChildren();
        opener?.focus({ preventScroll: true });
        opener = null;
      }
      return;
    }
    const button = element("button", { type: "button", class: "close", "aria-label": "Close the records" }, "Close");
    button.addEventListener("click", () => { close(); follow(); });
    panel.replaceChildren(button, ...views[match[1]](Number(match[2])));
    panel.hidden = false;
    panel.scrollTop = 0;
    panel.focus({ preventScroll: true });
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a");
    if (link && !panel.contains(link)) opener = link;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !panel.hidden) { close(); follow(); }
  });
  window.addEventListener("hashchange", follow);
  window.addEventListener("popstate", follow);
  follow();
})();
