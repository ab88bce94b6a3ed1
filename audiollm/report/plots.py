"""Learning curves as SVG: lines in a frame, coloured by the page's style sheet (so that dark and light both fit).

Not here: bars, which are plain HTML in the template.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

Point = tuple[float, float]

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 30
MOST_POINTS = 400
LOG_SCALE_FROM = 20.0
"""A curve that falls to a twentieth is drawn on a logarithmic scale."""


def line_chart(series: Mapping[str, Sequence[Point]], *, title: str) -> Markup:
    """All series in one frame over training steps; `loss` is drawn pale with its moving average on top.

    Points that are not finite are left out. A chart without points is empty.
    """
    lines = drawable(series)
    if not lines:
        return Markup("")
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    to_x = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    logarithmic = min(ys) > 0 and max(ys) / min(ys) >= LOG_SCALE_FROM
    ticks = log_ticks(min(ys), max(ys)) if logarithmic else linear_ticks(min(min(ys), 0.0), max(ys))
    measure: Callable[[float], float] = math.log10 if logarithmic else float
    to_y = _scale(measure(min(ticks[0], min(ys))), measure(max(ticks[-1], max(ys))), HEIGHT - BOTTOM, TOP)
    parts = [_grid(ticks, lambda y: to_y(measure(y))), _axis(linear_ticks(min(xs), max(xs)), to_x, max(xs))]
    for index, (name, points) in enumerate(lines.items()):
        placed = [(to_x(x), to_y(measure(y))) for x, y in points]
        parts.append(_line(placed, index, len(points) > 40 and index == 0, escape(name)))
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )


def drawable(series: Mapping[str, Sequence[Point]]) -> dict[str, list[Point]]:
    """The curves that have points, each thinned to what a picture can show; the order gives them their colours."""
    thinned = {name: _finite(points) for name, points in series.items()}
    return {name: points for name, points in thinned.items() if points}


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that span low..high from inside, or the one next below `low`."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten, from the last at or below `low` to the first at or above `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    below = max((mark for mark in marks if mark <= low), default=low)
    above = min((mark for mark in marks if mark >= high), default=high)
    inside = [mark for mark in marks if below <= mark <= above]
    return inside if len(inside) <= 8 else [mark for mark in inside if f"{mark:e}"[0] == "1"] or inside


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean over a window of a 25th of the points around each, shorter at both ends."""
    half = max(len(points) // 50, 1)
    windows = [points[max(0, index - half) : index + half + 1] for index in range(len(points))]
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def _finite(points: Sequence[Point]) -> list[Point]:
    kept = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    stride = -(-len(kept) // MOST_POINTS) or 1
    return kept[::stride] + (kept[-1:] if (len(kept) - 1) % stride else [])


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _grid(ticks: Sequence[float], to_y: Callable[[float], float]) -> Markup:
    line = Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>')
    label = Markup('<text x="{}" y="{:.1f}" text-anchor="end" dy="0.32em">{:g}</text>')
    return Markup("").join(
        line.format(LEFT, WIDTH - RIGHT, to_y(tick)) + label.format(LEFT - 6, to_y(tick), tick) for tick in ticks
    )


def _axis(ticks: Sequence[float], to_x: Callable[[float], float], last: float) -> Markup:
    label = Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{:,g}</text>')
    anchors = ["end" if to_x(tick) > WIDTH - RIGHT - 16 else "middle" for tick in ticks]
    labels = [label.format(to_x(tick), HEIGHT - 10, anchor, tick) for tick, anchor in zip(ticks, anchors, strict=True)]
    return Markup("").join(labels)


def _line(points: Sequence[Point], index: int, noisy: bool, name: Markup) -> Markup:
    polyline = Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>')
    drawn = Markup("")
    if noisy:
        drawn += polyline.format(f"line line-{index % 6} raw", _path(points), name)
        points = smoothed(points)
    drawn += polyline.format(f"line line-{index % 6}", _path(points), name)
    if len(points) <= 40:
        dot = Markup('<circle class="dot dot-{}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>')
        drawn += Markup("").join(dot.format(index % 6, x, y) for x, y in points)
    return drawn


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
