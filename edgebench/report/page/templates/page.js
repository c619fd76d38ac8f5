"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const heat = byId("heat");
  const dialog = byId("cell");
  let opened = null;

  document.querySelectorAll(".tools").forEach((each) => { each.hidden = false; });

  // --- dark or light ---
  const theme = byId("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });

  // --- one cell ---
  const titleOf = (cell) => data.models[cell[1]] + " on " + data.devices[cell[0]];
  const row = (heading, value) => {
    const line = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = heading;
    const found = document.createElement("td");
    found.className = "number";
    found.textContent = value;
    line.append(head, found);
    return line;
  };
  const show = (number) => {
    const cell = data.cells[number];
    if (!cell) return;
    byId("cell-title").textContent = titleOf(cell);
    byId("cell-state").textContent = data.states[cell[2]];
    byId("cell-said").replaceChildren(...cell[4].map((said) => {
      const item = document.createElement("li");
      item.textContent = said;
      return item;
    }));
    const numbers = cell[3] === null ? [] : data.rows[cell[3]].slice(2);
    byId("cell-numbers").replaceChildren(...numbers.map((value, at) => row(data.headings[at], value)).filter((_, at) => numbers[at] !== "-"));
    const drawn = byId("cell-drawn");
    drawn.hidden = !cell[5];
    drawn.href = "#" + (cell[5] || "main");
    opened = byId("c" + number);
    dialog.showModal();
    history.replaceState(null, "", "#c" + number);
  };
  dialog.addEventListener("close", () => {
    history.replaceState(null, "", "#main");
    if (opened) opened.focus();
  });
  byId("close").addEventListener("click", () => dialog.close());
  byId("cell-drawn").addEventListener("click", () => {
    const fold = byId(byId("cell-drawn").getAttribute("href").slice(1));
    opened = null;
    dialog.close();
    if (fold) { fold.open = true; fold.querySelector("summary").focus(); fold.scrollIntoView(); }
  });
  const fromAddress = () => {
    const found = /^#c(\d+)$/.exec(location.hash);
    if (found && !dialog.open) show(Number(found[1]));
    const fold = /^#d\d+$/.test(location.hash) && byId(location.hash.slice(1));
    if (fold) fold.open = true;
  };
  addEventListener("hashchange", fromAddress);

  // --- the matrix: one cell can be reached by Tab, arrows move ---
  const focusOn = (cell) => {
    heat.querySelectorAll("td[tabindex='0']").forEach((each) => { each.tabIndex = -1; });
    cell.tabIndex = 0;
    cell.focus();
  };
  const beside = (cell, key) => {
    const line = cell.parentElement;
    const lines = [...line.parentElement.rows].filter((each) => !each.hidden);
    let at = lines.indexOf(line);
    let place = cell.cellIndex;
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[key];
    if (key === "Home") return line.cells[1];
    if (key === "End") return line.cells[line.cells.length - 1];
    if (!step) return null;
    do {
      at += step[0];
      place += step[1];
      const next = lines[at] && place > 0 ? lines[at].cells[place] : null;
      if (!next) return null;
      if (next.dataset.c) return next;
    } while (true);
  };
  const numberOf = (event) => {
    const cell = event.target.closest("td[data-c]");
    return cell ? Number(cell.dataset.c) : null;
  };
  if (heat) {
    if (!heat.querySelector("td[tabindex='0']")) {
      const first = heat.querySelector("td[data-c]");
      if (first) first.tabIndex = 0;
    }
    heat.addEventListener("click", (event) => {
      const number = numberOf(event);
      if (number !== null) { focusOn(event.target.closest("td")); show(number); }
    });
    heat.addEventListener("keydown", (event) => {
      const number = numberOf(event);
      if (number === null) return;
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(number); return; }
      const next = beside(event.target.closest("td"), event.key);
      if (next && next.dataset.c) { event.preventDefault(); focusOn(next); }
    });
    heat.addEventListener("mouseover", (event) => {
      const number = numberOf(event);
      if (number === null) return;
      const cell = data.cells[number];
      event.target.closest("td").title = [titleOf(cell) + ": " + data.states[cell[2]], ...cell[4].slice(0, 2)].join("\n");
    });
    byId("filter").addEventListener("input", (event) => {
      const wanted = event.target.value.toLowerCase();
      let shown = 0;
      for (const line of heat.tBodies[0].rows) {
        line.hidden = !line.cells[0].title.toLowerCase().includes(wanted);
        shown += line.hidden ? 0 : 1;
      }
      byId("shown").textContent = shown + " of " + heat.tBodies[0].rows.length + " lines shown";
    });
  }

  // --- sorting ---
  const valueOf = (cell) => {
    const text = cell.firstChild ? cell.firstChild.textContent.trim() : "";
    const number = Number.parseFloat(text.replace(/^[~✗]\s*/, ""));
    return Number.isNaN(number) ? text : number;
  };
  const compare = (one, other) => {
    if (typeof one === typeof other) return typeof one === "number" ? one - other : one < other ? -1 : one > other ? 1 : 0;
    return typeof one === "number" ? -1 : 1;
  };
  const sortable = (table) => table.querySelectorAll("button[data-sort]").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th[aria-sort]").forEach((each) => each.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const at = Number(button.dataset.sort);
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((line) => [valueOf(line.cells[at]), line]);
      keyed.sort((one, other) => (down ? -1 : 1) * compare(one[0], other[0]));
      body.append(...keyed.map((each) => each[1]));
    });
  });
  const numbers = byId("numbers");
  [heat, numbers].filter(Boolean).forEach(sortable);

  // --- raw numbers ---
  const headings = ["device", "model", ...data.headings];
  const told = (line) => [data.devices[line[0]], data.names[line[1]], ...line.slice(2)];
  // a text that a spreadsheet would take for a formula gets a leading apostrophe
  const quoted = (text) => {
    const plain = /^[=+@\t]|^-(?=.*[^0-9.])./.test(text) && text !== "-" ? "'" + text : text;
    return /[",\n']/.test(plain) ? '"' + plain.replaceAll('"', '""') + '"' : plain;
  };
  const csv = () => [headings, ...data.rows.map(told)].map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
  if (numbers) {
    const more = byId("more");
    const left = data.rows.length - numbers.tBodies[0].rows.length;
    more.hidden = left <= 0;
    more.textContent = "Show " + left + " more";
    more.addEventListener("click", () => {
      const body = numbers.tBodies[0];
      body.append(...data.rows.slice(-left).map((line) => {
        const made = document.createElement("tr");
        told(line).forEach((text, at) => {
          const cell = document.createElement(at ? "td" : "th");
          if (at > 1 && data.numeric[at - 2]) cell.className = "number";
          cell.textContent = text;
          made.append(cell);
        });
        return made;
      }));
      more.hidden = true;
      byId("first").hidden = true;
    });
    byId("copy").addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(csv());
        byId("copied").textContent = "Copied " + data.rows.length + " rows.";
      } catch {
        byId("copied").textContent = "This browser does not allow copying; save it as a file.";
      }
    });
    byId("save").addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
      link.download = "edgebench.csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  addEventListener("beforeprint", () => {
    document.querySelectorAll("details.fold").forEach((each) => { each.open = true; });
  });
  fromAddress();
})();
