"""The graph of a pipeline's stages: where each stands on the page, and the wires between them.

A band for each step of the paper, one below the other; in a band what waits for nothing else of it stands on the left,
and to its right what does. Without steps, the stages that are equally far from the beginning make a band.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean

from ...system.run_files import Json, format_seconds

WIDTH, HEIGHT = 172, 56  # of a stage, in the drawing's units (pixels at full size)
GAP, ROW_GAP, BAND_GAP = 40, 30, 48
LEFT, TOP = 158, 14  # room for the steps' names, and above
SLOTS, LANE, ROUND = 5, 4, 7  # wires side by side in a gap, their distance, and the radius of their corners
COLUMNS = 5  # of a band; what stands further to the right goes on in the next row
NAME, TITLE = 21, 24  # characters that fit
Point = tuple[float, float]
KINDS = ("model", "data", "reward_model")
STEPS = {  # of the R1 paper
    "0": "R1-Zero",
    "1": "cold start",
    "2": "reasoning RL",
    "3a": "rejection sampling",
    "3b": "non-reasoning data",
    "3c": "SFT on both",
    "4": "alignment",
    "5": "students",
}
# What a stage shows of the states of its seeds: the first of these that one of them has.
GRAVEST = ("failed", "interrupted", "running", "blocked", "waiting", "skipped", "finished", "cached")
ENDED = ("finished", "cached")
COLOURS = {"failed": "orange", "interrupted": "orange", "running": "blue", "finished": "green", "cached": "green"}


@dataclass
class Node:
    """A stage, or the evaluations that one stage makes of several models, over all seeds."""

    name: str
    task: str
    step: str
    title: str
    runs: list[Json] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)  # name of a node -> kind of the wire
    x: float = 0.0
    y: float = 0.0

    @property
    def of(self) -> int:
        """How many stages it stands for."""
        return len({run["name"] for run in self.runs})

    @property
    def states(self) -> str:
        """`finished`, or of seeds in different states `2 finished, 1 failed`."""
        counts = Counter(run["state"] for run in self.runs)
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{counts[state]} {state}" for state in GRAVEST if state in counts)

    @property
    def colour(self) -> str:
        states = {run["state"] for run in self.runs}
        return COLOURS.get(next((state for state in GRAVEST if state in states), ""), "grey")

    @property
    def seconds(self) -> str:
        """How long one takes in the mean over the seeds; nothing before all have ended."""
        known = [run["seconds"] for run in self.runs if run["seconds"] is not None]
        if not known or len({run["state"] for run in self.runs} - set(ENDED)):
            return ""
        return (f"{self.of} × " if self.of > 1 else "") + format_seconds(fmean(known))

    @property
    def shown(self) -> str:
        return _cut(self.name, NAME)

    @property
    def subtitle(self) -> str:
        return _cut(self.title, TITLE)


@dataclass(frozen=True)
class Graph:
    """All that is drawn: nodes, bands (`name`, `words`, `y`, `height`), wires (`kind`, `path`, `faint`), its size."""

    nodes: list[Node]
    bands: list[Json]
    wires: list[Json]
    width: float
    height: float

    def told(self) -> str:
        """The graph in words."""
        parts = [
            f"{node.name} {node.states}" + f" after {', '.join(node.inputs)}" * bool(node.inputs)
            for node in self.nodes
        ]
        return f"Stages: {'; '.join(parts)}."


def draw_graph(stages: list[Json]) -> Graph:
    """The graph of the stages of a pipeline's `state.json`."""
    nodes = _nodes(stages)
    bands, top = [], float(TOP)
    for name, members in _banded(nodes):
        rows = _place(members, top)
        height = rows * HEIGHT + (rows - 1) * ROW_GAP
        bands.append({"name": name, "words": STEPS.get(name, ""), "y": top, "height": height})
        top += height + BAND_GAP
    right = max((node.x for node in nodes.values()), default=0.0) + WIDTH
    return Graph(list(nodes.values()), bands, _wires(nodes), right + TOP, top - BAND_GAP + TOP)


def _nodes(stages: list[Json]) -> dict[str, Node]:
    """Nodes by name, in the order of the file; `measured.zero` and `measured.r1` are one, `measured`."""
    nodes: dict[str, Node] = {}
    for stage in stages:
        name = find_node(stage["name"])
        title = stage["title"] if name == stage["name"] else ""
        node = nodes.setdefault(name, Node(name, stage["task"], stage["step"] or "", title or ""))
        node.runs.append(stage)
        for kind in KINDS:
            for source in stage["inputs"].get(kind) or []:
                node.inputs.setdefault(find_node(source), kind)
    return nodes


def find_node(stage: str) -> str:
    return stage.partition(".")[0]


