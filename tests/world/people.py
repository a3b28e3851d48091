"""How a person is drawn: limbs that swing with the way walked, seen from any side."""

import math

import numpy as np

from tests.world.actors import HAIRS, SKINS, STRIDE_M, Colour, Look, State
from tests.world.camera import Camera
from tests.world.canvas import Canvas, Patch, Point, tinted, toned

TALL_M = 1.75
"""Lengths below are those of a person of this height."""
SWING = 0.5
"""Radians that a thigh swings at most."""
SKIN, SKIN_DARK, HAIR, TOP, TOP_DARK, TOP_MARK, BOTTOM, BOTTOM_DARK, SHOE, HAT = range(1, 11)


FALLEN = "fallen"
"""The activity of somebody who lies on the ground."""


def person(state: State, camera: Camera) -> Patch:
    foot_px = camera.project(state.x_m, state.z_m)
    scale = camera.scale(state.z_m) * state.actor.height_m / TALL_M
    canvas = Canvas(foot_px, scale, half_width_m=0.85, height_m=1.95)
    _Body(canvas, state).draw()
    patch = canvas.colour(palette(state.actor.look))
    return _lying(patch, foot_px, scale, state) if state.activity == FALLEN else patch


def _lying(patch: Patch, foot_px: Point, scale: float, state: State) -> Patch:
    """The standing figure on its side, its middle where it would stand. `facing` decides where the head is."""
    turns = 1 if math.cos(state.facing) > 0 else -1
    colours, alpha = (np.ascontiguousarray(np.rot90(part, turns)) for part in (patch.colours, patch.alpha))
    lowest = int(np.flatnonzero(alpha.any(axis=1)).max(initial=0))
    middle = float(np.flatnonzero(alpha.any(axis=0)).mean())
    lift_px = 0.05 * scale  # a body that lies is seen a little from above
    return Patch(round(foot_px[0] - middle), round(foot_px[1] + lift_px - lowest), colours, alpha)


def palette(look: Look) -> list[Colour]:
    """Colours of the parts, in the order of their numbers."""
    skin, top, bottom = SKINS[look.skin], tinted(look.top, look.shade), tinted(look.bottom, look.shade)
    mark = toned(top, 1.6) if sum(top) < 330 else toned(top, 0.55)
    hat = tinted(look.hat or "black", look.shade)
    shoe = toned(bottom, 0.4)
    return [
        skin,
        toned(skin, 0.75),
        HAIRS[look.hair],
        top,
        toned(top, 0.72),
        mark,
        bottom,
        toned(bottom, 0.72),
        shoe,
        hat,
    ]


