"""What every painted thing needs: noise, a camera, light, a canvas, and the lens that takes the photograph.

Lengths are metres. World axes: X to the right, Y up from the ground, Z forward; the camera stands at ``(0, eye, 0)``.
Colours are linear-light RGB, float32; display values are their square roots (gamma 2).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

SKY, TREE, ROAD, GRASS, WATER, BUILDING, MOUNTAIN, OBJECT = range(8)

TILE = 512
"""Side of the noise tiles in texels; a power of two, so that wrapping is a bit mask."""

NEAR = 0.4
"""Nothing closer than this many metres is painted."""

Window = tuple[slice, slice]


def srgb(red: float, green: float, blue: float) -> np.ndarray:
    """Linear-light colour, shape ``(3,)``, of display values 0..255."""
    return (np.array([red, green, blue], np.float32) / 255) ** 2


def vary(rng: np.random.Generator, colour: np.ndarray, amount: float = 0.15) -> np.ndarray:
    """A random relative of ``colour``: mostly its brightness changes, its hue by half as much."""
    change = rng.normal(0, amount) + rng.normal(0, amount / 2, 3)
    return (colour * np.exp(change)).astype(np.float32)


def smoothstep(low: float | np.ndarray, high: float | np.ndarray, x: np.ndarray) -> np.ndarray:
    """Cubic ramp from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=16)
def blob_tile(wavelength: int) -> np.ndarray:
    """Periodic band-limited noise, shape ``(TILE, TILE)``, mean 0, standard deviation 1; ``wavelength`` in texels."""
    white = np.random.default_rng(wavelength).standard_normal((TILE, TILE), dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, wavelength / 4, mode="wrap")
    return smooth / smooth.std()


@lru_cache(maxsize=1)
def fractal_tile() -> np.ndarray:
    """Periodic cloud-like noise, amplitude ~ frequency ** -1.7, shape ``(TILE, TILE)``, mean 0, deviation 1."""
    spectrum = np.fft.rfft2(np.random.default_rng(0).standard_normal((TILE, TILE)))
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :])
    # Longer waves than a quarter tile would make every scene show the same big cloud.
    field = np.fft.irfft2(spectrum * np.where(frequency < 4 / TILE, 0, (frequency + 1e-9) ** -1.7), s=(TILE, TILE))
    return (field / field.std()).astype(np.float32)


def sample(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up in a periodic tile at texel coordinates ``u`` (column) and ``v`` (row)."""
    u, v = np.broadcast_arrays(u, v)
    column, row = np.floor(u), np.floor(v)
    fu, fv = (u - column).astype(np.float32), (v - row).astype(np.float32)
    left, top = column.astype(np.int32) & (TILE - 1), (row.astype(np.int32) & (TILE - 1)) * TILE
    right, bottom = (left + 1) & (TILE - 1), (top + TILE) & (TILE * TILE - 1)
    flat = tile.ravel()
    upper = flat[top + left]
    upper += fu * (flat[top + right] - upper)
    lower = flat[bottom + left]
    lower += fu * (flat[bottom + right] - lower)
    return upper + fv * (lower - upper)


def nearest(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """`sample` without interpolation, for texture finer than the eye follows."""
    return tile.ravel()[(u.astype(np.int32) & (TILE - 1)) + (v.astype(np.int32) & (TILE - 1)) * TILE]


@dataclass(frozen=True)
class Camera:
    """A level camera; ``horizon`` and ``focal`` in pixels, ``eye`` its height above the ground."""

    height: int
    width: int
    horizon: float
    focal: float
    eye: float

    @property
    def x_slope(self) -> np.ndarray:
        """X / Z of every pixel column, shape ``(1, W)``."""
        return ((np.arange(self.width, dtype=np.float32) + 0.5 - self.width / 2) / self.focal)[None, :]

    @property
    def y_slope(self) -> np.ndarray:
        """(eye - Y) / Z of every pixel row, shape ``(H, 1)``: positive below the horizon."""
        return ((np.arange(self.height, dtype=np.float32) + 0.5 - self.horizon) / self.focal)[:, None]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixel ``(x, y)`` of world points, shape ``(N, 3) -> (N, 2)``; all must lie in front of the camera."""
        z = points[:, 2]
        x = self.width / 2 + self.focal * points[:, 0] / z
        y = self.horizon + self.focal * (self.eye - points[:, 1]) / z
        return np.stack([x, y], axis=1)

    def window(self, points: np.ndarray, margin: int = 1) -> Window | None:
        """Pixels that a convex outline may touch, or None if it is out of view."""
        visible = clip_near(points)
        if len(visible) < 2:
            return None
        pixels = self.project(visible)
        x0, y0 = np.floor(pixels.min(axis=0)) - margin
        x1, y1 = np.ceil(pixels.max(axis=0)) + margin
        return self.crop(x0, y0, x1, y1)

    def crop(self, x0: float, y0: float, x1: float, y1: float) -> Window | None:
        """The part of a pixel box inside the picture, or None."""
        left, top = int(max(x0, 0)), int(max(y0, 0))
        right, bottom = int(min(x1, self.width)), int(min(y1, self.height))
        return (slice(top, bottom), slice(left, right)) if right > left and bottom > top else None


def clip_near(points: np.ndarray) -> np.ndarray:
    """Cut an outline, shape ``(N, 3)``, at the plane Z = ``NEAR`` and keep the part in front."""
    if points[:, 2].min() >= NEAR:
        return points
    kept = []
    for here, there in zip(points, np.roll(points, -1, axis=0), strict=True):
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] >= NEAR) != (there[2] >= NEAR):
            kept.append(here + (there - here) * (NEAR - here[2]) / (there[2] - here[2]))
    return np.array(kept).reshape(-1, 3)


