"""Views of a maze, drawn by the software renderer of Doom (ViZDoom), without a display.

A maze is a map of one sector, with textures of Freedoom, which comes with ViZDoom. The player has a
class of its own: it stands still unless it steps, and all steps have the same length. A frame is a
tic of the game, 1/35 s.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from math import atan2, degrees
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .mazes import HEADINGS, STAY, STEP, TURN, WALL, Maze, Walker, random_maze, wall_lines


FPS = 35
UNIT = 128  # map units of a cell
HEIGHT, LIGHT = 112, 224  # of the rooms, in map units; of 255
FIELD = 106  # degrees across a picture of 4:3; 90 across its middle square
SETTLED = 20  # tics after which the player obeys and the field of view is reached
BUTTONS = (0, 0), (1, 0), (0, -TURN), (0, TURN)  # steps, and degrees clockwise, of each action
HEIGHTS = 120, 192, 240, 300, 384, 480, 600, 768, 960  # pixels, of pictures of 4:3
LARGEST = HEIGHTS[-1] // 2
MOST_CELLS = 100  # a map of Doom has no room for 256
HIDDEN = "hud", "weapon", "crosshair", "decals", "particles", "messages", "screen_flashes"

WALLS = """
STARTAN2 STARTAN3 STARG3 STARGR2 STARBR2 BRICK3 BRICK7 BRICK11 BRICK12 BIGBRIK2 BROWN1 BROWNGRN
BSTONE1 CEMENT1 CEMENT9 COMPBLUE COMPSTA1 COMPSTA2 COMPTILE CRATE1 CRATE2 GRAY7 GRAYRED GRAYTALL
GRAYVINE GSTONE1 GSTVINE1 GSTLION ICKWALL1 MARBFACE MARBFAC2 MARBFAC3 METAL2 MODWALL3 PANBLUE
PANRED PANBOOK PANEL1 PANEL5 PIPES REDWALL ROCK5 SILVER1 SILVER2 SILVER3 SKINFACE SKINMET1 SKSNAKE1
SLADWALL SP_FACE2 SP_ROCK1 STONE STONE4 STONE6 TANROCK2 TEKBRON1 TEKGREN1 TEKWALL4 WOOD1 WOOD3
WOOD10 WOOD12 ZIMMER5 ZIMMER7 ZZWOLF1 ZZWOLF9 ZZWOLF11 A-CAMO1 A-REDROK A-TILE A-VINES
AQBRIK01 AQBRIK02 AQTILE02 AQSECT01 LITEYEL3 MURAL1
"""  # none moves
FLOORS = """
CEIL3_1 CEIL3_3 CEIL3_5 CEIL5_2 DEM1_5 FLAT1_1 FLAT5 FLAT5_3 FLAT5_4 FLAT5_7 FLAT8 FLOOR0_1 FLOOR0_3
FLOOR0_5 FLOOR3_3 FLOOR4_6 FLOOR4_8 FLOOR5_2 FLOOR6_1 FLOOR7_1 FLOOR7_2 GRASS1
MFLR8_1 MFLR8_3 RROCK11 RROCK16 SLIME13 SLIME14 SLIME16 AQF001
"""  # and ceilings
PALETTE = 12  # textures of the walls of a maze

PLAYER = f"""
actor Walker : DoomPlayer {{ States {{
  Spawn: PLAY A 1 A_Stop loop
  See: PLAY A 1 A_ChangeVelocity({STEP * UNIT:g}, 0, 0, CVF_RELATIVE | CVF_REPLACE) goto Spawn
}} }}
"""
GAME = 'gameinfo { playerclasses = "Walker" }'


class Shot(NamedTuple):
    """A frame, and what is known about it."""

    image: np.ndarray
    """uint8 (S, S, 3)"""
    action: int
    """what leads to the next frame, of mazes.ACTIONS"""
    pose: tuple[float, float, float]
    """x and y in cells, and the angle in degrees"""


def film_maze(
    frames: int, size: int = 64, cells: int = 4, seed: int | tuple[int, ...] = 0
) -> Iterator[Shot]:
    """Walk through a new maze; the same arguments give the same shots.

    Arguments:
        frames: their number; more of them continue the same walk.
        size: S, height and width in pixels, at most LARGEST; the view is 90 degrees wide.
        cells: along a side of the maze, from 2 to MOST_CELLS.
        seed: chooses the maze, its textures and the walk.
    Raises: ValueError without ViZDoom; OSError if the engine ends early.
    """
    if not (1 <= size <= LARGEST and 2 <= cells <= MOST_CELLS):
        raise ValueError(
            f"size is {size} and cells {cells}; they must be 1 to {LARGEST} and 2 to {MOST_CELLS}"
        )
    random = np.random.default_rng(seed)
    maze = random_maze(cells, random)
    start = int(random.integers(cells)), int(random.integers(cells))
    with open_game(maze, start, size, random) as game:
        walker = Walker(maze, start, random)
        for _ in range(frames):
            state = game.get_state()
            x, y, heading = locate(state.game_variables)
            action = walker.act(x, y, heading)
            yield Shot(view(state.screen_buffer, size), action, (x, y, heading * TURN))
            game.make_action(BUTTONS[action])


def locate(variables: np.ndarray) -> tuple[float, float, int]:
    """x and y in cells, and the heading, from the game's variables."""
    x, y, angle = variables
    return x / UNIT, y / UNIT, round(angle / TURN) % HEADINGS


