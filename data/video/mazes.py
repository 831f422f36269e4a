"""Mazes, and walks through them that come back: what is seen again was long out of view.

x, y in cells from a corner of the maze, y to the left of x; headings are counted counter-clockwise
from the direction of x, in steps of TURN degrees. Nothing has inertia: a pose and an action fix the
next pose.
"""

from collections import deque
from math import atan2, degrees, hypot
from typing import NamedTuple

import numpy as np

from .pose_cells import pose_visits


ACTIONS = "stay", "forward", "left", "right"
"""What each action does, as one key of a keyboard does: a step, a turn on the spot, or nothing."""
STAY, FORWARD, LEFT, RIGHT = range(len(ACTIONS))
STEP = 12 / 128  # cells
HEADINGS = 32
TURN = 360 / HEADINGS
WALL = 1 / 8  # its thickness in cells
LOOPS = 0.25  # share of the walls that a tree of passages leaves, to be opened
SIDES = (-1, 0), (0, 1), (1, 0), (0, -1)  # the cells around, clockwise
JITTER = 0.12  # a target's greatest distance from the middle of its cell, on each axis
ARRIVED = 0.11  # distance from a target, more than half a step
RETURN = 0.6  # chance that the next goal is a cell that was seen, while others were not
LOOK, PAUSE, MOST_PAUSE = 0.3, 0.3, 8  # chances to look around and to stay at a goal; frames

Cell = tuple[int, int]
Point = tuple[float, float]


class Maze(NamedTuple):
    """C x C cells, and the pairs of neighbours that a passage joins."""

    cells: int
    passages: frozenset[frozenset[Cell]]

    def around(self, cell: Cell) -> list[Cell]:
        """The cells that passages lead to."""
        near = neighbours(cell, self.cells)
        return [other for other in near if frozenset((cell, other)) in self.passages]


def grid(cells: int) -> list[Cell]:
    return [(x, y) for x in range(cells) for y in range(cells)]


def neighbours(cell: Cell, cells: int) -> list[Cell]:
    found = [(cell[0] + x, cell[1] + y) for x, y in SIDES]
    return [(x, y) for x, y in found if 0 <= x < cells and 0 <= y < cells]


def random_maze(cells: int, random: np.random.Generator) -> Maze:
    """A maze in which every cell can be reached, some on several ways."""
    path, seen, passages = [(0, 0)], {(0, 0)}, set()
    while path:
        fresh = [cell for cell in neighbours(path[-1], cells) if cell not in seen]
        if not fresh:
            path.pop()
            continue
        cell = fresh[random.integers(len(fresh))]
        passages.add(frozenset((path[-1], cell)))
        path.append(cell)
        seen.add(cell)
    pairs = [
        frozenset((cell, other))
        for cell in grid(cells)
        for other in neighbours(cell, cells)
        if cell < other
    ]
    walls = [pair for pair in pairs if pair not in passages]
    opened = random.choice(len(walls), size=round(LOOPS * len(walls)), replace=False)
    return Maze(cells, frozenset(passages | {walls[number] for number in opened}))


def wall_lines(maze: Maze) -> list[tuple[Point, Point]]:
    """The outline of all walls as lines, with the free space to the right of each."""
    lines = []
    for cell in grid(maze.cells):
        x, y = cell
        low, high = WALL / 2, 1 - WALL / 2
        corners = [(low, low), (low, high), (high, high), (high, low)]  # clockwise
        joined = maze.around(cell)
        for number, (dx, dy) in enumerate(SIDES):
            (ax, ay), (bx, by) = corners[number], corners[(number + 1) % 4]
            if (x + dx, y + dy) in joined:  # through the wall, to the corner of the other cell
                bx, by = ax + dx * WALL, ay + dy * WALL
            lines.append(((x + ax, y + ay), (x + bx, y + by)))
    return lines


def route(maze: Maze, start: Cell, goal: Cell) -> list[Cell]:
    """The cells of a shortest way, without its start."""
    before, waiting = {goal: goal}, deque([goal])
    while start not in before:
        cell = waiting.popleft()
        fresh = [other for other in maze.around(cell) if other not in before]
        before |= dict.fromkeys(fresh, cell)
        waiting += fresh
    way = []
    while start != goal:
        start = before[start]
        way.append(start)
    return way


class Walker:
    """Explores a maze and returns to places that it has seen, now and then pausing to look around.

    It goes from cell to cell, to another point of a cell each time, and never touches a wall.
    """

    def __init__(self, maze: Maze, start: Cell, random: np.random.Generator):
        self.maze, self.random = maze, random
        self.cell, self.seen = start, {start}
        self.way: list[Cell] = []
        self.at_goal: list[int] = []
        self.turning = True
        self.aim()

    def act(self, x: float, y: float, heading: int) -> int:
        """The action in a place, with a heading from 0 to HEADINGS - 1."""
        if hypot(self.target[0] - x, self.target[1] - y) < ARRIVED:
            self.cell = self.way.pop(0)
            self.seen.add(self.cell)
            if not self.way:
                self.at_goal = self.look_around()
            self.aim()
        if self.at_goal:
            return self.at_goal.pop()
        bearing = degrees(atan2(self.target[1] - y, self.target[0] - x)) / TURN
        off = (bearing - heading + HEADINGS / 2) % HEADINGS - HEADINGS / 2
        self.turning = abs(off) > (0.5 if self.turning else 1)
        if not self.turning:
            return FORWARD
        return LEFT if off > 0 else RIGHT

    def aim(self) -> None:
        """Choose a point of the next cell, and where there is none, another goal."""
        if not self.way:
            self.way = route(self.maze, self.cell, self.next_goal())
        jitter = self.random.uniform(-JITTER, JITTER, 2)
        self.target = self.way[0][0] + 0.5 + jitter[0], self.way[0][1] + 0.5 + jitter[1]

    def next_goal(self) -> Cell:
        cells = [cell for cell in grid(self.maze.cells) if cell != self.cell]
        fresh = [cell for cell in cells if cell not in self.seen]
        known = [cell for cell in cells if cell in self.seen]
        back = known and (not fresh or self.random.random() < RETURN)
        chosen = known if back else fresh
        return chosen[self.random.integers(len(chosen))]

    def look_around(self) -> list[int]:
        actions = []
        if self.random.random() < LOOK:
            side = (LEFT, RIGHT)[self.random.integers(2)]
            actions = [side] * int(self.random.integers(HEADINGS // 8, HEADINGS))
        if self.random.random() < PAUSE:
            actions += [STAY] * int(self.random.integers(1, MOST_PAUSE + 1))
        return actions


def first_met(poses: np.ndarray) -> np.ndarray:
    """The frame in which the place of each pose (F, 3) was first met, int (F,).

    A place is half a cell on each axis and a twelfth of a turn.
    """
    return pose_visits(poses, place=1 / 2, turn=30).first


def revisits(poses: np.ndarray, frames: int = 150) -> np.ndarray:
    """Whether the place of each pose was first met `frames` or more frames before, bool (F,)."""
    return np.arange(len(poses)) - first_met(poses) >= frames
