"use strict";
/* Sort and filter tables, choose a comparison, hide configurations. The page is whole without it,
   and it computes no number: it only moves and hides what the page has. */
(() => {
  const make = (tag, properties, ...content) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...content);
    return element;
  };

  // A cell's own text, without the smaller text below it, as a number if it begins with one.
  const keyOf = (row, column) => {
    const text = row.cells[column]?.firstChild?.textContent.trim() ?? "";
    const number = parseFloat(text.replace(/^[[<#\s]+/, "").replaceAll(",", ""));
    return { text, number, missing: text === "" || text === "-" };
  };

  const compare = (a, b, sign) => {
    if (a.missing || b.missing) return a.missing - b.missing;
    if (!isNaN(a.number) && !isNaN(b.number)) return sign * (a.number - b.number);
    return sign * a.text.localeCompare(b.text, "en");
  };

  // Rows beyond the first ones are in a second table, which is folded: both are sorted as one.
  const sort = (holder, column) => {
    const heads = [...holder.querySelectorAll("thead tr")].map(row => row.cells[column]);
    const sign = heads[0].ariaSort === "ascending" ? -1 : 1;
    for (const head of holder.querySelectorAll("th")) head.ariaSort = null;
    for (const head of heads) head.ariaSort = sign > 0 ? "ascending" : "descending";
    const bodies = [...holder.querySelectorAll("tbody")];
    const sizes = bodies.map(body => body.rows.length);
    const rows = bodies.flatMap(body => [...body.rows]);
    rows.sort((a, b) => compare(keyOf(a, column), keyOf(b, column), sign));
    bodies.forEach((body, i) => body.append(...rows.splice(0, sizes[i])));
  };

  const filter = (holder, words) => {
    for (const row of holder.querySelectorAll("tbody tr"))
      row.hidden = !row.textContent.toLowerCase().includes(words.toLowerCase());
    for (const fold of holder.querySelectorAll("details")) fold.open ||= words !== "";
  };

  for (const holder of document.querySelectorAll(".table")) {
    for (const head of holder.querySelectorAll("th")) {
      const button = make("button", { type: "button", title: "sort" }, head.textContent);
      button.onclick = () => sort(holder, head.cellIndex);
      head.replaceChildren(button);
    }
    if (holder.querySelectorAll("tbody tr").length > 8) {
      const field = make("input", { type: "search", placeholder: "filter rows", ariaLabel: "filter rows" });
      field.oninput = () => filter(holder, field.value);
      holder.prepend(field);
    }
  }

  // Comparisons: lists of metrics and baselines in place of the folded ones.
  const choices = [...document.querySelectorAll(".choice")];
  if (choices.length > 1) {
    const names = ["metric", "baseline"];
    const lists = names.map(name => {
      const values = [...new Set(choices.map(choice => choice.dataset[name]))];
      return make("select", { ariaLabel: name }, ...values.map(value => make("option", { value }, value)));
    });
    const show = () => choices.forEach(choice =>
      choice.hidden = names.some((name, i) => choice.dataset[name] !== lists[i].value));
    for (const list of lists) list.onchange = show;
    choices[0].before(make("p", { className: "controls" }, ...lists));
    document.querySelector(".other-choices").replaceWith(...choices.slice(1));
    show();
  }

  // Learning curves: a box for each configuration.
  const curves = document.querySelector("#learning-curves");
  const groups = curves ? [...curves.querySelectorAll("[data-config]")] : [];
  const configs = new Map(groups.filter(group => group.id.endsWith("-mean")).map(group => [group.dataset.config, group]));
  if (configs.size > 1) {
    const boxes = [...configs].map(([config, group]) => {
      const box = make("input", { type: "checkbox", checked: true });
      box.style.accentColor = group.querySelector("path")?.style.stroke;
      box.onchange = () => groups.filter(one => one.dataset.config === config)
        .forEach(one => one.style.display = box.checked ? "" : "none");
      return make("label", {}, box, " " + group.querySelector("title").textContent);
    });
    curves.querySelector(".figures").before(make("p", { className: "controls" }, ...boxes));
  }
})();
