"""Skies, mountains and hills, grass, water and trees."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from neuralef.datasets._scenes.stage import (
    GRASS,
    MOUNTAIN,
    SKY,
    TILE,
    TREE,
    WATER,
    Camera,
    Light,
    Stage,
    Window,
    blob_tile,
    fractal_tile,
    nearest,
    sample,
    smoothstep,
    srgb,
    vary,
)

Generator = np.random.Generator


def puffs(
    size: int, centres: np.ndarray, radii: np.ndarray, *, squash: float = 1.0, wrap: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Pile up overlapping leaf balls, as seen from the front.

    Args:
        size: Side of the square tile in texels.
        centres: ``(column, row, nearness)`` of every ball in texels, shape ``(N, 3)``.
        radii: Radius of every ball in texels, shape ``(N,)``.
        squash: Height of a ball over its width.
        wrap: Whether to continue over the border at the opposite side.

    Returns:
        Distance to the nearest outline (positive inside, texels), shape ``(size, size)``, and the unit normal
        (right, up, towards the viewer) of the front ball, shape ``(size, size, 3)``.
    """
    inside = np.full((size, size), -0.6 * float(np.max(radii)), np.float32)
    front = np.full((size, size), -np.inf, np.float32)
    normal = np.zeros((size, size, 3), np.float32)
    normal[..., 2] = 1
    for (column, row, nearness), radius in zip(centres, radii, strict=True):
        reach = 1.5 * radius
        rows = np.arange(int(row - reach), int(row + reach) + 1)
        columns = np.arange(int(column - reach), int(column + reach) + 1)
        if not wrap:
            rows, columns = rows[(rows >= 0) & (rows < size)], columns[(columns >= 0) & (columns < size)]
        right = ((columns - column) / radius).astype(np.float32)[None, :]
        up = ((row - rows) / (radius * squash)).astype(np.float32)[:, None]
        square = right * right + up * up
        spot = np.ix_(rows % size, columns % size)
        inside[spot] = np.maximum(inside[spot], radius * (1 - np.sqrt(square)))
        towards = np.sqrt(np.maximum(1 - square, 0))
        height = np.where(square < 1, nearness + radius * towards, -np.inf)
        wins = height > front[spot]
        front[spot] = np.where(wins, height, front[spot])
        facing = np.stack(np.broadcast_arrays(right, up, towards), axis=-1)
        normal[spot] = np.where(wins[..., None], facing, normal[spot])
    return inside, normal


def somewhere(rng: Generator) -> tuple[float, float]:
    """A random place on a noise tile; Python floats, because numpy ones would turn whole pictures into float64."""
    return float(rng.uniform(0, TILE)), float(rng.uniform(0, TILE))