def view(screen: np.ndarray, size: int) -> np.ndarray:
    """The middle of a screen as a square of size x size, each pixel the mean of an area."""
    height, width, _ = screen.shape
    left = (width - height) // 2
    square = Image.fromarray(screen[:, left : left + height])
    box = Image.Resampling.BOX
    return np.asarray(square.resize((size, size), box, reducing_gap=1))  # twice as fast by that


def vizdoom() -> Any:
    """The package ViZDoom. Raises ValueError where it is not installed."""
    try:
        import vizdoom
    except ImportError as error:
        raise ValueError("mazes need ViZDoom; use pip install 'tttvideo[doom]'") from error
    return vizdoom


@contextmanager
def open_game(
    maze: Maze, start: tuple[int, int], size: int, random: np.random.Generator
) -> Iterator[Any]:
    """A running game whose player stands in the middle of a cell, facing a passage."""
    vz = vizdoom()
    game = vz.DoomGame()
    with TemporaryDirectory(prefix="tttvideo") as folder:
        path = Path(folder) / "maze.wad"
        path.write_bytes(wad(maze, start, random))
        game.set_doom_scenario_path(str(path))
        game.set_doom_config_path(str(path.with_suffix(".ini")))
        game.set_doom_game_path(str(Path(vz.__file__).parent / "freedoom2.wad"))
        game.set_doom_map("MAP01")
        configure(game, vz, size)
        try:
            with chdir(folder):  # the engine leaves files where it is started
                game.init()
            game.send_game_command(f"fov {FIELD}")
            game.make_action(BUTTONS[STAY], SETTLED)
            yield game
        except failures(vz) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise OSError(f"the Doom engine ended early ({reason})") from error
        finally:
            game.close()


def failures(vz: Any) -> tuple[type[Exception], ...]:
    """The errors of an engine that cannot start, or was killed."""
    names = "ViZDoomError", "ViZDoomUnexpectedExit", "ViZDoomIsNotRunning", "MessageQueue"
    return tuple(getattr(vz, f"{name}Exception") for name in (*names, "SharedMemory"))


def configure(game: Any, vz: Any, size: int) -> None:
    """Only the world is drawn, at twice the size or more, if possible at a multiple of it."""
    enough = (height for height in HEIGHTS if height >= 2 * size)
    height = min(enough, key=lambda height: (height % size > 0, height))
    game.set_screen_resolution(getattr(vz.ScreenResolution, f"RES_{height * 4 // 3}X{height}"))
    game.set_screen_format(vz.ScreenFormat.RGB24)
    for name in HIDDEN:
        getattr(game, f"set_render_{name}")(False)
    game.add_game_args("+movebob 0")  # the eye stays at one height
    game.set_window_visible(False)
    game.set_available_buttons([vz.Button.MOVE_FORWARD, vz.Button.TURN_LEFT_RIGHT_DELTA])
    places = vz.GameVariable.POSITION_X, vz.GameVariable.POSITION_Y, vz.GameVariable.ANGLE
    game.set_available_game_variables(list(places))
    game.set_mode(vz.Mode.PLAYER)
    game.set_seed(0)
    game.set_episode_timeout(0)


def wad(maze: Maze, start: tuple[int, int], random: np.random.Generator) -> bytes:
    """A maze as a file of Doom: lumps, then their directory."""
    texts = {"DECORATE": PLAYER, "MAPINFO": GAME, "MAP01": ""}
    texts |= {"TEXTMAP": udmf(maze, start, random), "ENDMAP": ""}
    content, directory = b"", b""
    for name, text in texts.items():
        directory += struct.pack("<ii8s", 12 + len(content), len(text), name.encode())
        content += text.encode()
    return struct.pack("<4sii", b"PWAD", len(texts), 12 + len(content)) + content + directory


def udmf(maze: Maze, start: tuple[int, int], random: np.random.Generator) -> str:
    """The map in the Universal Doom Map Format.

    A wall is one texture as seen from one cell; the ends of all walls are alike.
    """
    walls = random.choice(WALLS.split(), PALETTE + 1, replace=False)
    floor, ceiling = random.choice(FLOORS.split(), 2, replace=False)
    vertices: dict[tuple[float, float], int] = {}
    lines: list[str] = []
    sides: list[str] = []
    for a, b in wall_lines(maze):
        ends = [vertices.setdefault(point, len(vertices)) for point in (a, b)]
        is_end = abs(a[0] - b[0]) + abs(a[1] - b[1]) <= WALL
        texture = walls[PALETTE if is_end else random.integers(PALETTE)]
        line = {"v1": ends[0], "v2": ends[1], "sidefront": len(sides), "blocking": "true"}
        lines.append(block("linedef", **line))
        sides.append(block("sidedef", sector=0, texturemiddle=f'"{texture}"'))
    x, y = ((place + 0.5) * UNIT for place in start)
    ahead = maze.around(start)[0]
    angle = round(degrees(atan2(ahead[1] - start[1], ahead[0] - start[0]))) % 360
    skills = {f"skill{number}": "true" for number in range(1, 6)}
    thing = block("thing", x=x, y=y, angle=angle, type=1, single="true", **skills)
    textures = {"texturefloor": f'"{floor}"', "textureceiling": f'"{ceiling}"'}
    sector = block("sector", heightfloor=0, heightceiling=HEIGHT, lightlevel=LIGHT, **textures)
    points = [block("vertex", x=x * UNIT, y=y * UNIT) for x, y in vertices]
    return "\n".join(['namespace = "zdoom";', thing, *points, *lines, *sides, sector])


def block(kind: str, **fields: Any) -> str:
    return f"{kind} {{ {' '.join(f'{name} = {value};' for name, value in fields.items())} }}"
