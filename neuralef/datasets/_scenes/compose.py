"""Which things stand where: seven kinds of places, each drawn at random and painted back to front."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from neuralef.datasets._scenes.built import (
    Building,
    Facade,
    Figure,
    Road,
    Track,
    Vehicle,
    animal,
    balloon,
    boat,
    lamp_post,
    person,
    sign,
)
from neuralef.datasets._scenes.nature import (
    SPECIES,
    Clouds,
    Ground,
    Meadow,
    Terrain,
    Tree,
    Treeline,
    Water,
    leaf_colour,
    paint_sky,
)
from neuralef.datasets._scenes.stage import GRASS, ROAD, Camera, Light, Stage, photograph, random_light

Generator = np.random.Generator


class Thing(Protocol):
    """Something that stands on the ground."""

    @property
    def depth(self) -> float:
        """Distance by which things are sorted."""

    def shadows(self, light: Light) -> list[np.ndarray]:
        """Outlines ``(N, 2)`` on the ground."""

    def paint(self, stage: Stage) -> None:
        """Paint colour and label."""


@dataclass
class Layout:
    """One place before it is painted.

    Attributes:
        horizon: Height of the horizon as a share of the picture, from the top.
        focal: Focal length in picture heights.
        eye: Height of the camera in metres.
        terrains: Reliefs, far to near.
        meadow: Grass wherever nothing else is.
        roads: Roads on top of the grass.
        water: Look of open water; None for a dry place.
        wet: Signed distance in metres into the water at every ground point; None for a dry place.
        behind: Things that the water mirrors.
        things: Things in front of the water.
    """

    horizon: float
    focal: float
    eye: float
    meadow: Meadow
    terrains: list[Terrain] = field(default_factory=list)
    roads: list[Road] = field(default_factory=list)
    water: Water | None = None
    wet: Callable[[Ground], np.ndarray] | None = None
    behind: list[Thing] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)

    def paint(self, stage: Stage, clouds: list[Clouds]) -> None:
        """Sky, reliefs, ground, what stands behind the water, water, the rest."""
        paint_sky(stage, clouds)
        # What haze hides altogether must not get a label either.
        sight = 1.8 * stage.light.visibility
        for terrain in self.terrains:
            if terrain.near < sight:
                terrain.paint(stage)
        surface = self._paint_ground(stage)
        for thing in sorted(self.behind, key=lambda thing: -thing.depth):
            if thing.depth < sight:
                thing.paint(stage)
        if self.water is not None:
            # What now hides the ground hides the water too.
            self.water.paint(stage, surface & (stage.label == _OPEN))
        for thing in sorted(self.things, key=lambda thing: -thing.depth):
            if thing.depth < sight:
                thing.paint(stage)

    def _paint_ground(self, stage: Stage) -> np.ndarray:
        """Grass and roads in sun and shade; returns where the water will be, shape ``(H, W)``, bool."""
        camera, light = stage.camera, stage.light
        window, ground = Ground.seen_by(camera)
        shape = (window[0].stop - window[0].start, camera.width)
        outlines = [outline for thing in self.behind + self.things for outline in thing.shadows(light)]
        shadow = stage.ground_shadows(outlines)[window].ravel() if outlines else np.zeros(ground.x.shape, np.float32)
        wet = self.wet(ground) > 0 if self.wet is not None else np.zeros(ground.x.shape, bool)

        label = np.full(ground.x.shape, GRASS, np.uint8)
        albedo = np.zeros((*ground.x.shape, 3), np.float32)
        covers = [road.cover(ground) for road in self.roads]
        paved = np.max(covers, axis=0) if covers else np.zeros(ground.x.shape, np.float32)
        grown = ~wet & (paved < 1)
        albedo[grown] = self.meadow.colour(ground.where(grown))
        for road, cover in zip(self.roads, covers, strict=True):
            chosen = (cover > 0) & ~wet
            part = road.albedo(ground.where(chosen))
            albedo[chosen] += (part - albedo[chosen]) * cover[chosen][:, None]
            label[chosen & (cover >= 0.5)] = ROAD
        label[wet] = _OPEN

        sun = (light.sunlight * light.sun[1]) * (1 - 0.92 * shadow)[:, None]
        colour = light.fade(albedo * (sun + light.ambient * (1 - 0.25 * shadow)[:, None]), ground.z[:, None])
        stage.colour[window] = colour.reshape(*shape, 3)
        stage.label[window] = label.reshape(shape)
        surface = np.zeros(stage.label.shape, bool)
        surface[window] = wet.reshape(shape)
        return surface


_OPEN = 254
"""Mark of pixels that water will fill; never left in a finished label."""


# --- ingredients -----------------------------------------------------------------------------------------------------


def backdrop(rng: Generator, *, mountains: float, hills: float) -> list[Terrain]:
    """Reliefs on the horizon, present with the given probabilities."""
    terrains = []
    if rng.random() < mountains:
        near, rise = rng.uniform(3000, 9000), rng.uniform(0.14, 0.48)
        if rng.random() < 0.45:
            terrains.append(Terrain.mountains(rng, near * 2.5, rise * rng.uniform(0.6, 1.0)))
            rise *= 0.7
        terrains.append(Terrain.mountains(rng, near, rise))
    if rng.random() < hills:
        terrains.append(Terrain.hills(rng, rng.uniform(500, 1600), rng.uniform(0.03, 0.11)))
    return terrains


def grove(
    rng: Generator, positions: list[np.ndarray], *, scale: float = 1.0, kinds: tuple[str, ...] = ()
) -> list[Tree]:
    """One tree per ``(X, Z)``; a stand has one or two species of related colour."""
    kinds = kinds or tuple(rng.choice(list(SPECIES), 2, p=[0.4, 0.14, 0.14, 0.22, 0.1]))
    leaves = {kind: leaf_colour(rng, 0.0 if kind == "conifer" else 0.2) for kind in dict.fromkeys(kinds)}
    chosen = [str(rng.choice(kinds)) for _ in positions]
    return [
        Tree.draw(rng, float(at[0]), float(at[1]), kind, leaves[kind], scale)
        for at, kind in zip(positions, chosen, strict=True)
        if at[1] > 4.5
    ]


def scatter(rng: Generator, number: int, near: float, far: float, spread: float = 0.9) -> list[np.ndarray]:
    """Ground positions in view, evenly spread over the logarithm of distance so that near and far both have some."""
    z = np.exp(rng.uniform(np.log(near), np.log(far), number))
    return list(np.stack([z * rng.uniform(-spread, spread, number), z], axis=1))


def off_road(positions: list[np.ndarray], roads: list[Road], gap: float = 1.0) -> list[np.ndarray]:
    """The positions at least ``gap`` metres away from every road."""
    return [at for at in positions if all(abs(road.track.lateral(*at)) > road.reach + gap for road in roads)]


def dry(layout: Layout, positions: list[np.ndarray]) -> list[np.ndarray]:
    """The positions on land."""
    if not positions or layout.wet is None:
        return positions
    x, z = np.array(positions, np.float32).T
    wet = layout.wet(Ground(x, z, np.log(z), z / 300, layout.eye))
    return [at for at, depth in zip(positions, wet, strict=True) if depth < 0]


def people_on(rng: Generator, road: Road, number: int, near: float, far: float) -> list[Figure]:
    """People on the pavements, or on the road where there is none."""
    crowd = []
    for along in np.exp(rng.uniform(np.log(near), np.log(far), number)):
        side = rng.choice([-1, 1])
        aside = (
            road.half_width + rng.uniform(0.2, 0.9) * road.pavement
            if road.pavement
            else rng.uniform(0, road.half_width)
        )
        crowd.append(person(rng, *road.track.point(along, side * aside)))
    return [figure for figure in crowd if figure.z > 2.5]


def traffic(rng: Generator, road: Road, number: int, near: float, far: float, *, parked: float) -> list[Vehicle]:
    """Vehicles driving on the right, or parked along the kerbs, never two in one place."""
    cars, taken = [], []
    for _ in range(number):
        along, side = np.exp(rng.uniform(np.log(near), np.log(far))), rng.choice([-1, 1])
        stands = rng.random() < parked
        lane = road.half_width - 1.1 if stands else road.half_width * 0.48
        if any(abs(along - a) < 12 and lane * side == b for a, b in taken):
            continue
        taken.append((along, lane * side))
        heading = road.track.direction(along) * (1 if side > 0 or (stands and rng.random() < 0.4) else -1)
        start = road.track.point(along, side * lane)
        car = Vehicle.draw(rng, start if side > 0 else start - heading * 4.4, heading)
        if min(car.z, car.z + heading[1] * 5) > 2.2:
            cars.append(car)
    return cars


def street_front(
    rng: Generator, track: Track, lateral: float, begin: float, end: float, heights: tuple[float, float], *, gaps: float
) -> list[Building]:
    """A row of houses along a street, at ``lateral`` metres from its centre line, on that side."""
    row, along, side = [], begin, np.sign(lateral)
    pitched = rng.random() < 0.35
    shops = rng.uniform(0.1, 0.9)
    while along < end:
        width = rng.uniform(7, 20)
        corner, next_corner = track.point(along, lateral), track.point(along + width, lateral)
        axis = (next_corner - corner) / np.linalg.norm(next_corner - corner)
        inward = np.array([axis[1], -axis[0]]) * side
        if track.across:
            inward = -inward
        height = rng.uniform(*heights)
        pitch = rng.uniform(2, 4.5) if pitched and height < 16 else 0.0
        facade = Facade.draw(rng, shop=shops, glazed=0.25 if height > 18 else 0.05)
        row.append(Building(corner, axis, inward, width, rng.uniform(9, 14), height, pitch, facade))
        along += width + (rng.uniform(3, 14) if rng.random() < gaps else 0.0)
    return row


def skyline(rng: Generator, near: float, far: float, number: int, heights: tuple[float, float]) -> list[Building]:
    """Free-standing blocks far away, most of them turned a little."""
    blocks = []
    for z in rng.uniform(near, far, number).tolist():
        turn = rng.uniform(-0.6, 0.6)
        axis, inward = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        corner = np.array([z * rng.uniform(-0.85, 0.8), z])
        size = near * rng.uniform(0.05, 0.13)
        facade = Facade.draw(rng, shop=0.0, glazed=0.4)
        facade = replace(facade, storey=max(facade.storey, size / 9), bay=max(facade.bay, size / 9))
        blocks.append(Building(corner, axis, inward, size, size, rng.uniform(*heights) * z, 0.0, facade))
    return blocks


def cottage(rng: Generator, at: np.ndarray) -> Building:
    """A house with a pitched roof."""
    turn = rng.uniform(-0.9, 0.9)
    axis, inward = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    width, length = rng.uniform(8, 16), rng.uniform(6, 10)
    return Building(
        at, axis, inward, width, length, rng.uniform(3, 6.5), rng.uniform(2, 4.5), Facade.draw(rng, shop=0, glazed=0)
    )


def herd(rng: Generator, roads: list[Road], near: float, far: float) -> list[Figure]:
    """Animals of one kind on the grass."""
    kind = str(rng.choice(["cow", "sheep", "horse"], p=[0.45, 0.35, 0.2]))
    places = off_road(scatter(rng, int(rng.integers(4, 12)), near, far, 0.7), roads)
    return [animal(rng, float(x), float(z), kind) for x, z in places]


# --- places ----------------------------------------------------------------------------------------------------------


def street(rng: Generator) -> Layout:
    """A town street between two rows of houses, or houses on one side and a park on the other."""
    track = Track(float(rng.uniform(-4.5, 4.5)), float(rng.normal(0, 0.2)))
    road = Road.draw(rng, track, rng.uniform(3.2, 6), rng.uniform(1.8, 4), ("asphalt", "asphalt", "cobble", "slab"))
    layout = Layout(rng.uniform(0.42, 0.64), rng.uniform(0.85, 1.35), _eye(rng), Meadow.draw(rng), roads=[road])
    layout.terrains = backdrop(rng, mountains=0.4, hills=0.5)
    low, tall = [(6, 11), (9, 17), (14, 34)][rng.choice(3, p=[0.4, 0.4, 0.2])], bool(rng.random() < 0.7)
    verge = float(rng.choice([0.0, 0.0, rng.uniform(2, 6)]))
    end = rng.uniform(60, 160)
    open_side = rng.choice([-1, 0, 1], p=[0.22, 0.56, 0.22])
    for side in (-1, 1):
        lateral = side * (road.reach + verge)
        if side == open_side:
            park = [track.point(s, side * (road.reach + rng.uniform(2, 25))) for s in np.geomspace(7, 120, 14)]
            layout.things += grove(rng, park, scale=0.9)
            continue
        layout.things += street_front(rng, track, lateral, rng.uniform(-6, 4), end, low, gaps=0.1 if tall else 0.5)
    if rng.random() < 0.6:
        curb = [
            track.point(s, side * (road.half_width + 0.9))
            for s in np.arange(9, 75, rng.uniform(8, 15))
            for side in (-1, 1)
        ]
        layout.things += grove(
            rng, [at for at in curb if rng.random() < 0.7], scale=0.7, kinds=(str(rng.choice(["round", "tall"])),)
        )
    if rng.random() < 0.6:
        layout.things.append(Treeline.draw(rng, end + 40, rng.uniform(8, 16), leaf_colour(rng)))
    layout.things += traffic(rng, road, int(rng.integers(2, 9)), 7, 70, parked=0.6)
    layout.things += people_on(rng, road, int(rng.integers(2, 9)), 4, 35)
    layout.things += [
        (sign if rng.random() < 0.4 else lamp_post)(rng, *track.point(s, rng.choice([-1, 1]) * (road.half_width + 0.5)))
        for s in np.geomspace(9, 60, 4)
    ]
    return layout


def country_road(rng: Generator) -> Layout:
    """A road or track through fields towards hills."""
    track = Track(float(rng.uniform(-4, 4)), float(rng.normal(0, 0.25)), float(rng.normal(0, 0.25)))
    road = Road.draw(rng, track, rng.uniform(1.5, 4.5), 0.0, ("asphalt", "asphalt", "earth"))
    layout = Layout(rng.uniform(0.34, 0.58), rng.uniform(0.85, 1.4), _eye(rng), Meadow.draw(rng), roads=[road])
    layout.terrains = backdrop(rng, mountains=0.75, hills=0.75)
    layout.things += _far_edge(rng)
    layout.things += grove(rng, off_road(scatter(rng, int(rng.integers(2, 14)), 12, 130), [road], 2.5))
    if rng.random() < 0.3:
        avenue = [track.point(s, side * (road.reach + 2.5)) for s in np.arange(12, 120, 13) for side in (-1, 1)]
        layout.things += grove(rng, avenue, kinds=(str(rng.choice(["tall", "round"])),))
    layout.things += [cottage(rng, at) for at in off_road(scatter(rng, int(rng.integers(0, 4)), 30, 110), [road], 16)]
    layout.things += traffic(rng, road, int(rng.integers(0, 4)), 8, 60, parked=0.0)
    layout.things += people_on(rng, road, int(rng.integers(0, 3)), 5, 25)
    if rng.random() < 0.4:
        layout.things += herd(rng, [road], 9, 50)
    return layout


def lake(rng: Generator) -> Layout:
    """Still water before mountains or woods, seen from a meadow."""
    layout = Layout(rng.uniform(0.36, 0.58), rng.uniform(0.85, 1.3), rng.uniform(2, 9), Meadow.draw(rng))
    layout.terrains = backdrop(rng, mountains=0.9, hills=0.6)
    far = rng.uniform(120, 450) * layout.eye / 3
    layout.water, layout.wet = Water.draw(rng, sea=False), _bay(rng, layout, rng.uniform(0.1, 0.34), far)
    if rng.random() < 0.85:
        layout.behind.append(Treeline.draw(rng, far * 1.04, far * rng.uniform(0.02, 0.07), leaf_colour(rng)))
    if rng.random() < 0.45:
        layout.behind += [
            replace(cottage(rng, at), facade=Facade.draw(rng, shop=0)) for at in scatter(rng, 5, far * 1.02, far * 1.1)
        ]
    layout.things += [boat(rng, *at) for at in scatter(rng, int(rng.integers(0, 4)), far * 0.2, far * 0.7, 0.5)]
    _dress_shore(rng, layout)
    return layout


def coast(rng: Generator) -> Layout:
    """The open sea from a promenade or a meadow."""
    layout = Layout(rng.uniform(0.3, 0.55), rng.uniform(0.85, 1.3), rng.uniform(3, 10), Meadow.draw(rng))
    layout.terrains = backdrop(rng, mountains=0.3, hills=0.0)
    shore = rng.uniform(0.12, 0.4)
    layout.water, layout.wet = Water.draw(rng, sea=True), _bay(rng, layout, shore, 4000)
    near = layout.eye * layout.focal / (shore * (1 - layout.horizon) + 0.02)
    layout.things += [boat(rng, *at) for at in scatter(rng, int(rng.integers(1, 6)), near * 2.0, near * 8, 0.6)]
    if rng.random() < 0.3:
        layout.behind += skyline(rng, 900, 1500, 16, (0.02, 0.09))
    _dress_shore(rng, layout)
    return layout


def canal(rng: Generator) -> Layout:
    """A river through a town, with quays and houses on one or both banks."""
    track = Track(float(rng.uniform(-5, 5)), float(rng.normal(0, 0.15)))
    half, quay = rng.uniform(5, 11), rng.uniform(2.5, 6)
    layout = Layout(rng.uniform(0.4, 0.6), rng.uniform(0.8, 1.2), rng.uniform(2, 5), Meadow.draw(rng))
    layout.terrains = backdrop(rng, mountains=0.4, hills=0.4)
    layout.water = Water.draw(rng, sea=False)
    layout.wet = lambda ground: half - np.abs(track.lateral(ground.x, ground.z)) - 4 * (ground.z > 230)
    for side in (-1, 1):
        bank = replace(track, offset=track.offset + side * (half + quay / 2) * float(np.hypot(1, track.heading)))
        road = Road.draw(rng, bank, quay / 2, 0.0, ("cobble", "slab", "asphalt"))
        if rng.random() < 0.75:
            layout.roads.append(road)
            layout.things += people_on(rng, road, int(rng.integers(1, 5)), 7, 40)
            layout.things += traffic(rng, road, int(rng.integers(0, 3)), 10, 50, parked=1.0) if quay > 4 else []
        if rng.random() < 0.8:
            layout.behind += street_front(rng, track, side * (half + quay), -3, 150, (7, 17), gaps=0.15)
        else:
            layout.behind += grove(
                rng, [track.point(s, side * (half + quay + rng.uniform(2, 9))) for s in np.geomspace(9, 110, 12)]
            )
        if rng.random() < 0.5:
            layout.behind += grove(
                rng, [track.point(s, side * (half + quay - 0.8)) for s in np.arange(14, 70, 11)], scale=0.6
            )
    layout.things += [
        boat(rng, *track.point(s, rng.uniform(-0.25, 0.25) * half)) for s in rng.uniform(16, 60, rng.integers(0, 3))
    ]
    layout.behind.append(Treeline.draw(rng, 225, rng.uniform(8, 18), leaf_colour(rng)))
    return layout


def pasture(rng: Generator) -> Layout:
    """Animals on a meadow before mountains."""
    layout = Layout(rng.uniform(0.34, 0.6), rng.uniform(0.9, 1.5), _eye(rng), Meadow.draw(rng))
    layout.terrains = backdrop(rng, mountains=0.85, hills=0.8)
    layout.things += _far_edge(rng) + herd(rng, [], 6, 40)
    layout.things += grove(rng, scatter(rng, int(rng.integers(2, 12)), 16, 140))
    layout.things += [cottage(rng, at) for at in scatter(rng, int(rng.integers(0, 4)), 35, 110)]
    if rng.random() < 0.35:
        layout.water = Water.draw(rng, sea=False)
        river = Track(0, 0, 0, across=True)
        width, distance, slant = rng.uniform(3, 9), rng.uniform(14, 35), rng.uniform(-0.4, 0.4)
        bank = replace(river, offset=distance, heading=slant)
        layout.wet = lambda ground: (
            width / 2 - np.abs(bank.lateral(ground.x, ground.z)) + 0.4 * ground.flat_noise(5, 3.0)
        )
        layout.things = [t for t in layout.things if abs(bank.lateral(*_foot(t))) > width / 2 + 2]
        layout.behind = [t for t in layout.things if bank.lateral(*_foot(t)) > 0]
        layout.things = [t for t in layout.things if bank.lateral(*_foot(t)) <= 0]
    if rng.random() < 0.22:
        layout.things.append(balloon(rng, rng.uniform(-50, 50), rng.uniform(90, 190), rng.uniform(25, 55)))
    return layout


def park(rng: Generator) -> Layout:
    """A city park: lawn, a path, trees, towers behind them, at times a pond."""
    track = Track(float(rng.uniform(-3, 3)), float(rng.normal(0, 0.35)), float(rng.normal(0, 0.35)))
    path = Road.draw(rng, track, rng.uniform(1.2, 3), 0.0, ("slab", "earth", "asphalt", "cobble"))
    layout = Layout(rng.uniform(0.4, 0.64), rng.uniform(0.85, 1.3), _eye(rng), Meadow.draw(rng), roads=[path])
    layout.terrains = backdrop(rng, mountains=0.3, hills=0.2)
    layout.behind += skyline(rng, 170, 320, int(rng.integers(8, 20)), (0.06, 0.34))
    layout.behind.append(Treeline.draw(rng, 120, rng.uniform(5, 12), leaf_colour(rng)))
    if rng.random() < 0.45:
        layout.water, layout.wet = Water.draw(rng, sea=False), _pond(rng, layout)
        layout.roads = []
        layout.things += [boat(rng, *at) for at in scatter(rng, int(rng.integers(0, 2)), 30, 40, 0.2)]
    trees = off_road(scatter(rng, int(rng.integers(5, 15)), 11, 90), [path], 2)
    if layout.wet is not None:
        trees = [at for at in trees if at[1] < 9 or at[1] > 65]
    layout.things += grove(rng, trees)
    layout.things += people_on(rng, path, int(rng.integers(2, 8)), 5, 12 if layout.wet is not None else 40)
    layout.things += [lamp_post(rng, *track.point(s, path.reach + 0.6)) for s in (9.0, 21.0) if rng.random() < 0.6]
    return layout


def _eye(rng: Generator) -> float:
    """Mostly a standing person, sometimes a window or a hill."""
    return float(rng.uniform(1.5, 2.1) if rng.random() < 0.7 else rng.uniform(2.5, 7))


def _foot(thing: Thing) -> np.ndarray:
    return thing.corner if isinstance(thing, Building) else np.array([getattr(thing, "x", 0.0), thing.depth])


def _far_edge(rng: Generator) -> list[Thing]:
    """Woods or hedges that end the plain."""
    return [
        Treeline.draw(rng, z, rng.uniform(5, 14), leaf_colour(rng))
        for z in rng.uniform(130, 420, rng.integers(1, 4)).tolist()
    ]


def _bay(rng: Generator, layout: Layout, shore: float, far: float) -> Callable[[Ground], np.ndarray]:
    """Water from a slanting, ragged near shore, ``shore`` of the ground's height up the picture, to ``far`` metres."""
    below = (1 - layout.horizon) * (1 - shore) / layout.focal
    near, slant, phase = layout.eye / below, rng.uniform(-0.45, 0.45), rng.uniform(0, 6)

    def wet(ground: Ground) -> np.ndarray:
        edge = near * (
            1 + 0.18 * np.sin(ground.x / near * 2.3 + phase) + 0.06 * np.sin(ground.x / near * 7 + 2 * phase)
        )
        return np.minimum(
            ground.z - edge - slant * ground.x - 0.03 * near * ground.flat_noise(near / 4, phase), far - ground.z
        )

    return wet


