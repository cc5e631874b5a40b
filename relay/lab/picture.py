"""Small pictures as SVG: axes, curves, dots and words."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

GREY = "#808080"
STYLE = f"text {{ font: 12px sans-serif; fill: {GREY} }}"
COLOURS = ("#d1495b", "#edae49", "#30a46c", "#2e86c1", "#8e6bbf")
"""All legible on white and on black."""
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the picture with axes of its own: what they span, and where they lie."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: int
    right: int
    top: int = 40
    bottom: int = 320

    def at(self, point: Point) -> Point:
        """In the picture, of a point on the axes; what lies outside is drawn on the edge."""
        (x0, x1), (y0, y1) = self.x, self.y
        x, y = min(max(point[0], x0), x1), min(max(point[1], y0), y1)
        return (
            self.left + (x - x0) / (x1 - x0) * (self.right - self.left),
            self.bottom - (y - y0) / (y1 - y0) * (self.bottom - self.top),
        )

    def axes(
        self, title: str, name: str, x: Iterable[tuple[float, str]], y: Iterable[tuple[float, str]]
    ) -> Iterator[str]:
        """Title, name of the x axis, and a line and a label for each value of both."""
        yield text((self.left + self.right) / 2, self.top - 18, title, "middle")
        yield text((self.left + self.right) / 2, self.bottom + 36, name, "middle")
        for value, label in x:
            at, _ = self.at((value, 0))
            yield line([(at, self.top), (at, self.bottom)], GREY, 0.3)
            yield text(at, self.bottom + 16, label, "middle")
        for value, label in y:
            _, at = self.at((0, value))
            yield line([(self.left, at), (self.right, at)], GREY, 0.3)
            yield text(self.left - 6, at + 4, label, "end")

    def curve(self, points: Sequence[Point], colour: str, extra: str = "") -> Iterator[str]:
        yield line([self.at(p) for p in points], colour, 1.8, extra)

    def dots(self, points: Sequence[Point], colour: str) -> Iterator[str]:
        for x, y in map(self.at, points):
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def line(points: Sequence[Point], colour: str, width: float, extra: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{extra}/>'


def svg(width: int, height: int, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n<style>{STYLE}</style>\n{body}\n</svg>\n'
