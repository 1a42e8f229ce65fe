"""The graph of a pipeline's stages: their places on the page, and the wires between them.

Each step of the paper is a band, one below the other. Within a band a stage stands to the right of its inputs. In a
pipeline without steps, the stages at the same depth make a band.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean

from ...system.run_files import Json, format_seconds, shorten_text

WIDTH, HEIGHT = 172, 56  # of a stage, in the drawing's units (pixels at full size)
GAP, ROW_GAP, BAND_GAP = 40, 30, 48
LEFT, TOP = 158, 14  # margins; the names of the steps stand on the left
COLUMNS = 5  # of a band; deeper stages continue in the next row
NAME, TITLE = 21, 24  # characters that fit into a stage
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
# The colour of a stage is that of the first state in this order that one of its seeds has.
GRAVEST = ("failed", "interrupted", "running", "blocked", "waiting", "skipped", "finished", "cached")
ENDED = ("finished", "cached")
COLOURS = {"failed": "orange", "interrupted": "orange", "running": "blue", "finished": "green", "cached": "green"}


@dataclass
class Node:
    """A stage with the runs of all its seeds, or all evaluations that one entry of the pipeline makes."""

    name: str
    task: str
    step: str
    title: str
    runs: list[Json] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)  # upstream node -> kind of wire
    x: float = 0.0
    y: float = 0.0

    @property
    def count(self) -> int:
        """Number of stages that it stands for."""
        return len({run["name"] for run in self.runs})

    @property
    def states(self) -> str:
        """`finished`; where the seeds differ, `2 finished, 1 failed`."""
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
        """Mean time of a run; empty until all have ended."""
        seconds = [run["seconds"] for run in self.runs if run["seconds"] is not None]
        if not seconds or len({run["state"] for run in self.runs} - set(ENDED)):
            return ""
        return (f"{self.count} × " if self.count > 1 else "") + format_seconds(fmean(seconds))

    @property
    def label(self) -> str:
        return shorten_text(self.name, NAME)

    @property
    def subtitle(self) -> str:
        return shorten_text(self.title, TITLE)


@dataclass(frozen=True)
class Graph:
    """Nodes, bands (`name`, `words`, `y`, `height`), wires (`kind`, `path`, `faint`), and the size in pixels."""

    nodes: list[Node]
    bands: list[Json]
    wires: list[Json]
    width: float
    height: float

    def describe(self) -> str:
        """The graph in words, for a screen reader."""
        parts = [
            f"{node.name} {node.states}" + f" after {', '.join(node.inputs)}" * bool(node.inputs)
            for node in self.nodes
        ]
        return f"Stages: {'; '.join(parts)}."


def draw_graph(stages: list[Json]) -> Graph:
    """Lay out the stages of a pipeline's `state.json`."""
    nodes = _read_nodes(stages)
    bands, top = [], float(TOP)
    for name, members in _group_bands(nodes):
        rows = _place_nodes(members, top)
        height = rows * HEIGHT + (rows - 1) * ROW_GAP
        bands.append({"name": name, "words": STEPS.get(name, ""), "y": top, "height": height})
        top += height + BAND_GAP
    right = max((node.x for node in nodes.values()), default=0.0) + WIDTH
    return Graph(list(nodes.values()), bands, _draw_wires(nodes), right + TOP, top - BAND_GAP + TOP)


def _read_nodes(stages: list[Json]) -> dict[str, Node]:
    """Nodes by name, in the order of the file; `measured.zero` and `measured.r1` are one node, `measured`."""
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


def _group_bands(nodes: dict[str, Node]) -> list[tuple[str, list[tuple[Node, int]]]]:
    """Each band's name and its nodes with their depths; stages without a step come last."""
    if not any(node.step for node in nodes.values()):
        depths = _measure_depths(nodes)
        levels = sorted(set(depths.values()))
        return [("", [(nodes[name], 0) for name in nodes if depths[name] == level]) for level in levels]
    steps = sorted(dict.fromkeys(node.step for node in nodes.values()), key=lambda step: step == "")
    bands = []
    for step in steps:
        members = {name: node for name, node in nodes.items() if node.step == step}
        depths = _measure_depths(members)
        bands.append((step, [(node, depths[name]) for name, node in members.items()]))
    return bands


def _measure_depths(nodes: dict[str, Node]) -> dict[str, int]:
    """Longest path to each node from a node without inputs among these."""
    inputs = {name: [source for source in node.inputs if source in nodes] for name, node in nodes.items()}
    depths: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(inputs).static_order():
        depths[name] = max((depths[source] + 1 for source in inputs[name]), default=0)
    return depths


def _place_nodes(members: list[tuple[Node, int]], top: float) -> int:
    """Place the nodes of a band; returns the number of rows that they take."""
    taken: set[tuple[int, int]] = set()
    places: dict[str, tuple[int, int]] = {}
    flat = all(depth == 0 for _, depth in members)
    for i, (node, depth) in enumerate(members):
        column, row = (i % COLUMNS, i // COLUMNS) if flat else (depth % COLUMNS, 0)
        # A chain stays in its row; past the last column it continues in a row of its own.
        row = next((places[source][1] + (column == 0) for source in node.inputs if source in places), row)
        while (column, row) in taken:
            row += 1
        taken.add((column, row))
        places[node.name] = column, row
        node.x, node.y = LEFT + column * (WIDTH + GAP), top + row * (HEIGHT + ROW_GAP)
    return max(row for _, row in taken) + 1


def _draw_wires(nodes: dict[str, Node]) -> list[Json]:
    """A curve for each input. Evaluations take inputs from nearly everywhere; theirs are one faint path."""
    wires = []
    for node in nodes.values():
        inputs = [(_draw_curve(nodes[name], node), kind) for name, kind in node.inputs.items() if name in nodes]
        if node.task == "evaluate" and inputs:
            wires.append({"kind": inputs[0][1], "path": "".join(path for path, _ in inputs), "faint": True})
        else:
            wires += [{"kind": kind, "path": path, "faint": False} for path, kind in inputs]
    return wires


def _draw_curve(source: Node, node: Node) -> str:
    """A cubic curve: from the right side to the left side within a band, else from the bottom to the top."""
    if source.step == node.step and source.x < node.x:
        x0, y0, x1, y1 = source.x + WIDTH, source.y + HEIGHT / 2, node.x, node.y + HEIGHT / 2
        middle = (x0 + x1) / 2
        return f"M{x0:g} {y0:g}C{middle:g} {y0:g} {middle:g} {y1:g} {x1:g} {y1:g}"
    x0, y0, y1 = source.x + WIDTH / 2, source.y + HEIGHT, node.y
    x1 = node.x + WIDTH * (1 + list(node.inputs).index(source.name)) / (1 + len(node.inputs))
    pull = max(ROW_GAP, (y1 - y0) / 3)
    # A wire that passes a band bows out to the left, past the stages in between.
    bow = 0.8 * WIDTH if y1 - y0 > BAND_GAP and node.task != "evaluate" else 0.0
    return f"M{x0:g} {y0:g}C{x0 - bow:g} {y0 + pull:g} {x1 - bow:g} {y1 - pull:g} {x1:g} {y1:g}"
