// What the tests ask of a page; evaluated in it by test_browser.py.
window.checks = {
  // long tables wait until they are seen, and a picture of the whole page sees nothing
  whole: () => document.querySelectorAll(".tall").forEach((each) => { each.style.contentVisibility = "visible"; }),

  open: () => document.querySelectorAll("details").forEach((each) => { each.open = true; }),

  later: () => new Promise((done) => setTimeout(done, 50)),

  injectScript: () => {
    const script = document.createElement("script");
    script.textContent = "window.bad = 1";
    document.body.append(script);
  },

  injectImage: () => {
    const image = document.createElement("img");
    image.src = "https://example.org/x.png";
    document.body.append(image);
  },

  charts: () => [...document.querySelectorAll("figure svg")].map((svg) => {
    const box = svg.getBoundingClientRect();
    const isInside = (each) => {
      const own = each.getBoundingClientRect();
      return own.left >= box.left - 1 && own.right <= box.right + 1
        && own.top >= box.top - 1 && own.bottom <= box.bottom + 1;
    };
    const texts = [...svg.querySelectorAll("text")];
    return {
      id: svg.closest("figure").id,
      marks: svg.querySelectorAll(".mark").length,
      axes: [...svg.querySelectorAll(".axis-title")].map((each) => each.textContent),
      outside: texts.filter((each) => !isInside(each)).map((each) => each.textContent),
    };
  }),

  // where charts lie in the window, and how high the smallest letters of each are there, px
  figures: () => [...document.querySelectorAll("figure svg")].map((svg) => {
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const sizes = [...svg.querySelectorAll("text")].map((each) => Number.parseFloat(getComputedStyle(each).fontSize));
    const holder = svg.parentElement;
    return {
      id: svg.closest("figure").id,
      left: box.left,
      right: box.right,
      letters: scale * Math.min(...sizes),
      scrolls: holder.scrollWidth > holder.clientWidth,
    };
  }),

  // texts with a contrast below 4.5 to what is behind them
  pale: () => {
    const parse = (text) => (text.match(/[\d.]+/g) || []).map(Number);
    const linear = (part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    };
    const luminance = (colour) => {
      const [red, green, blue] = colour.slice(0, 3).map(linear);
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (node) => {
      for (let at = node; at; at = at.parentElement) {
        const colour = parse(getComputedStyle(at).backgroundColor);
        if (colour.length === 3 || colour[3] > 0) return colour;
      }
      return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode.parentElement;
      const inSvg = node.namespaceURI.endsWith("svg");
      if (!walker.currentNode.textContent.trim() || !node.checkVisibility()) continue;
      if (["SCRIPT", "STYLE"].includes(node.tagName) || (inSvg && node.tagName !== "text")) continue;
      const style = getComputedStyle(node);
      const ends = [luminance(parse(inSvg ? style.fill : style.color)), luminance(behind(node))].sort((a, b) => b - a);
      const ratio = (ends[0] + 0.05) / (ends[1] + 0.05);
      if (ratio < 4.5) found.push([node.tagName, String(node.className.baseVal ?? node.className), node.textContent.slice(0, 40), ratio]);
    }
    return found;
  },

  headings: () => [...document.querySelectorAll("#numbers thead th")].map((each) => each.textContent),

  numbers: () => [...document.querySelectorAll("#numbers tbody tr")].map((line) => [...line.cells].map((cell) => cell.textContent)),

  // every table but the raw numbers and the matrix: its section, fold and chart, and what stands in it
  tables: () => [...document.querySelectorAll("main section[id] table")].filter((each) => each.id !== "numbers").map((table) => {
    const figure = table.closest("figure");
    const fold = table.closest("details.fold");
    return [
      table.closest("section").id,
      fold ? fold.querySelector("summary").textContent : "",
      figure ? figure.id : "",
      figure ? figure.querySelector("strong").textContent : "",
      [...table.querySelectorAll("thead th")].map((each) => each.textContent),
      [...table.querySelectorAll("tbody tr")].map((line) => [...line.cells].map((cell) => cell.textContent)),
    ];
  }),

  column: (at) => [...document.querySelectorAll("#numbers tbody tr")].map((line) => line.cells[at].textContent),

  heat: () => [...document.querySelectorAll("#heat td[data-c]")].map((cell) => {
    const head = document.querySelectorAll("#heat thead th")[cell.cellIndex];
    return [cell.parentElement.cells[0].title, head.title, cell.firstChild.textContent];
  }),

  lines: () => [...document.querySelectorAll("#heat tbody tr")].filter((each) => !each.hidden).map((each) => each.cells[0].title),

  sortNumbers: (at) => document.querySelector(`#numbers [data-sort="${at}"]`).click(),

  filter: (text) => {
    const field = document.getElementById("filter");
    field.value = text;
    field.dispatchEvent(new Event("input"));
  },

  focused: () => document.activeElement.id || document.activeElement.className || document.activeElement.textContent,

  // everything that can be reached comes in the order of the page
  inOrder: () => [...document.querySelectorAll("a[href], button, input, summary, [tabindex='0']")]
    .filter((each) => each.checkVisibility() && !each.closest("dialog"))
    .every((each) => each.tabIndex === 0),
};
