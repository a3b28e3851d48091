"""The last resort says what the detector can know, and nothing else."""

from providers.base import Box, ConfidenceSource, Failure, Point, Question, QuestionKind
from providers.open import open_providers
from tests.providers.samples import (
    CAR_POINTS,
    FIRE,
    PEOPLE,
    PERSON_BOXES,
    SCENE,
    THINGS,
    VEHICLE,
    a_request,
    analysis,
    error,
    statuses,
    values,
    with_detections,
)


async def test_without_settings_the_detector_answers_what_it_can() -> None:
    request = a_request(PEOPLE, PERSON_BOXES, CAR_POINTS, THINGS, FIRE, VEHICLE, SCENE)
    request = with_detections(request, ("person", 0.9), ("car", 0.7), ("person", 0.6), labels=("dog",))
    async with open_providers([]) as chain:
        [outcome] = await chain.analyze([request])
    box = Box(0.1, 0.2, 0.3, 0.6)
    assert values(outcome) == {
        "people": 2,
        "where": (box, box),
        "cars": (Point(0.2, 0.4),),
        "things": ("person", "car"),
        "fire": None,
        "vehicle": None,
        "scene": None,
    }
    assert {name for name, status in statuses(outcome).items() if status == "unknown"} == {
        "fire",
        "vehicle",
        "scene",
    }
    done = analysis(outcome)
    assert (done.degraded, done.provider, done.model) == (True, "detections", "yolo-test")
    assert (done.answers[0].confidence, done.answers[0].confidence_source) == (0.6, ConfidenceSource.DETECTOR)


async def test_an_absence_is_told_only_of_what_the_detector_knows() -> None:
    async with open_providers([]) as chain:
        [knows, does_not] = await chain.analyze(
            [
                with_detections(a_request(PEOPLE, THINGS), labels=("person", "car", "dog")),
                with_detections(a_request(PEOPLE, THINGS), ("car", 0.9), labels=("car", "dog")),
            ]
        )
    assert values(knows) == {"people": 0, "things": ()}
    assert statuses(does_not) == {"people": "unknown", "things": "unknown"}


async def test_a_boolean_about_an_object_is_answered_by_its_presence() -> None:
    is_there = Question("car", QuestionKind.BOOLEAN, "Is there a car?", object="cars")
    async with open_providers([]) as chain:
        outcomes = await chain.analyze(
            [
                with_detections(a_request(is_there), ("car", 0.9)),
                with_detections(a_request(is_there), labels=("car",)),
            ]
        )
    assert [values(one) for one in outcomes] == [{"car": True}, {"car": False}]


async def test_a_request_without_questions_is_no_request() -> None:
    async with open_providers([]) as chain:
        request = with_detections(a_request())
        [outcome] = await chain.analyze([type(request)(request.event_id, request.jpeg, ())])
    assert error(outcome).failure is Failure.BAD_REQUEST