@dataclass(frozen=True)
class Light:
    """Sun, sky and air of one scene.

    Attributes:
        sun: Unit vector towards the sun, shape ``(3,)``.
        sunlight: Colour of direct light; small when clouds hide the sun.
        ambient: Colour of the light from the whole sky.
        zenith: Colour of the sky overhead.
        horizon: Colour of the sky above the horizon.
        haze: Colour that distance fades to.
        visibility: Distance in metres at which haze takes 63 %.
        cover: Share of the sky under clouds, 0..1.
        lamps: Share of windows with a light on, 0..1.
    """

    sun: np.ndarray
    sunlight: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    haze: np.ndarray
    visibility: float
    cover: float
    lamps: float

    def on(self, normal: np.ndarray | tuple[float, float, float]) -> np.ndarray:
        """Light that a matt surface with this unit normal receives, shape ``(3,)``."""
        normal = np.asarray(normal, np.float32)
        return self.ambient * (0.72 + 0.28 * normal[1]) + self.sunlight * max(0.0, float(normal @ self.sun))

    def shadow_of(self, height: float) -> np.ndarray:
        """Where the shadow of a point ``height`` above ``(0, 0)`` falls, ``(X, Z)``; long shadows are cut."""
        return -self.sun[[0, 2]] * min(height / max(float(self.sun[1]), 0.05), 5 * height)

    def fade(self, colour: np.ndarray, depth: float | np.ndarray) -> np.ndarray:
        """``colour`` seen through ``depth`` metres of air; ``depth`` broadcasts against ``(..., 1)``."""
        return self.haze + (colour - self.haze) * np.exp(-np.asarray(depth, np.float32) / self.visibility)


@dataclass(frozen=True)
class Weather:
    """Ranges that one kind of day draws its light from; colours are display values."""

    elevation: tuple[float, float]
    zenith: tuple[int, int, int]
    horizon: tuple[int, int, int]
    direct: float
    cover: tuple[float, float]
    visibility: tuple[float, float]


WEATHER = {
    "clear": Weather((22, 65), (62, 110, 190), (176, 205, 228), 2.3, (0.0, 0.35), (9e3, 4e4)),
    "cumulus": Weather((22, 65), (66, 118, 196), (180, 204, 224), 2.0, (0.3, 0.65), (7e3, 3e4)),
    "overcast": Weather((25, 60), (168, 175, 186), (196, 200, 204), 0.25, (0.8, 1.0), (2e3, 8e3)),
    "golden": Weather((3, 13), (78, 104, 156), (248, 186, 128), 2.2, (0.1, 0.7), (4e3, 2e4)),
    "mist": Weather((12, 40), (164, 184, 204), (216, 218, 216), 0.8, (0.2, 0.9), (250, 1500)),
}