def _banded(nodes: dict[str, Node]) -> list[tuple[str, list[tuple[Node, int]]]]:
    """Each band's name and its nodes, each with its depth among them; stages without a step come last."""
    if not any(node.step for node in nodes.values()):
        depths = _depths(nodes)
        levels = sorted(set(depths.values()))
        return [("", [(nodes[name], 0) for name in nodes if depths[name] == level]) for level in levels]
    steps = sorted(dict.fromkeys(node.step for node in nodes.values()), key=lambda step: step == "")
    bands = []
    for step in steps:
        members = {name: node for name, node in nodes.items() if node.step == step}
        depths = _depths(members)
        bands.append((step, [(node, depths[name]) for name, node in members.items()]))
    return bands


def _depths(nodes: dict[str, Node]) -> dict[str, int]:
    """Longest way from a node without inputs among these."""
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            depths[name] = max((depth(source) + 1 for source in nodes[name].inputs if source in nodes), default=0)
        return depths[name]

    for name in nodes:
        depth(name)
    return depths


def _place(members: list[tuple[Node, int]], top: float) -> int:
    """Give the nodes of a band their places; returns how many rows they take."""
    taken: set[tuple[int, int]] = set()
    places: dict[str, tuple[int, int]] = {}
    level = all(depth == 0 for _, depth in members)
    for i, (node, depth) in enumerate(members):
        column, row = (i % COLUMNS, i // COLUMNS) if level else (depth % COLUMNS, 0)
        # A chain stays in its row, and what goes on below the last column in a row of its own.
        row = next((places[source][1] + (column == 0) for source in node.inputs if source in places), row)
        while (column, row) in taken:
            row += 1
        taken.add((column, row))
        places[node.name] = column, row
        node.x, node.y = LEFT + column * (WIDTH + GAP), top + row * (HEIGHT + ROW_GAP)
    return max(row for _, row in taken) + 1


def _wires(nodes: dict[str, Node]) -> list[Json]:
    """The wires, at right angles, through the gaps between the stages; those of one source share their ways.

    Those to evaluations come from nearly everywhere; they are one faint trunk.
    """
    slots: dict[str, int] = {}  # of a source: which of the ways side by side its wires take
    wires = []
    for node in nodes.values():
        sources = [(nodes[name], kind) for name, kind in node.inputs.items() if name in nodes]
        if node.task == "evaluate" and sources:
            trunk = "".join(_rounded(_down(source, node, 0.5, 0)) for source, _ in sources)
            wires.append({"kind": sources[0][1], "path": trunk, "faint": True})
            continue
        above = sorted((source for source, _ in sources if not _is_beside(source, node)), key=lambda one: one.x)
        for source, kind in sources:
            slot = 1 + slots.setdefault(source.name, len(slots)) % (SLOTS - 1)
            if _is_beside(source, node):
                points = _across(source, node)
            else:
                points = _down(source, node, (above.index(source) + 1) / (len(above) + 1), slot)
            wires.append({"kind": kind, "path": _rounded(points), "faint": False})
    return wires


def _is_beside(source: Node, node: Node) -> bool:
    """Whether a wire leaves on the right and arrives on the left, rather than below and above."""
    return source.step == node.step and source.x < node.x


def _across(source: Node, node: Node) -> list[Point]:
    """Out to the right and in from the left; past other stages below the row."""
    y, end, gap = source.y + HEIGHT / 2, node.y + HEIGHT / 2, node.x - GAP / 2
    first = source.x + WIDTH
    if node.x - first <= GAP:
        return [(first, y), (gap, y), (gap, end), (node.x, end)]
    low = source.y + HEIGHT + ROW_GAP / 2
    return [(first, y), (first + GAP / 2, y), (first + GAP / 2, low), (gap, low), (gap, end), (node.x, end)]


def _down(source: Node, node: Node, share: float, slot: int) -> list[Point]:
    """Out below and in from above; from further away through the gap on the left of the stage."""
    x, y, end = source.x + WIDTH / 2, source.y + HEIGHT, node.x + WIDTH * share
    lane = y + 6 + LANE * slot
    if 0 < node.y - y <= BAND_GAP:
        return [(x, y), (x, lane), (end, lane), (end, node.y)]
    gap, last = node.x - GAP / 2 + LANE * (slot - SLOTS // 2), node.y - 6 - LANE * slot
    return [(x, y), (x, lane), (gap, lane), (gap, last), (end, last), (end, node.y)]


def _rounded(points: list[Point]) -> str:
    """The path of an SVG through these points, its corners rounded."""
    path = f"M{points[0][0]:g} {points[0][1]:g}"
    for before, (x, y), after in zip(points, points[1:], points[2:], strict=False):
        (x0, y0), (x1, y1) = _towards((x, y), before), _towards((x, y), after)
        path += f"L{x0:g} {y0:g}Q{x:g} {y:g} {x1:g} {y1:g}"
    return path + f"L{points[-1][0]:g} {points[-1][1]:g}"


def _towards(corner: Point, other: Point) -> Point:
    """A point near a corner, no further than half of the way to the other."""
    (x, y), (to_x, to_y) = corner, other
    length = abs(to_x - x) + abs(to_y - y)
    share = min(ROUND, length / 2) / length if length else 0.0
    return x + share * (to_x - x), y + share * (to_y - y)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
