"""One HTML file with nothing outside itself."""

import base64
from collections.abc import Iterable
from collections.abc import Sequence
import html
import io

import numpy as np
from PIL import Image

_STYLE = """
:root { color: #1f2937; background: #f8fafc; }
body { font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto,
  'Helvetica Neue', Arial, sans-serif; max-width: 1080px; margin: 0 auto;
  padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 44px 0 12px; padding-bottom: 6px;
  border-bottom: 1px solid #e2e8f0; }
p { margin: 6px 0; max-width: 100ch; }
.sub, .note, figcaption + .legend, .tile span, .cap { color: #64748b; }
.sub { font-size: 14px; }
.note { font-size: 12.5px; margin: 2px 0 6px; max-width: none; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 8px; }
.tile { background: #fff; border: 1px solid #e2e8f0; border-radius: 8px;
  padding: 12px 16px; flex: 1 1 150px; }
.tile b { display: block; font-size: 24px; line-height: 1.3; }
.tile span { font-size: 12.5px; }
table { border-collapse: collapse; background: #fff; width: 100%;
  border: 1px solid #e2e8f0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 12px;
  border-bottom: 1px solid #edf2f7; vertical-align: top; }
th { font-size: 12.5px; font-weight: 600; color: #475569;
  background: #f1f5f9; }
td.num, th.num { text-align: right; }
td.num, td.short { white-space: nowrap; }
td.good { color: #047857; font-weight: 600; }
td.bad { color: #b91c1c; font-weight: 600; }
.charts { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); }
figure { margin: 0; background: #fff; border: 1px solid #e2e8f0;
  border-radius: 8px; padding: 12px 14px 10px; }
figcaption { font-weight: 600; font-size: 14px; }
.legend { font-size: 12.5px; display: flex; flex-wrap: wrap; gap: 2px 14px; }
.legend i { display: inline-block; width: 10px; height: 3px;
  vertical-align: middle; margin-right: 5px; }
.legend b { color: #1f2937; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 13px; fill: #64748b; }
svg .grid { stroke: #e8edf3; }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.box { border-left: 4px solid #059669; background: #ecfdf5;
  padding: 10px 16px; border-radius: 0 8px 8px 0; }
.box.bad { border-color: #dc2626; background: #fef2f2; }
.box ul { margin: 4px 0; padding-left: 20px; }
img.wide { max-width: 100%; border: 1px solid #e2e8f0; border-radius: 8px;
  background: #fff; }
.near { display: grid; gap: 8px 10px; align-items: start;
  background: #fff; border: 1px solid #e2e8f0; border-radius: 8px;
  padding: 14px; overflow-x: auto; }
.near img { width: 100%; aspect-ratio: 1; object-fit: cover; display: block;
  border-radius: 5px; border: 3px solid #cbd5e1; box-sizing: border-box; }
.near img.small { image-rendering: pixelated; }
.near .same img { border-color: #10b981; }
.near .other img { border-color: #f87171; }
.near .query { padding-right: 10px; border-right: 1px solid #e2e8f0; }
.near .query img { border-color: #1f2937; }
.near .head { font-size: 12.5px; font-weight: 600; color: #475569; }
.cap { font-size: 11.5px; line-height: 1.3; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; padding-top: 2px; }
summary { cursor: pointer; color: #2563eb; padding: 4px 0; }
td code { overflow-wrap: anywhere; }
code { font: 13px/1.5 ui-monospace, 'SF Mono', Menlo, Consolas, monospace; }
@media print { body { padding: 0; } figure, tr { break-inside: avoid; } }
"""


def render(title: str, sections: Iterable[str]) -> str:
  """A whole page; `sections` are HTML."""
  return (
      '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head>'
      f'<body>\n{chr(10).join(s for s in sections if s)}\n</body></html>\n')


def section(title: str, *parts: str) -> str:
  """A heading and what stands under it; '' if that is nothing."""
  body = '\n'.join(part for part in parts if part)
  return f'<section><h2>{html.escape(title)}</h2>\n{body}</section>' if (
      body) else ''


def paragraph(text: str, kind: str = '') -> str:
  return f'<p class="{kind}">{html.escape(text)}</p>'


def tiles(values: Iterable[tuple[str, str]]) -> str:
  """Large figures, each (figure, what it is)."""
  return '<div class="tiles">' + ''.join(
      f'<div class="tile"><b>{html.escape(figure)}</b>'
      f'<span>{html.escape(what)}</span></div>'
      for figure, what in values) + '</div>'


def table(
    header: Sequence[str], rows: Iterable[Sequence[tuple[str, str]]]) -> str:
  """A table of cells (text, class); class `num` stands to the right."""
  rows = list(rows)
  kinds = [kind for _, kind in rows[0]] if rows else [''] * len(header)
  head = ''.join(
      f'<th class="{kind.split(" ")[0]}">{html.escape(name)}</th>'
      for name, kind in zip(header, kinds, strict=True))
  body = ''.join(
      '<tr>' + ''.join(
          f'<td class="{kind}">{html.escape(text)}</td>'
          for text, kind in row) + '</tr>'
      for row in rows)
  return f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def box(title: str, sentences: Sequence[str], *, bad: bool) -> str:
  """A coloured box with a list."""
  items = ''.join(f'<li>{html.escape(s)}</li>' for s in sentences)
  return (
      f'<div class="box{" bad" if bad else ""}"><b>{html.escape(title)}</b>'
      f'<ul>{items}</ul></div>')


def picture(png: bytes, alt: str, kind: str = '') -> str:
  """An `<img>` with its bytes inside."""
  data = base64.b64encode(png).decode()
  return (
      f'<img class="{kind}" alt="{html.escape(alt)}" '
      f'src="data:image/png;base64,{data}">')


def encode_png(image: np.ndarray, max_size: int = 112) -> bytes:
  """u8[H, W, 3] or u8[H, W, 1] as PNG, made smaller where it is large."""
  image = np.asarray(image)
  if image.shape[-1] == 1:
    image = np.repeat(image, 3, axis=-1)
  drawn = Image.fromarray(image)
  drawn.thumbnail((max_size, max_size))
  buffer = io.BytesIO()
  drawn.save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()