def random_light(rng: np.random.Generator) -> Light:
    """Draw a time of day and weather."""
    weather = WEATHER[rng.choice(list(WEATHER), p=[0.3, 0.26, 0.16, 0.19, 0.09])]
    elevation = np.radians(rng.uniform(*weather.elevation))
    azimuth = rng.uniform(-np.pi, np.pi)
    sun = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    air_mass = 1 / (sun[1] + 0.05)
    sunlight = weather.direct * np.exp(-np.array([0.035, 0.085, 0.18]) * air_mass) * rng.uniform(0.8, 1.2)
    zenith, horizon = vary(rng, srgb(*weather.zenith), 0.12), vary(rng, srgb(*weather.horizon), 0.1)
    return Light(
        sun=sun.astype(np.float32),
        sunlight=sunlight.astype(np.float32),
        ambient=(0.85 * (0.5 * zenith + 0.5 * horizon) + 0.07).astype(np.float32),
        zenith=zenith,
        horizon=horizon,
        haze=(0.8 * horizon + 0.2 * zenith) * np.float32(rng.uniform(0.8, 1.0)),
        visibility=float(np.exp(rng.uniform(*np.log(weather.visibility)))),
        cover=float(rng.uniform(*weather.cover)),
        lamps=float(rng.uniform(0.1, 0.5)) if elevation < np.radians(9) else 0.0,
    )