# --- sky -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clouds:
    """One layer of clouds; ``kind`` decides its texture."""

    kind: str
    scale: float
    stretch: float
    softness: float
    offset: tuple[float, float]

    @classmethod
    def draw(cls, rng: Generator) -> "Clouds":
        """Draw a layer."""
        kind = str(rng.choice(["sheet", "heap", "wisp"], p=[0.35, 0.45, 0.2]))
        stretch = {"sheet": rng.uniform(1, 2), "heap": rng.uniform(1.2, 2.2), "wisp": rng.uniform(3, 7)}[kind]
        softness = {"sheet": 0.9, "heap": 0.4, "wisp": 2.2}[kind] * rng.uniform(0.7, 1.4)
        return cls(kind, float(rng.uniform(35, 140)), float(stretch), float(softness), somewhere(rng))

    def texel(self, x_slope: np.ndarray, rise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noise coordinates of a viewing direction; heaps face the viewer, the others lie on a plane overhead."""
        if self.kind == "heap":
            u, v = x_slope * 1.5, np.log(rise + 0.15) * -1.8
            return self.offset[0] + u * self.scale, self.offset[1] + v * self.scale * self.stretch / 1.6
        u, v = x_slope / (rise + 0.12), 1 / (rise + 0.12)
        return self.offset[0] + u * self.scale / 2, self.offset[1] + v * self.scale / 2 * self.stretch


def paint_sky(stage: Stage, clouds: list[Clouds]) -> None:
    """Gradient, sun and clouds above the horizon; haze below it."""
    camera, light = stage.camera, stage.light
    rows = slice(0, int(np.clip(np.ceil(camera.horizon) + 1, 1, camera.height)))
    rise = np.maximum(-camera.y_slope[rows], 0)
    x = camera.x_slope
    length = np.sqrt(1 + x * x + rise * rise)
    towards_sun = np.maximum((x * light.sun[0] + rise * light.sun[1] + light.sun[2]) / length, 0)

    height = 1 - np.exp(-3.2 * rise)
    colour = light.horizon + (light.zenith - light.horizon) * height[..., None]
    clear = 1 - 0.85 * light.cover
    glow = np.square(np.square(towards_sun))
    halo = 0.16 * glow * towards_sun + 0.5 * clear * np.square(np.square(np.square(np.square(glow))))
    halo += 25 * clear * (towards_sun > 0.9997)
    colour = colour + halo[..., None] * light.sunlight

    for layer in clouds:
        u, v = layer.texel(x, rise)
        noise = sample(fractal_tile(), u, v)
        lifted = nearest(fractal_tile(), u + 7 * light.sun[0] + TILE, v - 5 - 4 * light.sun[1] + 8 * TILE)
        threshold = 1.6 - 3.2 * light.cover
        density = smoothstep(threshold, threshold + layer.softness, noise)
        density *= 1 - 0.75 * np.exp(-9 * rise)
        relief = np.clip(0.6 + (0.55 - 0.4 * light.cover) * (noise - lifted), 0, 1.2)
        thickness = 1 - (0.45 - 0.25 * light.cover) * smoothstep(threshold, threshold + 3, noise)
        lit = (light.ambient * 1.05 + 0.36 * light.sunlight)[None, None] * (relief * thickness)[..., None]
        lit = lit + 0.5 * light.ambient + (0.5 * np.square(glow) * (1 - 0.7 * density))[..., None] * light.sunlight
        colour += (lit - colour) * density[..., None]

    stage.colour[rows] = colour
    stage.colour[rows.stop :] = light.haze
    stage.label[:] = SKY


# --- mountains and hills ---------------------------------------------------------------------------------------------

SLICES = 72


@dataclass(frozen=True)
class Terrain:
    """A relief seen from afar, between ``near`` and ``far`` metres.

    Attributes:
        rise: Height of the highest parts over their distance.
        wavelength: Distance between two summits in metres.
        ridged: 1 for sharp ridges, 0 for round hills.
        ground: Colours of low and of steep ground.
        cover_colour: Snow on mountains, leaves on hills.
        cover_from: Share of the full height above which snow lies; on hills, how much forest there is.
        labels: Class of the ground and of what covers it.
        offset: Place of this part in the endless relief.
    """

    near: float
    far: float
    rise: float
    wavelength: float
    ridged: bool
    ground: tuple[np.ndarray, np.ndarray]
    cover_colour: np.ndarray
    cover_from: float
    labels: tuple[int, int]
    offset: tuple[float, float]

    @classmethod
    def mountains(cls, rng: Generator, near: float, rise: float) -> "Terrain":
        """Rock with snow on top, bare, or overgrown."""
        rock = [(126, 118, 110), (108, 104, 108), (150, 116, 92), (104, 92, 80), (140, 134, 124), (86, 92, 100)]
        foot = [(92, 104, 62), (70, 88, 58), (126, 116, 78), (110, 100, 84), (150, 124, 92), (58, 74, 56)]
        snow = float(rng.choice([0.3, 0.5, 0.65, 2.0, 2.0])) + rng.normal(0, 0.06)
        return cls(
            near,
            near * rng.uniform(2.2, 3.5),
            rise,
            near * rng.uniform(0.8, 2.0),
            bool(rng.random() < 0.85),
            (vary(rng, srgb(*rng.choice(foot))), vary(rng, srgb(*rng.choice(rock)))),
            vary(rng, srgb(236, 240, 246), 0.05),
            snow,
            (MOUNTAIN, MOUNTAIN),
            somewhere(rng),
        )

    @classmethod
    def hills(cls, rng: Generator, near: float, rise: float) -> "Terrain":
        """Pastures and woods."""
        field = [(134, 150, 72), (108, 142, 62), (168, 156, 92), (152, 148, 80), (96, 128, 70)]
        return cls(
            near,
            near * rng.uniform(3, 6),
            rise,
            near * rng.uniform(0.7, 1.6),
            False,
            (vary(rng, srgb(*rng.choice(field))), vary(rng, srgb(*rng.choice(field)))),
            leaf_colour(rng, rare=0.0),
            float(rng.uniform(-1.2, 1.0)),
            (GRASS, TREE),
            somewhere(rng),
        )

    def height(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Relief without the envelope, about 0..1."""
        u = self.offset[0] + x * (10 / self.wavelength)
        v = self.offset[1] + z * (10 / self.wavelength)
        tile = blob_tile(10)
        if not self.ridged:
            return 0.45 + 0.2 * sample(tile, u, v) + 0.05 * sample(tile, 2.7 * u, 2.7 * v)
        total, weight, amplitude = 0.0, 1.0, 0.5
        for octave in range(5):
            crest = np.maximum(1 - np.abs(sample(tile, u, v)) * 0.75, 0)
            total = total + amplitude * weight * crest
            weight = np.minimum(0.35 + crest, 1)
            amplitude *= 0.42
            u, v = 1.93 * u + 37 * octave + 0.4 * v, 1.93 * v - 0.4 * u
        return total

    def paint(self, stage: Stage) -> None:
        """March outwards over the relief and keep, in every column, what rises above everything nearer."""
        camera, light = stage.camera, stage.light
        z = np.geomspace(self.near, self.far, SLICES, dtype=np.float32)[:, None]
        x = z * camera.x_slope
        envelope = smoothstep(self.near, self.near + 0.45 * (self.far - self.near), z)
        relief = self.height(x, z)
        wood = None
        heights = relief * envelope * self.rise * z
        if self.labels[1] == TREE:
            u, v = x * (40 / self.wavelength), z * (40 / self.wavelength)
            wood = sample(fractal_tile(), self.offset[1] + u, self.offset[0] + v) + self.cover_from
            heights = heights + smoothstep(0, 0.15, wood) * (7 + 2 * nearest(blob_tile(2), x / 3 + 999, z / 3))
        rows = camera.horizon - camera.focal * (heights - camera.eye) / z
        slice_of, between = _front_slices(rows, camera)
        visible = slice_of < SLICES
        top = int(np.argmax(visible.any(axis=1)))
        # The ground will cover everything below the horizon.
        bottom = int(np.clip(np.ceil(camera.horizon) + 1, top + 1, camera.height))
        window = (slice(top, bottom), slice(0, camera.width))
        slice_of, between, visible = slice_of[window], between[window], visible[window]
        here = np.minimum(slice_of, SLICES - 1) * camera.width + np.arange(camera.width)[None, :]
        before = np.maximum(here - camera.width, here % camera.width)

        def seen(field: np.ndarray) -> np.ndarray:
            flat = np.broadcast_to(field, x.shape).ravel()
            return flat[before] + between * (flat[here] - flat[before])

        slope_x = np.gradient(heights, axis=1) / np.gradient(x, axis=1)
        slope_z = np.gradient(heights, axis=0) / np.gradient(z, axis=0) - camera.x_slope * slope_x
        steepness = np.sqrt(1 + slope_x**2 + slope_z**2)
        lambert = np.maximum(light.sun[1] - slope_x * light.sun[0] - slope_z * light.sun[2], 0) / steepness
        depth, up = seen(z), seen(1 / steepness)
        grain = nearest(
            blob_tile(4), self.offset[0] + depth / self.near * 150, (here % camera.width) * 320 / camera.width
        )

        steep = smoothstep(0.0, 0.35, (1 - up) + 0.12 * grain - 0.12)[..., None]
        albedo = self.ground[0] + (self.ground[1] - self.ground[0]) * steep
        if wood is not None:
            covered = seen(wood) > 0.0
            albedo = np.where(covered[..., None], self.cover_colour * (1 + 0.22 * grain[..., None]), albedo)
            label = np.where(covered, self.labels[1], self.labels[0])
        else:
            altitude = seen(relief * envelope) + 0.05 * grain + 0.5 * (up - 0.8)
            snow = smoothstep(self.cover_from, self.cover_from + 0.07, altitude)[..., None]
            albedo = albedo + (self.cover_colour - albedo) * snow
            label = self.labels[0]
        sun = (seen(lambert) * (1 + 0.12 * grain))[..., None] * light.sunlight
        colour = albedo * (sun + light.ambient * (0.45 + 0.55 * up)[..., None] * (1 + 0.08 * grain)[..., None])
        stage.paint(window, light.fade(colour, depth[..., None]), visible.astype(np.float32), label)


def _front_slices(rows: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel the first slice that reaches it, ``SLICES`` where none does, and how far towards it, 0..1."""
    skyline = np.minimum.accumulate(rows, axis=0)
    reached = np.clip(np.ceil(skyline - 0.5), 0, camera.height).astype(np.int64)
    flat = reached * camera.width + np.arange(camera.width)[None, :]
    passed = np.bincount(flat.ravel(), minlength=(camera.height + 1) * camera.width)
    passed = passed.reshape(camera.height + 1, camera.width)[:-1].cumsum(axis=0)
    index = SLICES - passed
    column = np.arange(camera.width)[None, :]
    here = np.minimum(index, SLICES - 1)
    low, high = skyline[np.maximum(here - 1, 0), column], skyline[here, column]
    centre = np.arange(camera.height, dtype=np.float32)[:, None] + 0.5
    return index, np.clip((low - centre) / np.maximum(low - high, 1e-3), 0, 1).astype(np.float32)


# --- flat ground -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """Some pixels of the ground plane, flattened; every array has shape ``(N,)``."""

    x: np.ndarray
    z: np.ndarray
    log_z: np.ndarray
    pixel: np.ndarray
    eye: float

    @classmethod
    def seen_by(cls, camera: Camera) -> tuple[Window, "Ground"]:
        """The window below the horizon and its ground points in row order."""
        first = int(np.clip(np.ceil(camera.horizon), 0, camera.height - 1))
        slope = np.maximum(camera.y_slope[first:], camera.eye / 5000)
        z = camera.eye / slope
        x = z * camera.x_slope
        z = np.broadcast_to(z, x.shape).ravel()
        return (slice(first, camera.height), slice(0, camera.width)), cls(
            x.ravel(), z, np.log(z), z / camera.focal, camera.eye
        )

    def where(self, chosen: np.ndarray) -> "Ground":
        """The points that ``chosen``, shape ``(N,)`` bool, picks."""
        return Ground(self.x[chosen], self.z[chosen], self.log_z[chosen], self.pixel[chosen], self.eye)

    def flat_noise(self, wavelength: float, offset: float = 0.0) -> np.ndarray:
        """Marks lying on the ground; fades where a pixel covers more than a mark."""
        scale = 8 / wavelength
        foreshortened = self.pixel * np.sqrt(self.z / self.eye)
        fade = np.clip(wavelength / (1.5 * foreshortened) - 0.4, 0, 1)
        return fade * sample(blob_tile(8), self.x * scale + offset, self.z * scale + offset)

    def upright_noise(self, size: float, offset: float = 0.0) -> np.ndarray:
        """Tufts standing on the ground, as high as wide; fades where they are smaller than a pixel."""
        fade = np.clip(size / (1.5 * self.pixel) - 0.4, 0, 1)
        # Rows of cut-outs one behind the other, each at its own depth: along the ground, tufts would lean outwards.
        rank = self.log_z * 4
        first = np.floor(rank)
        mix = rank - first
        v = self.log_z * (self.eye * 5 / size) + offset
        near, far = (
            nearest(
                blob_tile(8),
                self.x / self.z * np.exp((first + step) / 4) * (8 / size) + 61 * (first + step) + offset + 8192,
                v,
            )
            for step in (0, 1)
        )
        return fade * ((1 - mix) * near + mix * far)

    def patches(self, wavelength: float, offset: float = 0.0) -> np.ndarray:
        """Cloud-like variation over ``wavelength`` metres and more."""
        scale = 60 / wavelength
        fade = np.clip(1.5 * wavelength / (self.pixel * np.sqrt(self.z / self.eye)) - 0.4, 0, 1)
        return fade * sample(fractal_tile(), self.x * scale + offset, self.z * scale + offset)


@dataclass(frozen=True)
class Meadow:
    """What grass looks like in one scene."""

    colours: tuple[np.ndarray, np.ndarray, np.ndarray]
    roughness: float
    bare: float
    flowers: np.ndarray | None
    stripes: float
    offset: float

    @classmethod
    def draw(cls, rng: Generator) -> "Meadow":
        """Lawn, pasture, dry or autumn grass."""
        greens = [(116, 152, 62), (92, 134, 58), (142, 160, 78), (78, 116, 62), (130, 140, 58)]
        dry = [(190, 172, 108), (172, 156, 92), (206, 186, 130), (150, 140, 84)]
        first = greens if rng.random() < 0.72 else dry
        second = greens if rng.random() < 0.7 else dry
        earth = [(128, 104, 76), (148, 126, 92), (104, 90, 66)]
        petals = [(244, 232, 90), (244, 244, 240), (206, 70, 60), (170, 120, 200), (250, 180, 60)]
        return cls(
            (
                vary(rng, srgb(*rng.choice(first)), 0.2),
                vary(rng, srgb(*rng.choice(second)), 0.2),
                vary(rng, srgb(*rng.choice(earth))),
            ),
            float(rng.uniform(0.12, 0.42)),
            float(rng.uniform(1.2, 3.5)),
            vary(rng, srgb(*rng.choice(petals)), 0.1) if rng.random() < 0.3 else None,
            float(rng.uniform(1.0, 2.5)) if rng.random() < 0.15 else 0.0,
            float(rng.uniform(0, TILE)),
        )

    def colour(self, ground: Ground) -> np.ndarray:
        """Albedo, shape ``(N, 3)``."""
        patch = ground.patches(14, self.offset)
        mix = np.clip(0.5 + 0.35 * patch + 0.2 * ground.flat_noise(1.2, self.offset), 0, 1)[:, None]
        albedo = self.colours[0] + (self.colours[1] - self.colours[0]) * mix
        bare = smoothstep(self.bare, self.bare + 0.8, patch + 0.5 * ground.flat_noise(0.5, 7.0))[:, None]
        albedo = albedo + (self.colours[2] - albedo) * bare
        blades = ground.upright_noise(0.06, self.offset) + ground.upright_noise(0.22, 31.0)
        blades = blades + 0.7 * ground.upright_noise(0.9, 77.0)
        albedo = albedo * np.maximum(1 + self.roughness * blades * 0.7, 0.25)[:, None]
        if self.stripes:
            albedo = albedo * (1 + 0.1 * np.sign(np.sin(ground.x * np.pi / self.stripes)))[:, None]
        if self.flowers is not None:
            speck = (
                ground.upright_noise(0.07, 191.0) + ground.upright_noise(0.25, 17.0) + 0.6 * ground.patches(9, 300.0)
            )
            albedo = np.where((speck > 2.2)[:, None], self.flowers, albedo)
        return albedo


@dataclass(frozen=True)
class Water:
    """Colour and motion of a water surface; ``swell`` is 0 for a mirror and 1 for a rough sea."""

    body: np.ndarray
    swell: float
    wavelength: float
    foam: float
    offset: float

    @classmethod
    def draw(cls, rng: Generator, *, sea: bool) -> "Water":
        """Still or rough; blue, green, brown or grey."""
        bodies = [(30, 66, 100), (24, 84, 98), (50, 80, 70), (88, 84, 66), (60, 76, 92), (36, 112, 124), (20, 46, 74)]
        swell = rng.uniform(0.35, 1) if sea else rng.uniform(0.03, 0.55)
        return cls(
            vary(rng, srgb(*rng.choice(bodies)), 0.25),
            float(swell),
            float(rng.uniform(2, 6) if sea else rng.uniform(0.5, 2)),
            float(rng.uniform(0.2, 1)) if sea else 0.0,
            float(rng.uniform(0, TILE)),
        )

    def paint(self, stage: Stage, surface: np.ndarray) -> None:
        """Mirror what stands above each column's shore, ruffle it and add the water's own colour.

        Args:
            stage: Stage on which everything behind the water is painted already.
            surface: Pixels of open water, shape ``(H, W)``, bool.
        """
        if not surface.any():
            return
        camera, light = stage.camera, stage.light
        shore = np.where(surface.any(axis=0), surface.argmax(axis=0), int(camera.horizon))
        row, column = np.nonzero(surface)
        x_slope = camera.x_slope[0, column]
        slope = np.maximum(camera.y_slope[row, 0], camera.eye / 3000)
        z = camera.eye / slope
        x = x_slope * z
        tilt = self._tilt(x, z, camera)

        depth_below = row - shore[column]
        pull = self.swell * (0.01 * camera.height + 0.22 * depth_below)
        source_row = 2 * shore[column] - 1 - row - (tilt + 1) * pull
        source_column = column + tilt * pull * 0.2
        mirrored = stage.colour[
            np.clip(source_row, 0, camera.height - 1).astype(np.int32),
            np.clip(source_column, 0, camera.width - 1).astype(np.int32),
        ]
        beyond = (source_row < 0)[:, None] * np.clip(-source_row / camera.height, 0, 1)[:, None]
        mirrored = mirrored + (light.zenith - mirrored) * beyond
        # A pixel of rough water mirrors a whole stretch of sky.
        mirrored = mirrored + (0.5 * (light.zenith + light.horizon) - mirrored) * (0.75 * self.swell)
        facing = np.clip(slope * (1 + 0.8 * self.swell * tilt) + 0.25 * self.swell * tilt, 0.01, 1.5)
        reflectance = (0.06 + 0.9 * np.exp(-3.4 * facing))[:, None]
        body = self.body * light.on((0, 1, 0)) * (1 + 0.25 * self.swell * tilt)[:, None]
        colour = body + (mirrored - body) * reflectance

        towards_sun = np.maximum(1 - np.abs(x_slope - light.sun[0] / max(light.sun[2], 0.05)) * 1.6, 0)
        if light.sun[2] > 0:
            glint = (
                (tilt > 1.5 - self.swell) * towards_sun**2 * (1 - light.cover) * np.clip(1 - light.sun[1], 0, 1) ** 2
            )
            colour = colour + glint[:, None] * light.sunlight * 1.3
        if self.foam:
            crest = smoothstep(2.2, 2.9, tilt + 0.5 * self.swell * sample(fractal_tile(), x * 3, z * 6))
            colour = colour + (light.on((0, 1, 0)) * 0.8 - colour) * (crest * self.foam)[:, None]
        stage.colour[row, column] = light.fade(colour, z[:, None])
        stage.label[row, column] = WATER

    def _tilt(self, x: np.ndarray, z: np.ndarray, camera: Camera) -> np.ndarray:
        """How much the surface leans towards the camera: waves of four lengths, each where a pixel can show it."""
        foreshortened = z / camera.focal * np.sqrt(z / camera.eye)
        tilt, length = np.zeros_like(x), self.wavelength
        for number in range(4):
            fade = np.clip(length / foreshortened - 0.3, 0.1 if number == 0 else 0.0, 1)
            scale = 10 / length
            u, v = x * (scale * 0.45) + z * (0.1 * scale) + self.offset, z * scale + 91 * number
            tilt += 0.75 * fade * sample(blob_tile(10), u, v)
            length /= 2.9
        return tilt


# --- trees -----------------------------------------------------------------------------------------------------------

CROWN = 96
LEAVES = (
    (74, 104, 48),
    (56, 88, 44),
    (92, 118, 54),
    (48, 76, 50),
    (104, 124, 66),
    (64, 92, 74),
    (112, 116, 50),
)
RARE_LEAVES = ((196, 132, 46), (178, 84, 40), (206, 168, 66), (150, 62, 46), (226, 190, 196), (140, 116, 92))


def leaf_colour(rng: Generator, rare: float = 0.2) -> np.ndarray:
    """Mostly green, with probability ``rare`` autumn or blossom."""
    return vary(rng, srgb(*rng.choice(RARE_LEAVES if rng.random() < rare else LEAVES)), 0.22)


@dataclass(frozen=True)
class Species:
    """Shape of a tree: crown ``spread`` over tree height, where the crown ``begins``, and its size range in metres."""

    spread: float
    begins: float
    size: tuple[float, float]


SPECIES = {
    "round": Species(0.8, 0.2, (6, 15)),
    "tall": Species(0.36, 0.1, (9, 20)),
    "spreading": Species(1.15, 0.38, (6, 13)),
    "conifer": Species(0.46, 0.06, (7, 22)),
    "bush": Species(1.5, 0.0, (0.8, 2.4)),
}


@lru_cache(maxsize=64)
def crown(species: str, variant: int) -> tuple[np.ndarray, np.ndarray]:
    """`puffs` of one crown, distances relative to its half width; built once per process, seeded by the arguments."""
    rng = np.random.default_rng([variant, *species.encode()])
    number = 46 if species == "conifer" else 30
    if species == "conifer":
        y = np.linspace(0.88, -0.86, number)
        reach = 0.06 + 0.74 * (0.9 - y) / 1.8
        centre = np.stack([rng.uniform(-1, 1, number) * reach, y, rng.uniform(-0.3, 1, number) * reach], axis=1)
        radius = 0.09 + 0.24 * (0.95 - y) / 1.8 * rng.uniform(0.7, 1.2, number)
    else:
        direction = rng.normal(size=(number, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        centre = direction * np.cbrt(rng.uniform(0.15, 1, number))[:, None] * 0.68
        radius = rng.uniform(0.17, 0.34, number)
        if species in ("bush", "spreading"):
            centre[:, 1] = np.abs(centre[:, 1]) * 1.5 - 0.7
    order = np.argsort(centre[:, 2])
    half = CROWN / 2
    texels = np.stack([half + half * centre[:, 0], half - half * centre[:, 1], half * centre[:, 2]], axis=1)
    inside, normal = puffs(CROWN, texels[order], half * radius[order], squash=0.6 if species == "conifer" else 0.9)
    # Leaf balls low and deep in the crown see less of the sky.
    bent = normal + 0.55 * np.stack(np.broadcast_arrays(*_crown_normals()), axis=-1)
    return inside / half, bent / np.linalg.norm(bent, axis=-1, keepdims=True)


def _crown_normals() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axis = np.linspace(-1, 1, CROWN, dtype=np.float32)
    return axis[None, :], -axis[:, None], np.float32(0.3)


def resample(field: np.ndarray, box: tuple[float, float, float, float], window: Window) -> np.ndarray:
    """The part of ``field`` that falls into ``window`` when its whole fills the pixel ``box`` (x0, y0, x1, y1)."""
    rows, columns = window
    x0, y0, x1, y1 = box
    along, down = field.shape[1] / (x1 - x0), field.shape[0] / (y1 - y0)
    source = (
        max((columns.start - x0) * along, 0),
        max((rows.start - y0) * down, 0),
        min((columns.stop - x0) * along, field.shape[1]),
        min((rows.stop - y0) * down, field.shape[0]),
    )
    size = (columns.stop - columns.start, rows.stop - rows.start)
    return np.asarray(Image.fromarray(field).resize(size, Image.Resampling.BILINEAR, box=source))


@dataclass(frozen=True)
class Tree:
    """A tree or bush standing at ``(x, z)``."""

    x: float
    z: float
    height: float
    species: str
    variant: int
    leaves: np.ndarray
    bark: np.ndarray
    lushness: float
    offset: tuple[int, int]

    @classmethod
    def draw(cls, rng: Generator, x: float, z: float, species: str, leaves: np.ndarray, scale: float = 1.0) -> "Tree":
        """Draw one of a stand whose leaves have about this colour."""
        barks = [(92, 76, 60), (74, 66, 58), (104, 90, 76), (122, 114, 104)]
        return cls(
            x,
            z,
            float(rng.uniform(*SPECIES[species].size)) * scale,
            species,
            int(rng.integers(8)),
            vary(rng, leaves, 0.1),
            srgb(*rng.choice(barks)),
            float(rng.uniform(-0.03, 0.06)),
            (int(rng.integers(TILE)), int(rng.integers(TILE))),
        )

    @property
    def depth(self) -> float:
        """Distance by which things are sorted."""
        return self.z

    def shadows(self, light: Light) -> list[np.ndarray]:
        """Crown and trunk on the ground."""
        species = SPECIES[self.species]
        middle, top = light.shadow_of(self.height * (0.5 + 0.5 * species.begins)), light.shadow_of(self.height)
        angle = np.linspace(0, 2 * np.pi, 19)[:-1]
        ragged = 1 + 0.16 * np.sin(angle * 5 + self.variant) + 0.1 * np.sin(angle * 8 + 2)
        along = (top - middle) + 1e-6
        length = np.linalg.norm(along)
        side = np.array([-along[1], along[0]]) / length * self.height * species.spread / 2
        along = along / length * max(length, self.height * species.spread / 2)
        foot = np.array([self.x, self.z])
        blob = foot + middle + (np.cos(angle) * ragged)[:, None] * along + (np.sin(angle) * ragged)[:, None] * side
        trunk = side * 0.06
        return [blob, foot + np.array([-trunk, trunk, trunk + middle, middle - trunk])]

    def paint(self, stage: Stage) -> None:
        """Trunk, then leaves."""
        camera, species = stage.camera, SPECIES[self.species]
        size = camera.focal * self.height / self.z
        foot_x = camera.width / 2 + camera.focal * self.x / self.z
        foot_y = camera.horizon + camera.focal * camera.eye / self.z
        if species.begins > 0 and size > 5:
            self._paint_trunk(stage)
        half = size * species.spread / 2
        box = (foot_x - half, foot_y - size, foot_x + half, foot_y - size * species.begins * 0.8)
        window = camera.crop(np.floor(box[0]), np.floor(box[1]), np.ceil(box[2]), np.ceil(box[3]))
        if window is None or size < 2:
            return
        inside, normal = crown(self.species, self.variant)
        light = stage.light
        sunny = normal @ (light.sun * np.array([1, 1, -1], np.float32))
        sunny = np.maximum((sunny + 0.25) / 1.25, 0)
        open_sky = 0.5 + 0.5 * normal[..., 1]

        leaf = 2 ** int(np.clip(np.log2(size / 45), 1, 4))
        noise = _tile_window(blob_tile(leaf), window, self.offset)
        clumps = _tile_window(blob_tile(leaf * 4), window, self.offset[::-1])
        edge = resample(inside, box, window) + self.lushness + 0.1 * np.tanh(0.5 * noise + 0.5 * clumps)
        alpha = np.clip(edge * max(half, 2) * 0.8 + 0.5, 0, 1)
        sunny = resample(sunny, box, window) * np.maximum(1 + 0.4 * noise + 0.2 * clumps, 0)
        shade = resample(open_sky, box, window) * (0.85 + 0.22 * noise)
        shade *= 0.45 + 0.55 * np.clip(edge * 4, 0, 1)
        colour = self.leaves * (1.15 * sunny[..., None] * light.sunlight + shade[..., None] * light.ambient)
        stage.paint(window, light.fade(colour, self.z), alpha, TREE)

    def _paint_trunk(self, stage: Stage) -> None:
        species = SPECIES[self.species]
        radius, top = 0.022 * self.height * (1.3 if self.variant % 2 else 1), self.height * (species.begins + 0.35)
        lean = 0.05 * self.height * np.sin(self.variant)
        flare = [(-radius * 1.7, 0), (-0.4 * radius, -0.5 * radius), (radius * 1.6, 0), (radius * 0.95, 0.07 * top)]
        limbs = [(*flare, (lean + radius * 0.5, top), (lean - radius * 0.5, top), (-radius * 0.95, 0.06 * top))]
        fork = 0.75 * species.begins * self.height
        for side in (-1, 1) if species.begins > 0.15 else ():
            tip = side * species.spread * 0.3 * self.height
            limbs.append(((lean * 0.3, fork), (lean * 0.3 + radius, fork), (tip, top), (tip - radius * 0.3, top)))
        outlines = [np.array([(self.x + a, b, self.z) for a, b in limb]) for limb in limbs]
        light = stage.light
        colour = light.fade(self.bark * light.on((0.3 * np.sign(light.sun[0]), 0.3, -0.9)), self.z)
        stage.paint_polygons(outlines, [colour] * len(outlines), TREE, grain=0.28)


def _tile_window(tile: np.ndarray, window: Window, offset: tuple[int, int]) -> np.ndarray:
    rows, columns = window
    down = (np.arange(rows.stop - rows.start) + offset[0]) & (TILE - 1)
    along = (np.arange(columns.stop - columns.start) + offset[1]) & (TILE - 1)
    return tile[np.ix_(down, along)]


@lru_cache(maxsize=1)
def canopy() -> np.ndarray:
    """Normals of a wood seen from the side, periodic, shape ``(TILE, TILE, 3)``."""
    rng = np.random.default_rng(1)
    centres = np.concatenate([rng.uniform(0, TILE, (700, 2)), rng.uniform(0, 30, (700, 1))], axis=1)
    return puffs(TILE, centres, rng.uniform(12, 30, 700), wrap=True)[1]


@dataclass(frozen=True)
class Treeline:
    """The edge of a wood or a hedge across the view."""

    z: float
    height: float
    leaves: np.ndarray
    gaps: float
    offset: float

    @classmethod
    def draw(cls, rng: Generator, z: float, height: float, leaves: np.ndarray) -> "Treeline":
        """Draw one with or without gaps."""
        gaps = float(rng.uniform(-2.5, 0.4))
        return cls(z, height, vary(rng, leaves, 0.1), gaps, float(rng.uniform(0, TILE)))

    @property
    def depth(self) -> float:
        """Distance by which things are sorted."""
        return self.z

    def shadows(self, light: Light) -> list[np.ndarray]:
        """None: too far away to matter."""
        return []

    def paint(self, stage: Stage) -> None:
        """Fill the outline with lit leaf balls."""
        camera, light = stage.camera, stage.light
        foot = camera.horizon + camera.focal * camera.eye / self.z
        size = camera.focal * self.height / self.z
        window = camera.crop(0, np.floor(foot - 1.3 * size), camera.width, np.ceil(foot))
        if window is None:
            return
        rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] + 0.5
        x = camera.x_slope * self.z
        y = (foot - rows) / camera.focal * self.z
        fractal, bumps = fractal_tile(), blob_tile(8)
        u = x / self.height
        profile = 0.72 + 0.14 * sample(fractal, u * 12 + self.offset, u * 0) + 0.1 * sample(bumps, u * 14, u * 0 + 5)
        there = smoothstep(self.gaps - 0.3, self.gaps + 0.3, sample(fractal, u * 5 + self.offset, u * 0 + 99))
        texel_u, texel_v = u * 60 + self.offset, y / self.height * -60 + 0 * u
        leaf = nearest(blob_tile(2), texel_u * 2.2 + 4096, texel_v * 2.2 + 4096)
        inside = (profile * there * self.height - y) / self.z * camera.focal
        alpha = np.clip(inside + leaf * 0.04 * size + 0.5, 0, 1)
        index = (texel_u.astype(np.int32) & (TILE - 1)) + (texel_v.astype(np.int32) & (TILE - 1)) * TILE
        normal = canopy().reshape(-1, 3)[index]
        sunny = np.maximum(normal @ (light.sun * np.array([1, 1, -1], np.float32)) + 0.15, 0) * (1 + 0.3 * leaf)
        shade = (0.45 + 0.4 * normal[..., 1] + 0.1 * leaf) * (0.5 + 0.5 * np.clip(y / self.height * 2, 0, 1))
        colour = self.leaves * (sunny[..., None] * light.sunlight + shade[..., None] * light.ambient)
        stage.paint(window, light.fade(colour, self.z), alpha, TREE)