class _Body:
    """One person in one pose, drawn from the far side to the near side."""

    def __init__(self, canvas: Canvas, state: State) -> None:
        self._canvas = canvas
        self._look = state.actor.look
        self._side = math.cos(state.facing)
        self._away = math.sin(state.facing)
        walks = state.speed_mps > 0.15
        self._swing = SWING * min(1.0, state.speed_mps / 1.2) if walks else 0.06
        self._phase = 2 * math.pi * state.walked_m / (STRIDE_M * state.actor.height_m / TALL_M) + state.actor.id
        self._phones = not walks and state.actor.id % 3 == 0
        self._breadth = state.actor.look.width
        self._lift_m = 0.0

    def draw(self) -> None:
        """The foot that is lowest stands on the ground."""
        self._lift_m = -min(self._leg_points(half)[2][1] for half in (1, -1)) + 0.035
        far = -1 if self._side >= 0 else 1
        self._arm(far, near=False)
        self._leg(far, near=False)
        self._leg(-far, near=True)
        self._torso()
        self._head()
        self._arm(-far, near=True)

    def _leg_points(self, half: int) -> tuple[Point, Point, Point]:
        """Hip, knee and ankle; half is +1 for the left leg and -1 for the right one."""
        turn = self._swing * math.sin(self._phase) * half
        bend = self._swing * 1.5 * max(0.0, math.cos(self._phase) * half)
        hip = (half * 0.085 * self._away * self._breadth, 0.9 + self._lift_m)
        knee = (hip[0] + 0.43 * math.sin(turn) * self._side, hip[1] - 0.43 * math.cos(turn))
        shin = turn - bend
        ankle = (knee[0] + 0.43 * math.sin(shin) * self._side, knee[1] - 0.43 * math.cos(shin))
        return hip, knee, ankle

    def _leg(self, half: int, near: bool) -> None:
        hip, knee, ankle = self._leg_points(half)
        bare = self._look.garment == "skirt"
        part = (SKIN if near else SKIN_DARK) if bare else (BOTTOM if near else BOTTOM_DARK)
        toe = (ankle[0] + 0.13 * self._side, ankle[1] - 0.01 - 0.03 * max(0.0, -self._away))
        self._canvas.limb(ankle, toe, 0.045, 0.035, SHOE)
        self._canvas.limb(hip, knee, 0.085 * self._breadth, 0.062 * self._breadth, part)
        self._canvas.limb(knee, ankle, 0.06 * self._breadth, 0.042, part)

    def _half_m(self, front_m: float, side_m: float) -> float:
        """Half breadth of the body at the angle that it is seen from."""
        return self._breadth * math.hypot(front_m * self._away, side_m * self._side)

    def _torso(self) -> None:
        lift_m, canvas = self._lift_m, self._canvas
        shoulder, hip = self._half_m(0.2, 0.115), self._half_m(0.155, 0.12)
        hem_m = {"coat": 0.55, "skirt": 0.84, "trousers": 0.86}[self._look.garment]
        if self._look.garment == "skirt":
            flare = hip + 0.07
            canvas.polygon(
                [(-hip, 0.98 + lift_m), (hip, 0.98 + lift_m), (flare, 0.5 + lift_m), (-flare, 0.5 + lift_m)],
                BOTTOM,
            )
        sides = [
            (-hip - 0.01, hem_m),
            (hip + 0.01, hem_m),
            (hip * 0.95, 1.05),
            (shoulder, 1.38),
            (shoulder * 0.8, 1.46),
        ]
        outline = [*sides, (-shoulder * 0.8, 1.46), (-shoulder, 1.38), (-hip * 0.95, 1.05)]
        canvas.polygon([(x, y + lift_m) for x, y in outline], TOP)
        if self._look.stripes:
            for y_m in (1.0, 1.14, 1.28):
                canvas.box(-shoulder * 0.9, y_m + lift_m, shoulder * 0.9, y_m + 0.055 + lift_m, TOP_MARK)
        elif self._away < -0.3:
            canvas.limb((0, 0.92 + lift_m), (0, 1.4 + lift_m), 0.012, 0.012, TOP_MARK)

    def _arm(self, half: int, near: bool) -> None:
        turn = -self._swing * 0.9 * math.sin(self._phase) * half
        fore = turn + 0.25
        if self._phones and near:
            turn, fore = 0.35, 2.2
        out = 0.06 * abs(self._away) * half
        shoulder = (half * 0.205 * self._away * self._breadth, 1.38 + self._lift_m)
        elbow = (shoulder[0] + 0.28 * math.sin(turn) * self._side + out, shoulder[1] - 0.28 * math.cos(turn))
        hand = (elbow[0] + 0.25 * math.sin(fore) * (self._side or 0.2), elbow[1] - 0.25 * math.cos(fore))
        part = TOP if near and abs(self._away) > 0.7 else TOP_DARK
        self._canvas.disc(hand, 0.045, SKIN if near else SKIN_DARK)
        self._canvas.limb(shoulder, elbow, 0.062 * self._breadth, 0.05, part)
        self._canvas.limb(elbow, hand, 0.048, 0.036, part)

    def _head(self) -> None:
        canvas, top_m = self._canvas, 1.6 + self._lift_m
        nose = 0.03 * self._side
        canvas.limb((0, 1.42 + self._lift_m), (nose * 0.5, 1.52 + self._lift_m), 0.052, 0.048, SKIN_DARK)
        canvas.oval((nose * 0.4, top_m + 0.015), 0.098, 0.125, HAIR)
        if self._look.long_hair:
            canvas.limb((-nose * 1.5, top_m), (-nose * 2.2, top_m - 0.19), 0.09, 0.075, HAIR)
        if self._away < 0.45:
            canvas.oval((nose * 1.3, top_m - 0.02), 0.088 - 0.02 * abs(self._side), 0.1, SKIN)
        if self._look.hat:
            canvas.oval((nose * 0.5, top_m + 0.085), 0.112, 0.07, HAT)
            canvas.limb((nose - 0.06, top_m + 0.055), (nose * 3.4 + 0.06, top_m + 0.05), 0.02, 0.015, HAT)