class Stage:
    """The picture being painted, back to front: colour and label change together.

    Attributes:
        camera: Camera that maps the world to pixels.
        light: Light on every surface.
        colour: Linear light, shape ``(H, W, 3)``, float32.
        label: Class of every pixel, shape ``(H, W)``, uint8.
    """

    def __init__(self, camera: Camera, light: Light):
        self.camera = camera
        self.light = light
        self.colour = np.zeros((camera.height, camera.width, 3), np.float32)
        self.label = np.zeros((camera.height, camera.width), np.uint8)

    def paint(self, window: Window, colour: np.ndarray, alpha: np.ndarray, label: int | np.ndarray | None) -> None:
        """Lay ``colour`` over a window; pixels at least half covered take ``label``.

        Args:
            window: Rows and columns, together of shape ``(h, w)``.
            colour: Linear colour, shape ``(h, w, 3)`` or ``(3,)``.
            alpha: Coverage 0..1, shape ``(h, w)``.
            label: Class id or ids of shape ``(h, w)``; None leaves the labels alone, as a reflection does.
        """
        below = self.colour[window]
        below += (colour - below) * alpha[..., None]
        if label is not None:
            np.copyto(self.label[window], label, where=alpha >= 0.5, casting="unsafe")

    def paint_polygons(
        self,
        outlines: list[np.ndarray],
        colours: list[np.ndarray],
        label: int | None,
        *,
        opacity: float = 1.0,
        grain: float = 0.06,
    ) -> None:
        """Paint flat outlines in world space, first to last.

        Args:
            outlines: Outlines in metres, each of shape ``(N, 3)``.
            colours: One linear colour per outline.
            label: Class of the covered pixels, or None.
            opacity: Opacity of the paint, less than 1 for a reflection.
            grain: Strength of the upright texture of the surfaces.
        """
        shown = [(clip_near(outline), colour) for outline, colour in zip(outlines, colours, strict=True)]
        shown = [(self.camera.project(outline), colour) for outline, colour in shown if len(outline) > 2]
        if not shown:
            return
        pixels = np.concatenate([outline for outline, _ in shown])
        window = self.camera.crop(*(np.floor(pixels.min(axis=0)) - 1), *(np.ceil(pixels.max(axis=0)) + 1))
        if window is None:
            return
        rows, columns = window
        size = (columns.stop - columns.start, rows.stop - rows.start)
        fine = 4 if max(size) < 80 else 2
        picture = Image.new("RGB", (size[0] * fine, size[1] * fine))
        cover = Image.new("L", picture.size)
        on_picture, on_cover = ImageDraw.Draw(picture), ImageDraw.Draw(cover)
        for outline, colour in shown:
            path = [tuple(p) for p in ((outline - (columns.start, rows.start)) * fine - 0.5).tolist()]
            shade = tuple(int(c) for c in np.sqrt(np.clip(colour, 0, 4) / 4) * 255)
            on_picture.polygon(path, fill=shade)
            on_cover.polygon(path, fill=255)
        alpha = np.asarray(cover.reduce(fine), np.float32) / 255
        light = np.asarray(picture.reduce(fine), np.float32) / 255 / np.maximum(alpha, 1e-3)[..., None]
        texture = nearest(blob_tile(4), np.arange(size[0])[None, :], np.arange(size[1])[:, None] // 4)
        self.paint(window, 4 * light * light * (1 + grain * texture)[..., None], alpha * opacity, label)

    def ground_shadows(self, outlines: list[np.ndarray]) -> np.ndarray:
        """How much of the sun is hidden from the ground at every pixel, 0..1, shape ``(H, W)``.

        Args:
            outlines: Shadows on the ground, each ``(N, 2)`` of ``(X, Z)``.
        """
        camera = self.camera
        picture = Image.new("L", (camera.width, camera.height))
        draw = ImageDraw.Draw(picture)
        for outline in outlines:
            points = clip_near(np.stack([outline[:, 0], np.zeros(len(outline)), outline[:, 1]], axis=1))
            if len(points) > 2:
                draw.polygon([tuple(p) for p in camera.project(points).tolist()], fill=255)
        soft = picture.filter(ImageFilter.GaussianBlur(camera.height / 200))
        return np.asarray(soft, np.float32) / 255


def photograph(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take the picture: exposure, white balance, lens blur, vignette, tone curve, sensor noise, soft chroma.

    Args:
        colour: Linear light, shape ``(H, W, 3)``.
        rng: Source of the camera's settings and of the noise.

    Returns:
        The image, shape ``(H, W, 3)``, uint8 RGB.
    """
    height, width, _ = colour.shape
    blur = rng.uniform(0.06, 0.2)
    key, falloff = rng.normal(0, 0.22), rng.uniform(0, 0.35)
    balance = np.exp(rng.normal(0, 0.05) * np.array([1, 0, -1]) + rng.normal(0, 0.02, 3))
    contrast, saturation, grain = rng.uniform(-0.1, 0.45), rng.uniform(0.7, 1.12), rng.uniform(0.003, 0.016)

    colour = np.clip(colour, 0, 12)
    luminance = np.sqrt(colour[::2, ::2] @ np.array([0.25, 0.65, 0.1], np.float32))
    exposure = 0.48 / (0.5 * luminance.mean() ** 2 + 0.5 * np.median(luminance) ** 2 + 0.02) * np.exp(key)
    radius = np.square(np.linspace(-1, 1, height))[:, None] + np.square(np.linspace(-1, 1, width))[None, :]
    gain = (exposure * (1 - falloff * radius / 2)).astype(np.float32)
    linear = colour * gain[..., None]
    linear *= balance.astype(np.float32)
    display = np.sqrt(1 - np.exp(-_soften(_soften(linear, blur, axis=0), blur, axis=1)))
    display += np.float32(contrast) * (display * display * (3 - 2 * display) - display)

    luma = display.mean(axis=2, keepdims=True)
    # JPEG keeps colour at half the resolution of brightness.
    chroma = _soften(display - luma, 0.25, axis=1)
    noise = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(grain)
    return (np.clip(luma + chroma * np.float32(saturation) + noise, 0, 1) * 255 + 0.5).astype(np.uint8)


def _soften(picture: np.ndarray, share: float, *, axis: int) -> np.ndarray:
    """Give ``share`` of every pixel to each of its two neighbours along an axis."""
    change = np.diff(picture, axis=axis)
    change *= np.float32(share)
    soft = picture.copy()
    before, after = (soft[:-1], soft[1:]) if axis == 0 else (soft[:, :-1], soft[:, 1:])
    before += change
    after -= change
    return soft
