"""Roads, buildings, and the foreground objects: vehicles, people, animals, boats, street furniture."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from neuralef.datasets._scenes.nature import Ground
from neuralef.datasets._scenes.stage import BUILDING, OBJECT, Light, Stage, blob_tile, nearest, smoothstep, srgb, vary

Generator = np.random.Generator


def band(x: np.ndarray, low: float, high: float, pixel: np.ndarray | float) -> np.ndarray:
    """1 between ``low`` and ``high``, 0 outside, blurred over one ``pixel``."""
    return np.clip((x - low) / pixel + 0.5, 0, 1) * np.clip((high - x) / pixel + 0.5, 0, 1)


# --- roads -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """Centre line of a road or river: X as a function of Z, or Z as a function of X if it runs ``across`` the view."""

    offset: float
    heading: float = 0.0
    bend: float = 0.0
    across: bool = False

    def centre(self, forward: np.ndarray | float) -> np.ndarray | float:
        """Sideways position at a distance; far away the road runs straight on."""
        near = np.minimum(forward, 60)
        return self.offset + self.heading * forward + self.bend * near * (2 * forward - near) / 60

    def lateral(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance from the centre line."""
        if self.across:
            x, z = z, x
        return (x - self.centre(z)) / math.hypot(1, self.heading)

    def along(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance travelled, up to a constant."""
        return (x if self.across else z) * math.hypot(1, self.heading)

    def point(self, along: float, lateral: float) -> np.ndarray:
        """Ground position ``(X, Z)``."""
        scale = math.hypot(1, self.heading)
        forward = along / scale
        sideways = self.centre(forward) + lateral * scale
        return np.array([forward, sideways] if self.across else [sideways, forward])

    def direction(self, along: float) -> np.ndarray:
        """Unit vector of travel ``(X, Z)``."""
        ahead = self.point(along + 1, 0) - self.point(along, 0)
        return ahead / np.linalg.norm(ahead)


@dataclass(frozen=True)
class Road:
    """A carriageway with or without pavements; all of it is labelled road."""

    track: Track
    half_width: float
    pavement: float
    surface: str
    colour: np.ndarray
    pavement_colour: np.ndarray
    marking: np.ndarray
    dash: float
    edge_lines: bool
    offset: float

    @classmethod
    def draw(
        cls, rng: Generator, track: Track, half_width: float, pavement: float, surfaces: tuple[str, ...]
    ) -> "Road":
        """Draw surface, wear and markings."""
        tints = {
            "asphalt": [(96, 98, 102), (72, 74, 78), (124, 122, 120), (110, 104, 102)],
            "cobble": [(128, 120, 112), (104, 100, 98), (146, 134, 120)],
            "slab": [(168, 160, 148), (150, 148, 144), (182, 166, 146)],
            "earth": [(158, 132, 98), (136, 108, 80), (176, 156, 124), (148, 142, 132)],
        }
        surface = str(rng.choice(surfaces))
        paint = srgb(226, 180, 60) if rng.random() < 0.2 else srgb(226, 226, 220)
        return cls(
            track,
            half_width,
            pavement,
            surface,
            vary(rng, srgb(*rng.choice(tints[surface])), 0.16),
            vary(rng, srgb(*rng.choice(tints["slab" if rng.random() < 0.6 else "cobble"])), 0.12),
            paint,
            float(rng.choice([0, 3, 6])) if surface == "asphalt" else 0.0,
            bool(surface == "asphalt" and rng.random() < 0.6),
            float(rng.uniform(0, 512)),
        )

    @property
    def reach(self) -> float:
        """Distance of the outer edge from the centre line."""
        return self.half_width + self.pavement

    def cover(self, ground: Ground) -> np.ndarray:
        """Coverage 0..1 of every ground point."""
        aside = np.abs(self.track.lateral(ground.x, ground.z))
        if self.surface == "earth":
            aside = aside + 0.25 * ground.flat_noise(0.8, self.offset) + 0.2 * ground.flat_noise(3, self.offset)
        return np.clip((self.reach - aside) / self._pixel(ground) + 0.5, 0, 1)

    def _pixel(self, ground: Ground) -> np.ndarray:
        """Sideways extent of a pixel on the ground: a road across the view is foreshortened."""
        return (
            ground.pixel * ground.z / ground.eye if self.track.across else ground.pixel * (1 + abs(self.track.heading))
        )

    def albedo(self, ground: Ground) -> np.ndarray:
        """Surface, kerb and paint, shape ``(N, 3)``."""
        lateral, along = self.track.lateral(ground.x, ground.z), self.track.along(ground.x, ground.z)
        pixel = self._pixel(ground)
        wear = 0.1 * ground.patches(5, self.offset) + 0.12 * ground.flat_noise(0.12, self.offset)
        wear += 0.07 * ground.flat_noise(0.6, self.offset)
        albedo = self.colour * np.maximum(1 + wear, 0.3)[:, None]
        if self.surface in ("cobble", "slab"):
            albedo *= self._joints(lateral, along, ground.pixel)[:, None]
        if self.surface == "earth":
            ruts = band(np.abs(lateral), 0.45, 0.95, pixel + 0.15)
            albedo *= (0.88 + 0.2 * ruts)[:, None]
        else:
            worn = np.clip(0.85 + 0.25 * ground.patches(2, 55.0), 0.3, 1)
            painted = np.zeros_like(lateral)
            if self.dash:
                painted = band(lateral, -0.08, 0.08, pixel) * band(
                    along % (2.4 * self.dash), 0, self.dash, ground.pixel * 2
                )
            if self.edge_lines:
                inner = self.half_width - 0.35
                painted = np.maximum(painted, band(np.abs(lateral), inner - 0.07, inner + 0.07, pixel))
            albedo += (self.marking - albedo) * (painted * worn)[:, None]
        if self.pavement:
            aside = np.abs(lateral)
            walk = np.clip((aside - self.half_width) / pixel + 0.5, 0, 1)[:, None]
            paving = self.pavement_colour * (1 + 0.7 * wear)[:, None]
            paving = paving * self._joints(aside - self.half_width, along, ground.pixel)[:, None]
            albedo += (paving - albedo) * walk
            kerb = band(aside, self.half_width - 0.02, self.half_width + 0.22, pixel)
            gutter = band(aside, self.half_width - 0.2, self.half_width - 0.02, pixel)
            albedo *= (1 + 0.3 * kerb - 0.3 * gutter)[:, None]
        return albedo

    def _joints(self, lateral: np.ndarray, along: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        side = 0.35 if self.surface == "cobble" else 0.9
        sharp = np.clip(side / (6 * pixel), 0, 1)
        line = np.minimum(np.abs(lateral / side % 1 - 0.5), np.abs(along / side % 1 - 0.5))
        return 1 - 0.3 * sharp * (line < 0.05)


# --- buildings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facade:
    """What the walls of one building look like; lengths in metres, shares of a bay or storey for windows."""

    wall: np.ndarray
    trim: np.ndarray
    roof: np.ndarray
    storey: float
    bay: float
    window: tuple[float, float]
    brick: bool
    glazed: bool
    shop: bool
    awning: np.ndarray
    tint: float
    seed: int

    @classmethod
    def draw(cls, rng: Generator, *, glazed: float = 0.15, shop: float = 0.5) -> "Facade":
        """Plaster, brick, stone or, with probability ``glazed``, a curtain wall."""
        plaster = [(222, 208, 178), (232, 226, 214), (208, 160, 118), (196, 186, 170), (226, 190, 130), (176, 190, 196)]
        brick = [(150, 78, 60), (170, 104, 76), (126, 74, 62), (188, 146, 108)]
        other = [(160, 158, 154), (120, 126, 132), (214, 200, 180), (196, 122, 112), (140, 160, 146), (98, 90, 86)]
        roofs = [(150, 82, 60), (92, 86, 86), (122, 70, 58), (70, 74, 82), (168, 110, 80), (108, 96, 84)]
        bricked = bool(rng.random() < 0.3)
        glass = bool(rng.random() < glazed)
        family = brick if bricked else (plaster if rng.random() < 0.6 else other)
        return cls(
            vary(rng, srgb(*rng.choice(family)), 0.16),
            vary(rng, srgb(232, 228, 220) if rng.random() < 0.7 else srgb(90, 80, 74), 0.1),
            vary(rng, srgb(*rng.choice(roofs)), 0.16),
            float(rng.uniform(2.8, 4.0)),
            float(rng.uniform(1.3, 1.9) if glass else rng.uniform(1.9, 4.2)),
            (0.94, 0.9) if glass else (float(rng.uniform(0.34, 0.62)), float(rng.uniform(0.4, 0.66))),
            bricked and not glass,
            glass,
            bool(rng.random() < shop),
            vary(rng, srgb(*rng.choice([(170, 50, 46), (44, 92, 70), (50, 70, 120), (214, 190, 150), (60, 56, 54)]))),
            float(rng.uniform(0.5, 1.3)),
            int(rng.integers(256)),
        )

    def colour(
        self, light: Light, face: "Face", u: np.ndarray, v: np.ndarray, du: np.ndarray, dv: np.ndarray
    ) -> np.ndarray:
        """Lit wall with its windows.

        Args:
            light: Light on the wall.
            face: The wall; its normal and extent.
            u: Metres along the wall, shape ``(h, w)``.
            v: Metres above the ground, shape ``(h, w)``.
            du: Metres per pixel along ``u``, broadcastable.
            dv: Metres per pixel along ``v``, broadcastable.

        Returns:
            Lit colour of the wall, shape ``(h, w, 3)``.
        """
        irradiance = light.on(face.normal)
        floors = max(round(face.height / self.storey), 1)
        storey, bays = face.height / floors, max(round(face.width / self.bay), 1)
        bay = face.width / bays
        across, level = u / bay, v / storey
        cell_x, cell_y = np.floor(across), np.floor(level)
        fx, fy = np.abs(across - cell_x - 0.5), level - cell_y
        px, py = du / bay + 0.006, dv / storey + 0.006
        half, tall = self.window[0] / 2, self.window[1]
        sill = 0.5 - tall / 2 + 0.03
        top = sill + tall

        dirt = nearest(blob_tile(16), u * 12 + self.seed, v * 4 + 999) + 0.5 * nearest(
            blob_tile(4), u * 40 + 99, v * 40
        )
        shade = (1 + 0.05 * dirt) * (0.8 + 0.2 * np.clip(v / 4, 0, 1))
        if self.brick:
            course = np.abs(v / 0.3 % 1 - 0.5) > 0.4
            shade = shade * (1 - 0.22 * course * np.clip(0.15 / dv - 0.3, 0, 1))
        shade = shade * (1 - 0.18 * band(v, face.height - 0.75, face.height - 0.45, dv))
        colour = (self.wall * irradiance) * shade[..., None]

        frame = np.clip((half + 0.045 - fx) / px + 0.5, 0, 1) * band(fy, sill - 0.05, top + 0.035, py)
        colour += (self.trim * irradiance - colour) * (frame * (0.3 if self.glazed else 0.8))[..., None]
        ledge = band(v, face.height - 0.4, face.height + 1, dv)
        if not self.glazed:
            ledge = np.maximum(ledge, 0.5 * band(fy, 0.0, 0.06, py) * (level > 0.9))
        colour += (self.trim * irradiance * 1.05 - colour) * (ledge * 0.8)[..., None]

        glass = np.clip((half - fx) / px + 0.5, 0, 1) * band(fy, sill, top, py)
        mullion = np.clip((0.022 - fx) / px + 0.5, 0, 1) * (not self.glazed)
        colour += (self._glass(light, face, cell_x, cell_y, (fy - sill) / tall) - colour) * (
            glass * (1 - 0.7 * mullion)
        )[..., None]
        if self.shop and face.street:
            self._add_shops(colour, light, face, u, v, du, dv)
        return colour

    def _glass(self, light: Light, face: "Face", cell_x: np.ndarray, cell_y: np.ndarray, up: np.ndarray) -> np.ndarray:
        """Panes mirror the sky, each tilted a little; curtains and lamps behind some."""
        chance = ((cell_x * 73 + cell_y * 151 + self.seed * 37) % 97 * 61 % 97 / 97)[..., None]
        tower = np.clip(cell_y / 14 + 0.1, 0, 1)[..., None]
        sky = light.horizon + (light.zenith - light.horizon) * tower
        mirror = 0.06 + 0.34 * chance + (0.32 if self.glazed else 0.0)
        colour = sky * (mirror * self.tint * (0.75 if face.normal @ light.sun > 0 else 0.55))
        colour = colour * (1 - 0.5 * smoothstep(0.8, 1, up))[..., None]
        curtain = (chance > 0.8) & (not self.glazed)
        colour = np.where(curtain, self.trim * light.ambient * 0.5, colour)
        warm = srgb(255, 206, 130) * np.float32(0.55)
        return np.where(chance * 7 % 1 < light.lamps, warm, colour)

    def _add_shops(
        self,
        colour: np.ndarray,
        light: Light,
        face: "Face",
        u: np.ndarray,
        v: np.ndarray,
        du: np.ndarray,
        dv: np.ndarray,
    ) -> None:
        """Turn the ground floor into shop windows under an awning or sign, in place."""
        if not (v < 3.8).any():
            return
        irradiance = light.on(face.normal)
        pane = 3.4
        place = u / pane % 1
        inside = band(v, 0.45, 2.7, dv) * band(place, 0.06, 0.94, du / pane)
        ground_floor = band(v, -1, 3.5, dv)
        colour += (self.awning * 0.5 * irradiance - colour) * (ground_floor * 0.85)[..., None]
        bright = nearest(blob_tile(16), u * 9 + self.seed * 3, v * 9 + 77)
        display = light.ambient * (0.12 + 0.06 * bright)[..., None] + srgb(255, 214, 150) * (0.1 + light.lamps)
        colour += (display - colour) * inside[..., None]
        stripes = 1 - 0.5 * (np.floor(u / 0.5) % 2) * (self.seed % 2)
        sign = band(v, 2.8, 3.5, dv)[..., None]
        colour += ((self.awning * irradiance * 1.1) * stripes[..., None] - colour) * sign


@dataclass(frozen=True)
class Face:
    """A flat wall or roof: ``origin + u * along + v * up`` for 0 <= u <= width and 0 <= v <= height.

    Attributes:
        gable: Height of the triangle on top of the wall.
        taper: How much each side of a roof leans in over its height, metres.
        street: Whether shops may open here.
        roof: Whether this is a roof plane.
    """

    origin: np.ndarray
    along: np.ndarray
    up: np.ndarray
    width: float
    height: float
    gable: float = 0.0
    taper: float = 0.0
    street: bool = False
    roof: bool = False

    @cached_property
    def normal(self) -> np.ndarray:
        """Unit normal, outwards."""
        (ax, ay, az), (bx, by, bz) = self.along.tolist(), self.up.tolist()
        return np.array([az * by - ay * bz, ax * bz - az * bx, ay * bx - ax * by], np.float32)

    def outline(self) -> np.ndarray:
        """Corners, shape ``(4 or 5, 3)``."""
        u, v = self.along * self.width, self.up * self.height
        lean = self.along * self.taper
        corners = [self.origin, self.origin + u, self.origin + u + v - lean, self.origin + v + lean]
        if self.gable:
            corners.insert(3, self.origin + u / 2 + v + self.up * self.gable)
        return np.array(corners)

    def paint(self, stage: Stage, facade: Facade) -> None:
        """Cast a ray through every pixel of the outline's window; the outside must face the camera."""
        camera = stage.camera
        outline = self.outline()
        eye = np.array([0.0, camera.eye, 0.0])
        window = camera.window(outline)
        if window is None:
            return
        rays = np.linalg.inv(np.stack([self.along, self.up, self.origin - eye], axis=1)).astype(np.float32)
        x, y = camera.x_slope[:, window[1]], camera.y_slope[window[0]]
        a, b, near = (row[0] * x - row[1] * y + row[2] for row in rays)
        ahead = near > 2e-4
        near = np.maximum(near, 2e-4)
        depth = 1 / near
        u, v = a * depth, b * depth
        du = np.abs(rays[0, 0] - u * rays[2, 0]) + np.abs(rays[0, 1] - u * rays[2, 1])
        dv = np.abs(rays[1, 1] - v * rays[2, 1]) + np.abs(rays[1, 0] - v * rays[2, 0])
        du, dv = du * depth / camera.focal + 1e-4, dv * depth / camera.focal + 1e-4

        top = self.height + self.gable * (1 - np.abs(2 * u / self.width - 1)) if self.gable else self.height
        lean = self.taper * v / self.height if self.taper else 0.0
        alpha = ahead * np.clip((u - lean) / du + 1, 0, 1) * np.clip((self.width - lean - u) / du + 1, 0, 1)
        alpha *= np.clip(v / dv + 1, 0, 1) * np.clip((top - v) / dv + 0.5, 0, 1)
        colour = (
            self._tiles(stage.light, facade, u, v, dv) if self.roof else facade.colour(stage.light, self, u, v, du, dv)
        )
        stage.paint(window, stage.light.fade(colour, depth[..., None]), alpha, BUILDING)

    def _tiles(self, light: Light, facade: Facade, u: np.ndarray, v: np.ndarray, dv: np.ndarray) -> np.ndarray:
        rows = np.clip(0.2 / dv - 0.3, 0, 1) * (np.abs(v / 0.4 % 1 - 0.5) > 0.38)
        grain = nearest(blob_tile(4), u * 14 + facade.seed, v * 14 + 99) + nearest(
            blob_tile(16), u * 8 + 9, v * 8 + 999
        )
        return (facade.roof * light.on(self.normal)) * (1 - 0.3 * rows + 0.08 * grain)[..., None]


@dataclass(frozen=True)
class Building:
    """A box, flat-roofed or with a pitched roof, one corner at ``corner`` on the ground.

    Attributes:
        corner: Ground position ``(X, Z)`` of one corner in metres.
        axis: Unit vector ``(X, Z)`` along the street side.
        inward: Unit vector away from the street, at right angles.
        width: Width along ``axis`` in metres.
        length: Length along ``inward`` in metres.
        height: Height of the walls in metres.
        pitch: Height of the roof over the walls; 0 for a flat one.
        facade: Look of the walls.
    """

    corner: np.ndarray
    axis: np.ndarray
    inward: np.ndarray
    width: float
    length: float
    height: float
    pitch: float
    facade: Facade

    @property
    def depth(self) -> float:
        """Distance of the middle of the ground it stands on, by which things are sorted."""
        middle = self.corner + self.axis * self.width / 2 + self.inward * self.length / 2
        return float(np.hypot(*middle))

    def _base(self) -> np.ndarray:
        u, v = self.axis * self.width, self.inward * self.length
        return np.array([self.corner, self.corner + u, self.corner + u + v, self.corner + v])

    def shadows(self, light: Light) -> list[np.ndarray]:
        """The ground behind each wall."""
        base, shift = self._base(), light.shadow_of(self.height + self.pitch / 2)
        sides = zip(base, np.roll(base, -1, axis=0), strict=True)
        return [np.array([a, b, b + shift, a + shift]) for a, b in sides] + [base + shift]

    def faces(self) -> list[Face]:
        """Walls and roof planes, whichever way they look."""
        base = self._base()
        upright = np.array([0.0, 1.0, 0.0])
        clockwise = np.cross(np.append(self.axis, 0), np.append(self.inward, 0))[2] < 0
        corners = base[::-1] if clockwise else base
        walls = []
        for here, there in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            span = there - here
            width = float(np.linalg.norm(span))
            along = np.array([span[0], 0, span[1]]) / width
            is_gable = abs(span @ self.inward) > abs(span @ self.axis)
            street = bool(abs(((here + there) / 2 - self.corner) @ self.inward) < 0.1)
            gable = self.pitch if is_gable else 0.0
            origin = np.array([here[0], 0, here[1]])
            walls.append(Face(origin, along, upright, width, self.height, gable, street=street))
        return walls + (self._roof() if self.pitch else [])

    def _roof(self) -> list[Face]:
        """Two planes that meet over the middle, overhanging a little."""
        half, over = self.length / 2, 0.4
        slope = math.hypot(half, self.pitch)
        planes = []
        for corner, direction, inward in (
            (self.corner, self.axis, self.inward),
            (self.corner + self.axis * self.width + self.inward * self.length, -self.axis, -self.inward),
        ):
            up = np.array([inward[0] * half, self.pitch, inward[1] * half]) / slope
            along = np.array([direction[0], 0, direction[1]])
            start = np.array([corner[0], self.height, corner[1]]) - along * over - up * over
            width = self.width + 2 * over
            if np.cross(along, up)[1] > 0:
                start, along = start + along * width, -along
            planes.append(Face(start, along, up, width, slope + over, roof=True))
        return planes

    def paint(self, stage: Stage) -> None:
        """Walls that face the camera, then the roof, far planes first."""
        eye = np.array([0.0, stage.camera.eye, 0.0])
        faces = [face for face in self.faces() if (face.origin - eye) @ face.normal < 0]
        faces.sort(key=lambda face: (face.roof, -float(np.linalg.norm(face.outline().mean(axis=0)))))
        for face in faces:
            face.paint(stage, self.facade)


# --- foreground objects ----------------------------------------------------------------------------------------------

Part = tuple[np.ndarray, np.ndarray]
"""An outline ``(N, 2)`` in metres, right and up from the foot of a flat figure, and its colour."""


def ellipse(x: float, y: float, half_width: float, half_height: float, turn: float = 0.0) -> np.ndarray:
    """Outline of an ellipse, shape ``(14, 2)``."""
    angle = np.linspace(0, 2 * np.pi, 15)[:-1]
    a, b = half_width * np.cos(angle), half_height * np.sin(angle)
    return np.stack([x + a * np.cos(turn) - b * np.sin(turn), y + a * np.sin(turn) + b * np.cos(turn)], axis=1)


def limb(x0: float, y0: float, x1: float, y1: float, w0: float, w1: float) -> np.ndarray:
    """A tapered bar from one point to another, shape ``(4, 2)``."""
    along = np.array([x1 - x0, y1 - y0])
    side = np.array([-along[1], along[0]]) / (np.linalg.norm(along) + 1e-9) / 2
    return np.array([(x0, y0) + side * w0, (x0, y0) - side * w0, (x1, y1) - side * w1, (x1, y1) + side * w1])


@dataclass(frozen=True)
class Figure:
    """A flat cut-out that faces the camera, its foot at ``(x, base, z)``.

    Attributes:
        parts: Outlines and their colours, painted first to last.
        base: Height of the foot above the ground.
        floats: Whether it stands on water and is mirrored in it.
    """

    x: float
    z: float
    parts: list[Part] = field(repr=False)
    base: float = 0.0
    floats: bool = False

    @property
    def depth(self) -> float:
        """Distance by which things are sorted."""
        return self.z

    def shadows(self, light: Light) -> list[np.ndarray]:
        """Every part laid on the ground."""
        if self.floats or self.base > 0:
            return []
        per_metre = light.shadow_of(1.0)
        # Turned to face the sun: a cut-out seen edge-on by it would throw a line.
        across = np.array([-per_metre[1], per_metre[0]]) / (np.linalg.norm(per_metre) + 1e-9)
        foot = np.array([self.x, self.z])
        return [foot + part[:, :1] * across + part[:, 1:] * per_metre for part, _ in self.parts]

    def paint(self, stage: Stage) -> None:
        """Paint the parts, lit from the sun's side."""
        light = stage.light
        half = max(np.abs(np.concatenate([part for part, _ in self.parts])[:, 0]).max(), 1e-3)
        outlines, colours = [], []
        for part, albedo in self.parts:
            lean = float(np.clip(part[:, 0].mean() / half, -0.9, 0.9)) * 0.8
            normal = np.array([lean, 0.25, -np.sqrt(max(1 - lean * lean - 0.0625, 0))])
            colours.append(light.fade(albedo * light.on(normal), self.z))
            points = np.empty((len(part), 3))
            points[:, 0], points[:, 1], points[:, 2] = self.x + part[:, 0], self.base + part[:, 1], self.z
            outlines.append(points)
        if self.floats:
            mirrored = [outline * (1, -0.8, 1) for outline in outlines]
            stage.paint_polygons(mirrored, [colour * 0.7 for colour in colours], None, opacity=0.5)
        stage.paint_polygons(outlines, colours, OBJECT)


CLOTHES = ((44, 54, 84), (180, 44, 44), (230, 226, 218), (40, 40, 44), (90, 120, 170), (216, 170, 60), (70, 110, 80))


def person(rng: Generator, x: float, z: float) -> Figure:
    """Somebody walking or standing."""
    skin = vary(rng, srgb(*rng.choice([(226, 180, 150), (198, 144, 108), (120, 80, 58), (240, 200, 176)])), 0.1)
    top, trousers = (vary(rng, srgb(*rng.choice(CLOTHES)), 0.25) for _ in range(2))
    hair = vary(rng, srgb(*rng.choice([(40, 30, 26), (90, 62, 40), (170, 136, 84), (120, 118, 116)])), 0.15)
    size, stride, swing = rng.uniform(0.85, 1.08), rng.uniform(-0.28, 0.28), rng.uniform(-0.2, 0.2)
    shoes = srgb(38, 34, 34)
    if rng.random() < 0.3:
        lower = [(np.array([(-0.15, 0.95), (0.15, 0.95), (0.27, 0.45), (-0.27, 0.45)]), trousers)]
        legs = skin
    else:
        lower, legs = [], trousers
    parts = [
        (limb(0.07, 0.92, 0.07 + stride, 0.06, 0.17, 0.11), legs * 0.85),
        (limb(-0.07, 0.92, -0.07 - stride, 0.06, 0.17, 0.11), legs),
        (ellipse(0.1 + stride, 0.045, 0.11, 0.05), shoes),
        (ellipse(-0.04 - stride, 0.045, 0.11, 0.05), shoes),
        *lower,
        (limb(0.19, 1.4, 0.27 - swing, 0.86, 0.12, 0.08), top * 0.85),
        (np.array([(-0.16, 0.86), (0.16, 0.86), (0.22, 1.42), (0.1, 1.5), (-0.1, 1.5), (-0.22, 1.42)]), top),
        (limb(-0.2, 1.4, -0.26 + swing, 0.86, 0.12, 0.08), top * 0.95),
        (ellipse(-0.26 + swing, 0.82, 0.045, 0.06), skin),
        (ellipse(0.27 - swing, 0.82, 0.045, 0.06), skin),
        (limb(0, 1.46, 0, 1.56, 0.1, 0.1), skin * 0.8),
        (ellipse(0, 1.64, 0.1, 0.13), skin),
        (ellipse(0.0, 1.7, 0.115, 0.1), hair),
    ]
    return Figure(x, z, [(part * size, colour) for part, colour in parts])


def animal(rng: Generator, x: float, z: float, kind: str) -> Figure:
    """A cow, sheep or horse, grazing or looking up."""
    flip = rng.choice([-1, 1])
    coats = {
        "cow": [(110, 66, 42), (60, 50, 46), (206, 190, 166), (150, 98, 62)],
        "sheep": [(222, 214, 196), (200, 190, 172)],
        "horse": [(104, 62, 40), (60, 44, 36), (172, 140, 104)],
    }
    coat = vary(rng, srgb(*rng.choice(coats[kind])), 0.15)
    grazes = rng.random() < 0.6
    if kind == "sheep":
        face = srgb(50, 44, 40) if rng.random() < 0.5 else coat * 0.8
        fleece = [
            (ellipse(a, 0.62 + b, 0.26, 0.22), coat * c)
            for a, b, c in [
                (-0.3, -0.04, 0.8),
                (0.25, -0.05, 0.85),
                (0, -0.08, 0.75),
                (-0.2, 0.1, 1),
                (0.2, 0.1, 1.05),
                (0, 0.13, 1.1),
            ]
        ]
        legs = [(limb(a, 0.5, a, 0, 0.08, 0.06), face) for a in (-0.32, -0.22, 0.24, 0.34)]
        head = (ellipse(0.58, 0.35 if grazes else 0.78, 0.17, 0.1, -0.9 if grazes else -0.3), face)
        parts = [*legs, *fleece, head]
    else:
        tall, thick = (1.0, 0.36) if kind == "cow" else (1.18, 0.3)
        patch = srgb(232, 226, 216) if kind == "cow" and rng.random() < 0.6 else coat
        head_at = (1.35, 0.32) if grazes else (1.3, tall + 0.42)
        parts = [
            *(
                (limb(a, tall - 0.2, a + 0.04, 0, 0.17, 0.1), coat * b)
                for a, b in [(-0.62, 0.6), (0.55, 0.6), (-0.75, 0.9), (0.68, 0.9)]
            ),
            (limb(-0.86, tall + 0.15, -1.0, 0.45, 0.08, 0.05), coat * 0.7),
            (limb(0.7, tall, head_at[0] - 0.1, head_at[1], 0.5, 0.22), coat),
            (ellipse(0, tall, 0.92, thick), coat),
            (limb(-0.85, tall + 0.12, 0.8, tall + 0.16, 0.3, 0.42), coat * 1.05),
            (ellipse(-0.35, tall + 0.08, 0.28, 0.2), patch),
            (ellipse(0.35, tall - 0.04, 0.2, 0.22), patch),
            (ellipse(*head_at, 0.27, 0.13, -0.9 if grazes else -0.5), coat * 0.9),
            (limb(head_at[0] - 0.16, head_at[1] + 0.12, head_at[0] - 0.22, head_at[1] + 0.28, 0.09, 0.02), coat * 0.7),
        ]
    return Figure(x, z, [(part * (flip, 1), colour) for part, colour in parts])


def sign(rng: Generator, x: float, z: float) -> Figure:
    """A traffic sign."""
    red, white, blue = srgb(190, 30, 34), srgb(236, 236, 232), srgb(34, 80, 160)
    rim, face = ((red, white), (blue, blue * 1.1), (red, red))[rng.integers(3)]
    shape = np.array([(-0.4, 2.1), (0.4, 2.1), (0, 2.8)]) if rng.random() < 0.4 else ellipse(0, 2.4, 0.36, 0.36)
    inner = (shape - shape.mean(axis=0)) * 0.72 + shape.mean(axis=0)
    return Figure(x, z, [(limb(0, 0, 0, 2.6, 0.08, 0.08), srgb(120, 122, 124)), (shape, rim), (inner, face)])


def lamp_post(rng: Generator, x: float, z: float) -> Figure:
    """A street lamp."""
    metal = vary(rng, srgb(90, 94, 96), 0.3)
    height, arm = rng.uniform(4.5, 7.5), rng.choice([-1.2, 0, 1.2])
    parts = [(limb(0, 0, 0, height, 0.2, 0.11), metal), (limb(0, 0, 0, 0.8, 0.32, 0.26), metal * 0.8)]
    if arm:
        parts.append((limb(0, height - 0.05, arm, height + 0.15, 0.1, 0.08), metal))
    parts.append((ellipse(arm, height + 0.15, 0.36 if arm else 0.22, 0.12 if arm else 0.26), srgb(236, 226, 196)))
    return Figure(x, z, parts)


def boat(rng: Generator, x: float, z: float) -> Figure:
    """A sailing, motor or rowing boat."""
    hull = vary(
        rng, srgb(*rng.choice([(236, 234, 230), (40, 60, 110), (170, 44, 40), (120, 84, 56), (240, 240, 240)])), 0.1
    )
    flip, kind = rng.choice([-1, 1]), rng.choice(["sail", "motor", "row"], p=[0.5, 0.3, 0.2])
    length = {"sail": rng.uniform(6, 10), "motor": rng.uniform(6, 12), "row": rng.uniform(3.2, 4.2)}[kind]
    depth = length * 0.11
    outline = np.array([(-0.46, 0), (0.38, 0), (0.55, 1.0), (-0.5, 0.85)]) * (length, depth)
    trim = np.array([(-0.495, 0.72), (0.5, 0.82), (0.55, 1.0), (-0.5, 0.88)]) * (length, depth)
    parts = [(outline, hull), (trim, srgb(150, 110, 76))]
    if kind == "sail":
        cloth = srgb(*rng.choice([(244, 242, 236), (236, 228, 210), (196, 60, 50), (70, 100, 160)]))
        mast = length * rng.uniform(1.1, 1.4)
        main = np.array([(0.0, 0.12 * mast), (-0.42 * length, 0.14 * mast), (0.02, 0.97 * mast)])
        jib = np.array([(0.06, 0.95 * mast), (0.5 * length, 0.1 * mast), (0.08, 0.16 * mast)])
        parts += [(limb(0.03, depth, 0.03, mast, 0.16, 0.08), srgb(120, 110, 100)), (main, cloth), (jib, cloth * 0.85)]
    elif kind == "motor":
        cabin = np.array([(-0.3, 0.85), (0.18, 0.95), (0.06, 2.1), (-0.28, 2.1)]) * (length, depth)
        glass = np.array([(-0.26, 1.35), (0.09, 1.4), (0.04, 1.9), (-0.25, 1.9)]) * (length, depth)
        parts += [(cabin, srgb(238, 236, 232)), (glass, srgb(40, 54, 66))]
    else:
        sitter = vary(rng, srgb(*rng.choice(CLOTHES)), 0.2)
        parts += [
            (limb(0, depth, 0.08, depth + 0.55, 0.4, 0.3), sitter),
            (ellipse(0.1, depth + 0.7, 0.11, 0.14), srgb(214, 168, 140)),
        ]
    return Figure(x, z, [(part * (flip, 1), colour) for part, colour in parts], floats=True)


def balloon(rng: Generator, x: float, z: float, base: float) -> Figure:
    """A hot-air balloon high above."""
    first, second = (vary(rng, srgb(*rng.choice([*CLOTHES, (240, 140, 40), (60, 150, 170)])), 0.1) for _ in range(2))
    parts: list[Part] = [
        (limb(-1.4, 2, -5, 12, 0.12, 0.12), srgb(70, 60, 50)),
        (limb(1.4, 2, 5, 12, 0.12, 0.12), srgb(70, 60, 50)),
    ]
    for number, half in enumerate(9 * np.sin(np.linspace(np.pi / 2, 0.2, 6))):
        gore = ellipse(0, 19, half, 10)
        gore[:, 0] *= np.clip((gore[:, 1] - 4) / 12, 0.25, 1)
        parts.append((gore, first if number % 2 else second))
    parts.append((np.array([(-1.5, 0), (1.5, 0), (1.6, 2), (-1.6, 2)]), srgb(120, 84, 50)))
    return Figure(x, z, parts, base=base)


PROFILES: dict[str, tuple[float, float, list[tuple[float, float]], str, list[list[tuple[float, float]]]]] = {
    "sedan": (
        1.78,
        0.9,
        [(0, 0.3), (0, 0.86), (0.85, 0.96), (1.45, 1.42), (2.7, 1.45), (3.5, 0.99), (4.3, 0.8), (4.4, 0.3)],
        "bbgbgbb",
        [
            [(0.98, 0.98), (1.52, 1.37), (2.08, 1.39), (2.08, 0.98)],
            [(2.16, 0.98), (2.16, 1.39), (2.66, 1.39), (3.34, 0.99)],
        ],
    ),
    "hatch": (
        1.72,
        0.92,
        [(0, 0.3), (0.02, 0.95), (0.4, 1.48), (2.2, 1.52), (3.05, 1.03), (3.8, 0.82), (3.9, 0.3)],
        "bgbgbb",
        [[(0.3, 1.0), (0.55, 1.43), (1.5, 1.45), (1.5, 1.0)], [(1.58, 1.0), (1.58, 1.45), (2.16, 1.46), (2.88, 1.04)]],
    ),
    "van": (
        1.95,
        1.2,
        [(0, 0.35), (0.02, 2.1), (3.6, 2.15), (4.35, 1.3), (5.0, 1.1), (5.1, 0.35)],
        "bbgbb",
        [[(2.95, 1.3), (2.95, 1.95), (3.55, 1.95), (4.1, 1.32)]],
    ),
    "bus": (
        2.5,
        1.3,
        [(0, 0.4), (0, 3.0), (10.8, 3.05), (11.0, 1.2), (11.05, 0.4)],
        "bbgb",
        [
            [(0.3 + 1.75 * i, 1.3), (0.3 + 1.75 * i, 2.5), (1.95 + 1.75 * i, 2.5), (1.95 + 1.75 * i, 1.3)]
            for i in range(6)
        ],
    ),
}
"""Width, belt line, side outline rear to front, what each upper edge is (body or glass), and side windows."""


@dataclass(frozen=True)
class Vehicle:
    """A car, van or bus whose rear middle stands at ``(x, z)`` and which points along ``heading``, ``(X, Z)``."""

    x: float
    z: float
    heading: np.ndarray
    kind: str
    paint_colour: np.ndarray

    @classmethod
    def draw(cls, rng: Generator, position: np.ndarray, heading: np.ndarray) -> "Vehicle":
        """Draw kind and paint."""
        paints = [(200, 202, 204), (40, 42, 46), (236, 236, 234), (150, 30, 34), (40, 74, 130), (110, 114, 118)]
        paints += [(200, 160, 60), (60, 90, 70), (120, 40, 60), (70, 130, 160)]
        kind = str(rng.choice(["sedan", "hatch", "van", "bus"], p=[0.42, 0.36, 0.15, 0.07]))
        return cls(float(position[0]), float(position[1]), heading, kind, vary(rng, srgb(*rng.choice(paints)), 0.2))

    @property
    def depth(self) -> float:
        """Distance of its middle, by which things are sorted."""
        return float(self.z + self.heading[1] * PROFILES[self.kind][2][-1][0] / 2)

    def _place(self, length: np.ndarray, height: np.ndarray, side: np.ndarray) -> np.ndarray:
        """World points of vehicle coordinates: forward, up, to the right."""
        x = self.x + length * self.heading[0] + side * self.heading[1]
        z = self.z + length * self.heading[1] - side * self.heading[0]
        return np.stack(np.broadcast_arrays(x, height, z), axis=-1)

    def shadows(self, light: Light) -> list[np.ndarray]:
        """Below and beside the body."""
        width, _, outline, _, _ = PROFILES[self.kind]
        length, height = outline[-1][0], max(y for _, y in outline)
        base = self._place(np.array([0, length, length, 0]), np.zeros(4), np.array([-1, -1, 1, 1]) * width / 2)[
            :, [0, 2]
        ]
        shift = light.shadow_of(height * 0.8)
        sides = zip(base, np.roll(base, -1, axis=0), strict=True)
        return [base, base + shift] + [np.array([a, b, b + shift, a + shift]) for a, b in sides]

    def paint(self, stage: Stage) -> None:
        """Wheels and underside, panels seen from the camera, the visible side, its windows and lights."""
        light, eye = stage.light, np.array([0, stage.camera.eye, 0])
        width, belt, outline, kinds, windows = PROFILES[self.kind]
        profile = np.array(outline)
        half = width / 2 * (1 - 0.2 * np.clip(profile[:, 1] - belt, 0, 1))
        if self.kind in ("van", "bus"):
            half[:] = width / 2
        glass = (0.14 * light.horizon + 0.02).astype(np.float32)
        rubber = srgb(34, 34, 36) * light.ambient
        outlines, colours = [], []

        def add(points: np.ndarray, colour: np.ndarray) -> None:
            outlines.append(points)
            colours.append(light.fade(colour, max(self.depth, 0)))

        across = np.array([self.heading[1], 0, -self.heading[0]])
        side = 1.0 if (self._place(profile[:, 0].mean(), 0.5, width / 2) - eye) @ across < 0 else -1.0
        visible = (self._place(profile[:, 0].mean(), 0.5, side * width / 2) - eye) @ across * side < 0
        add(
            self._place(profile[[0, -1, -1, 0], 0], np.full(4, 0.32), np.array([-1, -1, 1, 1]) * half[0] * 0.98), rubber
        )
        wheels = (0.78, profile[-1, 0] - 0.85)
        for at in wheels:
            for other in (-side, side):
                tyre = ellipse(at, 0.33, 0.33, 0.33)
                add(self._place(tyre[:, 0], tyre[:, 1], other * half[0] * 0.9), rubber)

        panels = []
        for number, kind in enumerate(kinds):
            (l0, y0), (l1, y1) = profile[number], profile[number + 1]
            sides = np.array([half[number], half[number + 1], -half[number + 1], -half[number]])
            quad = self._place(np.array([l0, l1, l1, l0]), np.array([y0, y1, y1, y0]), sides)
            run = np.array([y0 - y1, l1 - l0]) / np.hypot(l1 - l0, y1 - y0)
            normal = np.array([run[0] * self.heading[0], run[1], run[0] * self.heading[1]])
            if (quad.mean(axis=0) - eye) @ normal < 0:
                sheen = light.zenith * 0.12 * max(normal[1], 0)
                colour = self.paint_colour * light.on(normal) + sheen
                panels.append((-float(quad[:, 2].mean()), quad, colour * 0.5 + glass if kind == "g" else colour))
        for _, quad, colour in sorted(panels, key=lambda panel: panel[0]):
            add(quad, colour)
        glazing = [number for number, kind in enumerate(kinds) if kind == "g"]
        for number in glazing:
            self._add_glass(add, profile, half, number, glass + 0.12 * light.zenith, eye)
        if visible:
            normal = across * side
            body = self.paint_colour * light.on(normal)
            add(self._place(profile[:, 0], profile[:, 1], side * half), body)
            sill = np.array([(profile[0, 0], 0.3), (profile[-1, 0], 0.3), (profile[-1, 0] - 0.05, 0.42), (0.0, 0.42)])
            add(self._place(sill[:, 0], sill[:, 1], side * half[0]), body * 0.4)
            for pane in windows:
                shape = np.array(pane)
                inset = (
                    width / 2 * (1 - 0.2 * np.clip(shape[:, 1] - belt, 0, 1)) if half.min() < half.max() else half[0]
                )
                add(self._place(shape[:, 0], shape[:, 1], side * inset * 1.002), glass + 0.05 * light.zenith)
            for at in wheels:
                for radius, colour in (
                    (0.38, rubber * 0.5),
                    (0.32, rubber),
                    (0.19, srgb(170, 172, 176) * light.on(normal)),
                ):
                    disc = ellipse(at, 0.33, radius, radius)
                    add(self._place(disc[:, 0], np.maximum(disc[:, 1], 0), side * half[0] * 1.01), colour)
        self._add_lights(add, profile, half, eye)
        stage.paint_polygons(outlines, colours, OBJECT)

    def _add_glass(
        self, add: Callable, profile: np.ndarray, half: np.ndarray, number: int, colour: np.ndarray, eye: np.ndarray
    ) -> None:
        """A window pane inset in a front or rear panel."""
        (l0, y0), (l1, y1) = profile[number], profile[number + 1]
        t = np.array([0.1, 0.92, 0.92, 0.1])
        sides = np.interp(t, [0, 1], [half[number], half[number + 1]]) * np.array([1, 1, -1, -1]) * 0.88
        pane = self._place(l0 + t * (l1 - l0), y0 + t * (y1 - y0), sides)
        run = np.array([y0 - y1, l1 - l0])
        normal = np.array([run[0] * self.heading[0], run[1], run[0] * self.heading[1]])
        if (pane.mean(axis=0) - eye) @ normal < 0:
            add(pane, colour)

    def _add_lights(self, add: Callable, profile: np.ndarray, half: np.ndarray, eye: np.ndarray) -> None:
        """Rear or front lamps, bumper and number plate, whichever end is seen."""
        rear = (self._place(0.0, 0.6, 0.0) - eye) @ np.array([self.heading[0], 0, self.heading[1]]) > 0
        at = -0.01 if rear else profile[-1, 0] + 0.01
        lamp = srgb(190, 24, 22) if rear else srgb(250, 246, 230)
        edge = half[0]
        boxes = [((-edge, -edge + 0.34), (0.62, 0.8), lamp), ((edge - 0.34, edge), (0.62, 0.8), lamp)]
        boxes += [((-edge, edge), (0.3, 0.44), srgb(50, 50, 54)), ((-0.26, 0.26), (0.48, 0.6), srgb(220, 218, 200))]
        for (s0, s1), (y0, y1), colour in boxes:
            add(self._place(np.full(4, at), np.array([y0, y1, y1, y0]), np.array([s0, s0, s1, s1])), colour * 0.8)
