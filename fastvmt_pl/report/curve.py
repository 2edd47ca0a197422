"""Curves as SVG, which need no script."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 24, 24


def curve(name: str, points: Sequence[tuple[int, float]]) -> str:
    """Return an SVG of a logged value over inner steps.

    Args:
        name: What the value is called.
        points: Inner step and value, at least one.
    """
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    first, last = min(steps), max(steps)

    def place(step: int, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(1, last - first)
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / ((high - low) or 1.0)
        return f"{x:.1f},{y:.1f}"

    path = " ".join(place(*point) for point in points)
    label = escape(f"{name}: from {values[0]:.4g} to {values[-1]:.4g}, between {low:.4g} and {high:.4g}", quote=True)
    x, y = place(steps[-1], values[-1]).split(",")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'<text class="title" x="{LEFT}" y="14">{escape(name)}</text>'
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{TOP + 6}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{first}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">inner step {last}</text>'
        f'<polyline class="line" points="{path}"/><circle cx="{x}" cy="{y}" r="2.5"/></svg>'
    )
