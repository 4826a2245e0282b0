"use strict";
// Tables that sort, hints of wide tables, and the list of utterances. Labels and names are data: they become text, never markup.

function number(text) {
  const found = /^[+\u2212-]?[\d,]*\.?\d+(?=$|[\s%])/.exec(text);
  return found ? parseFloat(found[0].replace("\u2212", "-").replaceAll(",", "")) : NaN;
}

// Numbers by size, texts by the alphabet; what has no number comes last.
function compare(a, b, direction) {
  const [x, y] = [number(a), number(b)];
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return direction * (Number.isNaN(x) ? a.localeCompare(b) : x - y);
}

// Calls `sort(column, direction)` when a head is pressed: numbers first from the highest, texts from A, then the other way round, then
// 0 for the order of the page.
function sortable(table, sort) {
  const heads = [...table.tHead.rows[0].cells], names = {1: "ascending", "-1": "descending", 0: null};
  let sorted = [-1, 0];
  heads.forEach((head, column) => {
    if (head.classList.contains("unsorted")) return;
    const first = head.classList.contains("n") ? -1 : 1;
    const press = () => {
      const now = sorted[0] === column ? sorted[1] : 0, next = now === 0 ? first : now === first ? -first : 0;
      heads.forEach(other => { other.ariaSort = null; });
      head.ariaSort = names[next];
      sorted = [column, next];
      sort(column, next);
    };
    head.tabIndex = 0;
    head.title = "sort";
    head.addEventListener("click", press);
    head.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      press();
    });
  });
}

for (const table of document.querySelectorAll("figure.table table")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const text = (row, column) => row.cells[column].textContent.trim();
  sortable(table, (column, direction) => {
    const order = [...rows];
    if (direction) order.sort((a, b) => compare(text(a, column), text(b, column), direction));
    table.classList.toggle("sorted", direction !== 0);
    body.append(...order);
  });
}

function hint() {
  for (const box of document.querySelectorAll(".scroll")) box.parentElement.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
}
addEventListener("resize", hint);
document.addEventListener("change", hint);
document.addEventListener("toggle", hint, true);
hint();

// One player at a time.
document.addEventListener("play", event => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);

const STEP = 25;

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

const shownAs = value => Array.isArray(value) ? value.join(", ") : String(value ?? "");

function listen(row, cell) {
  const button = element("button", "\u25b6", "listen");
  button.type = "button";
  button.ariaLabel = `listen to ${row.id}`;
  button.addEventListener("click", () => {
    const player = element("audio");
    player.controls = true;
    player.src = row.sound;
    cell.replaceChildren(player);
    player.play().catch(() => {});  // a browser may refuse; the controls are there
  });
  cell.append(button);
}

function browser(place) {
  const all = JSON.parse(place.querySelector("script").textContent), columns = JSON.parse(place.dataset.columns);
  const [search, is, answer] = place.querySelectorAll("input[type=search], select"), wrong = place.querySelector("input[type=checkbox]");
  const body = place.querySelector("tbody"), count = place.querySelector("output"), more = place.querySelector(".more");
  let sorting = [0, 0], shown = STEP;
  const matching = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = row => (!wrong.checked || row.wrong) && (!is.value || row.is.includes(is.value)) && (!answer.value || row.answer.includes(answer.value))
      && words.every(word => columns.some(name => name !== "sound" && shownAs(row[name]).toLowerCase().includes(word)));
    const rows = all.filter(fits), [column, direction] = sorting, name = columns[column];
    return direction ? rows.sort((a, b) => compare(shownAs(a[name]), shownAs(b[name]), direction)) : rows;
  };
  const draw = () => {
    const rows = matching();
    body.replaceChildren(...rows.slice(0, shown).map(row => {
      const line = element("tr", "", row.wrong ? "wrong" : "");
      for (const name of columns) {
        const numeric = typeof row[name] === "number";
        const value = name === "probability" ? row[name].toFixed(1) : shownAs(row[name]);
        const cell = element("td", name === "sound" ? "" : value, numeric ? "n" : name);
        if (name === "sound" && row.sound) listen(row, cell);
        line.append(cell);
      }
      return line;
    }));
    count.value = `${rows.length} of ${all.length} utterances`;
    more.hidden = rows.length <= shown;
    hint();
  };
  for (const [select, name] of [[is, "is"], [answer, "answer"]]) {
    for (const value of [...new Set(all.flatMap(row => row[name]))].sort()) select.append(new Option(value, value));
  }
  const restart = () => { shown = STEP; draw(); };
  for (const input of [search, is, answer, wrong]) input.addEventListener("input", restart);
  more.addEventListener("click", () => { shown += 4 * STEP; draw(); });
  sortable(place.querySelector("table"), (column, direction) => { sorting = [column, direction]; restart(); });
  draw();
}
document.querySelectorAll(".browser").forEach(browser);
