"""The style sheet of a report, and the script that sorts its tables; nothing is fetched from the
network."""

from __future__ import annotations

STYLE = """
:root { --text: #1c2733; --soft: #5c6b7a; --line: #dfe5ea; --ground: #f6f8f9; --card: #ffffff; --accent: #1f6f9f;
  --accent2: #5496bb; --accent3: #b9c6d0; --warm: #c8642b; --good: #2c7a4b; --bad: #b3432f; }
@media screen and (prefers-color-scheme: dark) { :root { --text: #e3e8ec; --soft: #98a6b3; --line: #2d3943;
  --ground: #12181d; --card: #1a2229; --accent: #5fb0dd; --accent2: #3f7f9f; --accent3: #566673; --warm: #e08a54;
  --good: #63bd86; --bad: #e5806b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 10px; }
h3 { font-size: 1rem; margin: 22px 0 8px; }
p { margin: 0 0 12px; max-width: 72ch; }
.soft, figcaption, .note { color: var(--soft); font-size: .9rem; }
nav { margin: 12px 0 20px; font-size: .9rem; }
nav a { color: var(--accent); text-decoration: none; margin-right: 14px; white-space: nowrap; display: inline-block; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin: 0 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 12px; margin: 0 0 18px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.tile span { color: var(--soft); font-size: .85rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
th.sorts { cursor: pointer; } th button { all: unset; } th button:focus-visible { outline: 2px solid var(--accent); }
th button::after { content: " \\2195"; opacity: .4; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wide { width: 34%; min-width: 90px; }
td.key { color: var(--soft); width: 11rem; } td.value { overflow-wrap: anywhere; }
.bar { display: block; height: 10px; background: var(--line); border-radius: 5px; overflow: hidden; }
.bar span { display: block; height: 100%; background: var(--accent); }
table + table { border-top: 1px solid var(--line); }
.scroll { overflow-x: auto; } .tall { max-height: 38rem; overflow-y: auto; } .all { max-height: 90vh; overflow: auto; }
.tall table { border-collapse: separate; border-spacing: 0; }    /* else a head that stays loses its line */
.tall thead th { position: sticky; top: 0; background: var(--card); }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--text); }
.chart text { fill: var(--soft); font-size: 13px; } .grid { stroke: var(--line); }
.frame { fill: none; stroke: var(--line); }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.strong { stroke: var(--accent); stroke-width: 2.5; } .middle { stroke: var(--accent2); stroke-width: 2; stroke-dasharray: 6 2.5; }
.faint { stroke: var(--warm); stroke-width: 2; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 12px; }
.multiples figure, .pictures figure, .curves figure { margin: 0; }
.multiples figcaption { display: flex; gap: .4em; white-space: nowrap; overflow: hidden; }
.multiples figcaption span { overflow: hidden; text-overflow: ellipsis; }
.matrix { display: grid; } .matrix svg { background: var(--card); }
.matrix .columns, .matrix .corner { position: sticky; top: 0; z-index: 1; }
.matrix .rows, .matrix .corner { position: sticky; left: 0; z-index: 1; } .matrix .corner { z-index: 2; }
.matrix .right { fill: var(--accent); } .matrix .wrong { fill: var(--warm); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); gap: 20px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
.pair img { width: 100%; height: auto; max-height: 34rem; object-fit: contain; display: block; border-radius: 4px;
  background: var(--line); }
.pictures figcaption { overflow-wrap: anywhere; }
.curves h3 { margin: 0 0 4px; font-weight: 600; font-size: .92rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 16px; }
.curves img { width: 100%; height: auto; background: #fff; border-radius: 6px; display: block; }
pre { font-size: .8rem; overflow-x: auto; background: var(--ground); padding: 10px 12px; border-radius: 6px;
  margin: 8px 0 0; }
summary { cursor: pointer; color: var(--accent); }
@media screen and (max-width: 640px) { main { padding: 18px 10px 40px; } section { padding: 14px 12px; }
  h1 { font-size: 1.35rem; } td.key { width: 7.5rem; } td, th { padding-right: 7px; } .wide { min-width: 50px; }
  .sentence, .extra, .sortable .wide { display: none; } .sortable td { overflow-wrap: anywhere; }
  .sortable td.number { overflow-wrap: normal; } .pair { grid-template-columns: 1fr; } .chart text { font-size: 17px; } }
@page { margin: 14mm; }
@media print { * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  body { background: #fff; font-size: 10.5pt; } main { max-width: none; padding: 0; }
  nav, details:not([open]), th button { display: none; }
  .scroll, .tall, .all { max-height: none; overflow: visible; } .tall thead th { position: static; }
  section { border: 0; padding: 0; margin: 0 0 22px; } section, .tile, pre { background: none; }
  figure, tr, svg, .matrix, img, .tile, p, section > table, .scroll:not(.tall) table { break-inside: avoid; }
  h2, h3, h2 + p, h3 + p { break-after: avoid; } p { max-width: none; }
  svg, .matrix { min-width: 0 !important; } svg { max-height: 23cm; } .chart { max-width: 15cm !important; }
  .multiples { grid-template-columns: repeat(5, minmax(0, 1fr)); } .pictures, .curves { grid-template-columns: 1fr; }
  .pictures figure { max-width: 15cm; } .curves figure { max-width: 13cm; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0; } a { color: inherit; } }
"""

SCRIPT = """
document.querySelectorAll("table.sortable").forEach(function (table) {
  var body = table.tBodies[0];
  Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
    if (!head.textContent) { return; }
    // The text stays outside the button: browsers do not print buttons in a head that comes again on the next page.
    var button = document.createElement("button"), rising = head.className.indexOf("number") < 0;
    button.setAttribute("aria-label", "sort by " + head.textContent);
    head.appendChild(button);
    head.classList.add("sorts");
    head.addEventListener("click", function () {
      var sign = rising ? 1 : -1;
      rising = !rising;
      Array.prototype.slice.call(body.rows).sort(function (one, other) {
        var a = one.cells[column].dataset.value, b = other.cells[column].dataset.value;
        return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
});
"""
