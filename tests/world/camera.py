"""The camera of a scene: a pinhole that looks level over flat ground."""

from dataclasses import dataclass

WIDTH_PX, HEIGHT_PX = 640, 360


@dataclass(frozen=True, slots=True)
class Camera:
    """Coordinates are metres: x to the right of the optical axis, z away from the camera, up above ground.

    The optical axis is level, so verticals stay vertical; the picture is shifted to put the horizon
    where we want it.
    """

    focal_px: float
    height_m: float
    horizon_px: float

    def scale(self, z_m: float) -> float:
        """Pixels per metre at a depth."""
        return self.focal_px / z_m

    def project(self, x_m: float, z_m: float, up_m: float = 0.0) -> tuple[float, float]:
        """Picture coordinates in px, y downwards."""
        scale = self.scale(z_m)
        return WIDTH_PX / 2 + x_m * scale, self.horizon_px + (self.height_m - up_m) * scale

    def half_width_m(self, z_m: float) -> float:
        """Half of the ground that the picture shows at a depth."""
        return WIDTH_PX / 2 / self.scale(z_m)

    def depth(self, y_px: float) -> float:
        """Depth of the ground that is seen in a picture row; the row lies below the horizon."""
        return self.focal_px * self.height_m / (y_px - self.horizon_px)
