"""The style sheet of pages and drawings: light and dark, by the reader's own setting."""

from __future__ import annotations

import base64
import hashlib

__all__ = ["DRAWING", "PAGE", "hash_of"]

_COLOURS = """
--ink:#1b1f24;--soft:#57606a;--paper:#ffffff;--card:#f6f8fa;--edge:#d0d7de;--grid:#d8dee4;--blue:#0550ae;
--orange:#bc4c00;--red:#b31d28;--green:#116329;--amber:#7d4e00;--band:#54aeff55;--focus:#0969da
"""
_DARK = """
--ink:#e6edf3;--soft:#9da7b3;--paper:#0d1117;--card:#161b22;--edge:#3d444d;--grid:#2a313c;--blue:#79c0ff;
--orange:#ffa657;--red:#ff7b72;--green:#56d364;--amber:#e3b341;--band:#388bfd44;--focus:#58a6ff
"""


def _tight(text: str) -> str:
    return "".join(line.strip() for line in text.splitlines())


_VARIABLES = (
    f":root{{color-scheme:light dark;{_tight(_COLOURS)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_tight(_DARK)}}}}}"
)
_LINES = _tight("""
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
svg .label,svg .unit{fill:var(--ink)}
svg .label{paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}
.grid{stroke:var(--grid)}.axis{stroke:var(--soft)}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.set{stroke:var(--blue)}.line.counted{stroke:var(--orange);stroke-dasharray:5 3}
.line.effect{stroke:var(--blue)}.line.harm{stroke:var(--red)}.line.proof{stroke:var(--green);stroke-dasharray:7 3}
.line.other{stroke:var(--soft)}
.dot{fill:var(--paper);stroke-width:2}.dot.effect,.dot.set{stroke:var(--blue)}.dot.harm{stroke:var(--red)}
.dot.proof{stroke:var(--green)}.dot.counted{stroke:var(--orange)}
.band{fill:var(--band)}.whisker{stroke:var(--blue)}
.bar{fill:var(--blue)}
.bound{stroke-width:1.5;stroke-dasharray:2 3;stroke:var(--soft)}
.bound.zero{stroke-dasharray:none;stroke:var(--soft)}
.bound.abort{stroke:var(--red)}.bound.pass{stroke:var(--green)}
svg .label.abort{fill:var(--red)}svg .label.pass{fill:var(--green)}
""")
_LAYOUT = _tight("""
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
main,header,footer{max-width:72rem;margin:0 auto;padding:.75rem 1rem}
header{padding-bottom:0}main{padding-top:0}
h1{font-size:1.5rem;line-height:1.25;margin:.25rem 0}
h2{font-size:1.2rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1rem 0 .25rem}
p{margin:.5rem 0}.soft,small{color:var(--soft)}
a{color:var(--blue)}
:focus-visible{outline:3px solid var(--focus);outline-offset:2px}
.state{display:inline-block;border:1px solid currentColor;border-radius:1rem;padding:0 .6rem;font-weight:600}
.good{color:var(--green)}.bad{color:var(--red)}.open{color:var(--blue)}.held{color:var(--amber)}
.card{background:var(--card);border:1px solid var(--edge);border-radius:.5rem;padding:.75rem 1rem;margin:.75rem 0}
dl{display:grid;grid-template-columns:minmax(7rem,auto) 1fr;gap:.25rem 1rem;margin:.5rem 0}
dt{color:var(--soft)}dd{margin:0}
ol.plain,ul.plain{list-style:none;margin:.5rem 0;padding:0}
ol.plain>li,ul.plain>li{padding:.25rem 0;border-top:1px solid var(--edge)}
time{color:var(--soft);font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1rem}
.charts>div>svg{display:block;width:100%;height:auto;max-width:40rem}
.key svg{width:2rem;height:.75rem;vertical-align:middle}.key{color:var(--soft);font-size:.85rem;margin:.25rem 0}
.key span{margin-right:.75rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft)}
th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid var(--edge);vertical-align:top}
td.n,th.n{text-align:right}
summary{cursor:pointer;color:var(--blue)}
code{font:.85em ui-monospace,monospace}
form{display:inline-block;margin:.25rem .5rem .25rem 0}
button{font:inherit;color:var(--ink);background:var(--card);border:1px solid var(--soft);border-radius:.4rem;
padding:.3rem .8rem}
@media(max-width:32rem){dl{grid-template-columns:1fr;gap:0}dt{margin-top:.4rem}
table.stack thead{display:none}table.stack,table.stack tbody,table.stack tr,table.stack td{display:block;width:100%}
table.stack td{border:0;padding:.1rem 0}table.stack tr{border-bottom:1px solid var(--edge);padding:.4rem 0}}
@media print{details{display:none}}
""")

DRAWING = _VARIABLES + _LINES
"""Of a drawing that stands by itself."""
PAGE = _VARIABLES + _LINES + _LAYOUT


def hash_of(text: str) -> str:
    """The source expression of a content security policy that allows this very text (CSP Level 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
