"""The style sheet of all pages: light and dark, from a phone's width up."""

NUM_HEAT_LEVELS = 8
_LIGHT_STEP, _DARK_STEP = 8.5, 6.0
"""Percent of the colour a level adds; at level 8 text still has a contrast of 4.5 to 1."""


def _heat_rules(step: float) -> str:
    return "".join(
        f".{word}{level} {{ background: color-mix(in srgb, var(--{stroke}) {step * level:g}%, var(--card)); "
        f"fill: color-mix(in srgb, var(--{stroke}) {step * level:g}%, var(--card)); }}\n"
        for word, stroke in (("hp", "s0"), ("hn", "s1"))
        for level in range(1, NUM_HEAT_LEVELS + 1)
    )


_BASE = """
:root {
  --page: #fbfbfa; --card: #ffffff; --text: #1c1e21; --faint: #5b6168; --line: #d9dce0;
  --s0: #1f5fbf; --s1: #b4460f; --mark: #237a3b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131518; --card: #1b1e22; --text: #e7e9ec; --faint: #a3abb4; --line: #363b42;
    --s0: #7db2ff; --s1: #ffa066; --mark: #6fd08c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.2rem; max-width: 76rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif;
}
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 0.7rem; font-size: 1.2rem; }
header p { margin: 0.2rem 0 0; color: var(--faint); }
.figures {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(8.6rem, 1fr)); gap: 0.7rem; margin: 1.2rem 0 0;
}
.figures div {
  display: flex; flex-direction: column; padding: 0.6rem 0.9rem;
  border: 1px solid var(--line); border-radius: 8px; background: var(--card);
}
.figures dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.figures dt { color: var(--faint); font-size: 0.85rem; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 0.9rem; }
figure {
  min-width: 0; margin: 0; padding: 0.8rem 0.9rem; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card);
}
figcaption { font-weight: 600; }
.legend { display: flex; gap: 1.1rem; margin: 0.1rem 0 0; padding: 0; list-style: none; font-size: 0.85rem; }
.chart { display: block; width: 100%; height: auto; margin-top: 0.4rem; }
.chart.key { display: inline-block; width: 28px; margin: 0 0.4rem 0 0; vertical-align: middle; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { fill: var(--faint); font: 12.5px system-ui, sans-serif; }
.curve { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.curve.s0 { stroke: var(--s0); }
.curve.s1 { stroke: var(--s1); stroke-dasharray: 6 3; }
.dot.s0 { fill: var(--s0); }
.dot.s1 { fill: var(--s1); }
.curve.solid { stroke-width: 2; stroke-dasharray: none; }
.bar.s0 { fill: var(--s0); fill-opacity: 0.45; }
.range { fill: none; stroke-width: 2.5; stroke-linecap: round; }
.range.s0 { stroke: var(--s0); }
.range.s1 { stroke: var(--s1); }
.label { fill: var(--text); }
.frame { fill: var(--card); stroke: var(--line); }
.heat td { min-width: 2.6rem; padding: 0.25rem 0.4rem; text-align: right; font-variant-numeric: tabular-nums; }
.heat th { padding-right: 0.6rem; white-space: nowrap; }
.heat thead th:not(:first-child) { padding: 0.25rem 0.4rem; text-align: right; vertical-align: bottom; }
.note { margin: 0.3rem 0 0.6rem; color: var(--faint); font-size: 0.95rem; max-width: 52rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.mark { fill: none; stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 2 4; }
details { margin-top: 0.5rem; }
summary { color: var(--faint); cursor: pointer; font-size: 0.9rem; }
.table { max-height: 26rem; margin: 0.4rem 0; overflow: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
caption { padding: 0.2rem 0; color: var(--faint); text-align: left; }
th, td {
  padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: break-word; max-width: 32rem;
}
tbody th { font-weight: 400; }
.numbers { font-variant-numeric: tabular-nums; }
.numbers th + th, .numbers td { text-align: right; }
.numbers td { white-space: nowrap; }
.numbers tbody th { min-width: 5.5rem; }
.figures + .charts, .charts + .charts { margin-top: 0.9rem; }
.table + .table { margin-top: 1.1rem; }
.beside { min-width: 0; }
pre {
  max-height: 34rem; margin: 0; padding: 0.8rem 0.9rem; overflow: auto; border: 1px solid var(--line);
  border-radius: 8px; background: var(--card); font: 0.85rem/1.5 ui-monospace, monospace;
}
:focus-visible { outline: 2px solid var(--s0); outline-offset: 2px; }
@media print { details > * { display: block; } .table, pre { max-height: none; } }
"""

STYLE = f"{_BASE}{_heat_rules(_LIGHT_STEP)}@media (prefers-color-scheme: dark) {{\n{_heat_rules(_DARK_STEP)}}}\n"
