"""Questions about a tableau, with their true answers. What is not clear to see is not asked."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.questions import COMMON_OBJECTS
from tests.world.camera import HEIGHT_PX, WIDTH_PX
from tests.world.people import FALLEN
from tests.world.stills import LABELS
from tests.world.tableaux import Tableau

NIGHT, DAY = 0.36, 0.78
"""Levels of light below which it is dark, and above which it is not; between them nobody is asked."""
COLOURS_ASKED = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
"""Those that light and shade don't turn into one another."""
COLOUR_WIDTH_PX = 40
COUNTS = ("no", "one", "two", "three", "four", "five", "six")
BORDER = 0.03
"""Nobody is asked on which side somebody stands who is this close to its border, as a share of the width."""
PLACES = ("street", "shop", "yard")
FORMATIONS = ("queue", "group", "scattered")
SIDES = ("left", "middle", "right")
YES_NO = ("yes", "no")
KINDS = {
    "person": ("person", "people"),
    "car": ("car", "cars"),
    "backpack": ("backpack", "backpacks"),
}
"""One of them, more of them."""
DESCRIBE = "Describe what is happening, in one sentence."

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a picture; the box in 0…1 of it."""

    label: str
    box: Box
    colour: str
    activity: str

    @property
    def x(self) -> float:
        return (self.box[0] + self.box[2]) / 2


@dataclass(frozen=True, slots=True)
class Truth:
    """What a picture shows, from left to right. `fuzzy` are the labels of which it also shows what can't be told;
    none of them is in `things`."""

    place: str
    level: float
    formation: str
    things: tuple[Thing, ...]
    fuzzy: tuple[str, ...]

    def of(self, label: str) -> list[Thing]:
        return [thing for thing in self.things if thing.label == label]

    @property
    def dark(self) -> bool | None:
        return True if self.level < NIGHT else False if self.level > DAY else None

    @property
    def car_colour(self) -> str | None:
        """Where there is one car, near enough, in light enough, of a colour that is told from the others."""
        cars = self.of("car")
        if len(cars) != 1 or self.dark is not False or cars[0].colour not in COLOURS_ASKED:
            return None
        wide_px = (cars[0].box[2] - cars[0].box[0]) * WIDTH_PX
        return cars[0].colour if wide_px >= COLOUR_WIDTH_PX else None

    @property
    def sides(self) -> list[str] | None:
        """On which each of the people is; None where that is not clear of one of them."""
        people = self.of("person")
        if any(abs(one.x - border) <= BORDER for one in people for border in (1 / 3, 2 / 3)):
            return None
        return [SIDES[min(2, int(3 * one.x))] for one in people]

    @property
    def has_fallen(self) -> bool:
        return any(thing.activity == FALLEN for thing in self.of("person"))

    @property
    def lying_bags(self) -> int:
        return sum(thing.activity == "lying" for thing in self.of("backpack"))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def mirrored(self) -> "Truth":
        """The same seen in a mirror."""
        turned = [replace(one, box=(1 - one.box[2], one.box[1], 1 - one.box[0], one.box[3])) for one in self.things]
        return replace(self, things=tuple(sorted(turned, key=lambda one: one.x)))


def truth_from_json(told: Mapping[str, Any]) -> Truth:
    things = tuple(Thing(**(one | {"box": tuple(one["box"])})) for one in told["things"])
    return Truth(told["place"], told["level"], told["formation"], things, tuple(told["fuzzy"]))


def truth_of(tableau: Tableau) -> Truth:
    clear = [label for label in LABELS if tableau.is_clear(label)]
    things = [
        Thing(label, _share(one.box), one.state.actor.look.top, one.state.activity)
        for label in clear
        for one in tableau.seen(label)
    ]
    return Truth(
        tableau.scene.place.kind,
        tableau.frame.light.level,
        tableau.formation,
        tuple(sorted(things, key=lambda one: one.x)),
        tuple(label for label in LABELS if label not in clear),
    )


def _share(box_px: tuple[int, int, int, int]) -> Box:
    x_min, y_min, x_max, y_max = box_px
    return x_min / WIDTH_PX, y_min / HEIGHT_PX, x_max / WIDTH_PX, y_max / HEIGHT_PX


@dataclass(frozen=True, slots=True)
class Lesson:
    """`about` is the name under which it is scored. `wordings` are what is asked, the first one in exams; `choices`
    the only right forms of an answer, where it is closed."""

    about: str
    wordings: tuple[str, ...]
    answer: str
    choices: tuple[str, ...] = ()


def closed(truth: Truth) -> Iterator[Lesson]:
    """Questions with yes or no."""
    for label, (one, _) in KINDS.items():
        if label not in truth.fuzzy:
            wordings = (f"Is there a {one} in the picture?", f"Is there a {one}?")
            yield _yes_no(f"any_{label}", bool(truth.of(label)), *wordings)
    danger = "Is there visible danger, such as fire, smoke, a fight or a person lying on the ground?"
    yield _yes_no("hazard", truth.has_fallen, danger, "Is there any danger?")
    yield _yes_no("fallen", truth.has_fallen, "Is a person lying on the ground?", "Has somebody fallen?")
    if "backpack" not in truth.fuzzy:
        wordings = ("Is a backpack lying on the ground?", "Was a bag left here?")
        yield _yes_no("lying_bag", bool(truth.lying_bags), *wordings)
    if truth.formation:
        yield _yes_no("queue", truth.formation == "queue", "Are people waiting in a queue?", "Is there a queue?")
    if truth.dark is not None:
        yield _yes_no("dark", truth.dark, "Is it dark?", "Is it night?")


def _yes_no(about: str, is_so: bool, *wordings: str) -> Lesson:
    return Lesson(about, wordings, YES_NO[0] if is_so else YES_NO[1], YES_NO)


def absent() -> Iterator[Lesson]:
    """What people ask cameras about and is never there."""
    for label in COMMON_OBJECTS:
        if label not in KINDS:
            a = "an" if label[0] in "aeiou" else "a"
            yield _yes_no("any_other", False, f"Is there {a} {label} in the picture?")


def counts(truth: Truth) -> Iterator[Lesson]:
    for label, (_, many) in KINDS.items():
        if label not in truth.fuzzy and len(truth.of(label)) < len(COUNTS):
            wordings = (f"How many {many} are visible?", f"How many {many} are there?", f"Count the {many}.")
            yield Lesson(f"count_{label}", wordings, str(len(truth.of(label))))


def choices(truth: Truth) -> Iterator[Lesson]:
    yield Lesson("place", ("What kind of place is this?", "Where was this taken?"), truth.place, PLACES)
    if truth.formation:
        wordings = ("How do the people stand: in a queue, in a group or scattered?", "How do the people stand?")
        yield Lesson("formation", wordings, truth.formation, FORMATIONS)
    if colour := truth.car_colour:
        yield Lesson("car_colour", ("What colour is the car?", "Which colour has the car?"), colour, COLOURS_ASKED)
    if (sides := truth.sides) and len(sides) == 1:
        yield Lesson("side", ("On which side is the person?", "Where is the person?"), sides[0], SIDES)


def captions(truth: Truth) -> Mapping[str, str]:
    """By length; none where something in the picture is not clear."""
    if truth.fuzzy:
        return {}
    people = number_of("person", truth)
    place = f"a {truth.place}{' at night' if truth.dark else ''}"
    standing = {"queue": " in a queue", "group": " in a group", "scattered": ", scattered"}.get(truth.formation, "")
    things = [words for words in (_cars(truth), _bags(truth)) if words]
    short = f"{people} in {place}."
    normal = f"{', '.join([f'{people}{standing} in {place}', *things])}."
    normal += " A person is lying on the ground." if truth.has_fallen else ""
    return {"short": _capital(short), "normal": _capital(normal), "long": _capital(normal + _where(truth))}


def number_of(label: str, truth: Truth) -> str:
    one, many = KINDS[label]
    count = len(truth.of(label))
    return f"one {one}" if count == 1 else f"{COUNTS[count]} {many}" if count < len(COUNTS) else f"many {many}"


def _cars(truth: Truth) -> str:
    if not truth.of("car"):
        return ""
    return f"one {truth.car_colour} car" if truth.car_colour else number_of("car", truth)


def _bags(truth: Truth) -> str:
    return ("", "a backpack on the ground", "backpacks on the ground")[min(2, truth.lying_bags)]


def _where(truth: Truth) -> str:
    if not (sides := truth.sides):
        return ""
    told = [
        f"{COUNTS[sides.count(side)]} {'in' if side == 'middle' else 'on'} the {side}" for side in sorted(set(sides))
    ]
    return f" {_capital(', '.join(told))}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def facts(caption: str) -> dict[str, str]:
    """What a caption of normal length says, read back, so that it can be scored."""
    text = caption.lower()
    parts = [part.strip() for part in text.replace(".", ",").split(",")]
    return {
        "people": next((word for word in (*COUNTS, "many") if parts[0].startswith(f"{word} ")), ""),
        "place": next((place for place in PLACES if f"in a {place}" in text), ""),
        "night": str(" at night" in text),
        "formation": next((word for word in FORMATIONS if f"in a {word}" in text or f", {word}" in text), ""),
        "cars": next((part for part in parts if " car" in part), ""),
        "bags": next((part for part in parts if "backpack" in part), ""),
        "fallen": str("lying" in text),
    }