def _pond(rng: Generator, layout: Layout) -> Callable[[Ground], np.ndarray]:
    """An oval in the lawn."""
    middle, half_z, half_x, x = rng.uniform(28, 36), rng.uniform(12, 20), rng.uniform(14, 34), rng.uniform(-10, 10)

    def wet(ground: Ground) -> np.ndarray:
        radius = np.hypot((ground.x - x) / half_x, (ground.z - middle) / half_z)
        return 1 - radius + 0.05 * ground.flat_noise(6, 1.0)

    return wet


def _dress_shore(rng: Generator, layout: Layout) -> None:
    """A promenade or meadow on the near shore, with people, trees and lamps."""
    near = layout.eye * layout.focal / (1 - layout.horizon)
    if rng.random() < 0.6:
        track = Track(near * rng.uniform(0.9, 1.15), rng.uniform(-0.2, 0.2), across=True)
        surfaces = ("slab", "asphalt", "earth", "cobble")
        road = Road.draw(rng, track, near * rng.uniform(0.08, 0.2), 0.0, surfaces)
        layout.roads.append(road)
    layout.things += [
        person(rng, *at) for at in dry(layout, scatter(rng, int(rng.integers(0, 7)), near * 1.03, near * 2, 0.6))
    ]
    if rng.random() < 0.65:
        layout.things += grove(rng, dry(layout, scatter(rng, int(rng.integers(1, 7)), near * 1.1, near * 2)), scale=0.8)
    if rng.random() < 0.3:
        posts = [np.array([near * x, near * 1.2]) for x in (-0.5, 0.1, 0.6)]
        layout.things += [lamp_post(rng, *at) for at in dry(layout, posts)]


PLACES: tuple[tuple[Callable[[Generator], Layout], float], ...] = (
    (street, 0.27),
    (country_road, 0.15),
    (lake, 0.15),
    (coast, 0.11),
    (canal, 0.11),
    (pasture, 0.1),
    (park, 0.11),
)
"""Kinds of places and how often each comes."""


def compose(rng: Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw a place and its light, and photograph it.

    Args:
        rng: Source of every choice. The content does not depend on the size, only the sensor's noise does.
        size: ``(height, width)`` in pixels.

    Returns:
        Image of shape ``(H, W, 3)`` and label of shape ``(H, W)``, both uint8.
    """
    height, width = size
    places, shares = zip(*PLACES, strict=True)
    layout = places[rng.choice(len(places), p=shares)](rng)
    light = random_light(rng)
    clouds = [Clouds.draw(rng) for _ in range(rng.choice([1, 2], p=[0.7, 0.3]))]
    # Wide pictures keep the vertical view of a 4:3 one; upright ones the horizontal.
    focal = layout.focal * min(height, width * 0.75)
    stage = Stage(Camera(height, width, layout.horizon * height, focal, layout.eye), light)
    layout.paint(stage, clouds)
    return photograph(stage.colour, rng), stage.label
