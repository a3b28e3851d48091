"""That the teaching works, by a few steps of it. What it comes to is seen in the exam of the model that ships."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (MODELS=0)")

from tokenizers import Tokenizer  # noqa: E402

from providers.local.engine import Asked, open_engine  # noqa: E402
from providers.local.moondream2.config import MoondreamConfig  # noqa: E402
from providers.local.settings import ModelSettings  # noqa: E402
from tests.local.conftest import one_thread  # noqa: E402
from tests.world import teach  # noqa: E402
from tests.world.lessons import Thing, Truth  # noqa: E402
from tests.world.muon import Muon, orthogonal  # noqa: E402
from tests.world.patches import patches_of  # noqa: E402
from tests.world.pool import SIDE_PX, read_pool, write_pool  # noqa: E402
from tests.world.rows import NOTHING, SLOTS, stacked  # noqa: E402
from tests.world.stills import jpeg  # noqa: E402
from tests.world.varied import Varied, cropped  # noqa: E402

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    assert write_pool(folder, 77, 3, SIDE_PX) >= 8
    return folder


def a_training(pool: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: tuple[int, int]) -> teach.Training:
    monkeypatch.setattr(teach, "BATCH", 4)
    return teach.Training(pool, folder, steps)


async def test_it_learns_stops_goes_on_and_leaves_what_the_engine_loads(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = a_training(pool, tmp_path, monkeypatch, (2, 1))
    short.run()
    longer = a_training(pool, tmp_path, monkeypatch, (2, 4))
    assert longer.progress.steps == 3
    for name, one in short.pupil.state_dict().items():
        assert torch.equal(one, longer.pupil.state_dict()[name]), name
    longer.run()
    assert longer.progress.steps == 6
    pictures, _ = read_pool(pool, SIDE_PX)
    async with open_engine(ModelSettings(folder=tmp_path, precision="f32", threads=1)) as engine:
        picture = jpeg(np.ascontiguousarray(pictures[0][..., ::-1]), 90)
        chosen = await engine.choose(picture, "Is there a person?", {"yes": ("yes",), "no": ("no",)}, Asked())
        assert sum(chosen.probabilities.values()) == pytest.approx(1)
        await engine.detect(picture, "person", 3, Asked(max_tokens=8))


def test_layers_that_are_added_to_a_checkpoint_change_nothing_at_first(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = teach.tiny_config

    def shallow(tokenizer: Tokenizer) -> MoondreamConfig:
        config = deep(tokenizer)
        return config.model_copy(update={"vision": config.vision.model_copy(update={"enc_n_layers": 4})})

    monkeypatch.setattr(teach, "tiny_config", shallow)
    before = a_training(pool, tmp_path, monkeypatch, (1, 1))
    before.run()
    monkeypatch.setattr(teach, "tiny_config", deep)
    after = a_training(pool, tmp_path, monkeypatch, (1, 2))
    assert len(after.pupil.model.vision.blocks) == 6
    pictures, _ = read_pool(pool, SIDE_PX)
    two = np.array(pictures[:2])
    with torch.no_grad():
        torch.testing.assert_close(after.pupil.features(two), before.pupil.features(two))
    after.run()
    assert after.progress.steps == 3


def test_a_loss_of_each_kind_falls(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teach, "WARM_UP_STEPS", 1)
    training = a_training(pool, tmp_path, monkeypatch, (0, 100))
    losses = [training._step(batch) for batch in islice(training._batches(), 8)]
    for name in ("patches", "words", "coords", "sizes"):
        assert np.mean([one[name] for one in losses[-2:]]) < np.mean([one[name] for one in losses[:2]]), name


def test_what_shows_something_is_seen_first(pool: Path) -> None:
    _, truths = read_pool(pool, SIDE_PX)
    told = patches_of(truths, 12)
    seen = told.some(80, np.random.default_rng(0))
    assert all(len(set(row)) == 80 for row in seen.tolist())
    shown = told.covers.reshape(len(truths), 144, -1).max(-1) > 0
    for row, has_something in zip(seen, shown, strict=True):
        assert has_something[row].sum() == min(80, has_something.sum())
    kept = told.at(seen)
    for picture, row in enumerate(seen):
        for place, patch in enumerate(row):
            assert (kept.centres[picture, place] == told.centres[picture, patch // 12, patch % 12]).all()
            assert kept.colours[picture, place] == told.colours[picture, patch // 12, patch % 12]


def test_a_part_of_a_picture_shows_what_is_left_of_its_truth(pool: Path) -> None:
    _, truths = read_pool(pool, SIDE_PX)
    truth = max(truths, key=lambda one: len(one.of("person")))
    assert cropped(truth, (0, 0, 1, 1)) == truth
    half = cropped(truth, (0, 0, 0.5, 1))
    left = [one for one in truth.of("person") if one.box[2] <= 0.5]
    assert len(left) <= len(half.of("person")) < len(truth.of("person"))
    assert half.formation == ""
    for one in left:
        assert any(kept.box == (2 * one.box[0], one.box[1], 2 * one.box[2], one.box[3]) for kept in half.things)


def test_what_is_cut_off_by_half_is_not_asked_about(pool: Path) -> None:
    thing = Thing("person", (0.4, 0.2, 0.6, 0.8), "red", "standing")
    truth = Truth("yard", 1.0, "", (thing,), ())
    assert cropped(truth, (0.45, 0, 1, 1)).of("person")[0].box == pytest.approx((0, 0.2, 3 / 11, 0.8))
    assert cropped(truth, (0.55, 0, 1, 1)) == Truth("yard", 1.0, "", (), ("person",))
    assert cropped(truth, (0.59, 0, 1, 1)) == Truth("yard", 1.0, "", (), ())


def test_boxes_stay_where_their_pixels_are(pool: Path) -> None:
    """A white square on black, enlarged: its box holds it still."""
    rng = np.random.default_rng(3)
    varied = Varied(SIDE_PX, rng)
    for _ in range(20):
        picture = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
        picture[60:100, 70:90] = 255
        box = (70 / SIDE_PX, 60 / SIDE_PX, 90 / SIDE_PX, 100 / SIDE_PX)
        truth = Truth("yard", 1.0, "", (Thing("person", box, "red", "standing"),), ())
        shown, told = varied(picture, truth)
        rows, columns = np.nonzero(shown.mean(axis=2) > 127)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        [thing] = told.things
        assert np.array(thing.box) * SIDE_PX == pytest.approx(found, abs=1.6)


def test_questions_share_a_row_without_seeing_each_other(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = a_training(pool, tmp_path, monkeypatch, (1, 1))
    _, truths = read_pool(pool, SIDE_PX)
    rows = [training._teacher.row(truth) for truth in truths]
    prefix = training.config.prefix_len
    told = stacked(rows, prefix)
    assert told.question.shape[1] <= SLOTS
    for row, questions in zip(told.question, rows, strict=True):
        assert len(questions) >= 3
        assert [int((row == number).sum()) for number in range(len(questions))] == [len(one) for one in questions]
    for row, positions in zip(told.question, told.positions, strict=True):
        for number in range(row.max() + 1):
            assert positions[row == number].tolist() == list(range(prefix, prefix + int((row == number).sum())))
    assert (told.says[told.question == NOTHING] == NOTHING).all()
    assert ((told.coords == NOTHING) | ((told.coords >= 0) & (told.coords <= 1))).all()


def test_attention_of_whole_rows_is_that_of_each_question_alone() -> None:
    torch.manual_seed(0)
    prefix, question = 5, torch.tensor([[0, 0, 0, 1, 1, NOTHING]])
    q, k, v = (torch.randn(1, 2, prefix + 6, 8) for _ in range(3))
    together = teach._Seen(question, prefix)(0, q, k, v)
    for slots in ([5, 6, 7], [8, 9]):
        own = [*range(prefix), *slots]
        mask = torch.ones(len(own), len(own), dtype=torch.bool).tril()
        mask[:, :prefix] = True
        mask[:prefix, prefix:] = False
        alone = torch.nn.functional.scaled_dot_product_attention(q[:, :, own], k[:, :, own], v[:, :, own], mask)
        assert torch.allclose(alone, together[:, :, own], atol=1e-5)


def test_muon_s_updates_are_about_as_long_in_every_direction() -> None:
    torch.manual_seed(0)
    for shape in ((1, 32, 96), (3, 64, 32)):
        lengths = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert float(lengths.min()) > 0.5
        assert float(lengths.max()) < 1.5


def test_muon_finds_a_matrix() -> None:
    torch.manual_seed(0)
    wanted, found = torch.randn(24, 8), torch.nn.Parameter(torch.zeros(24, 8))
    optimizer = Muon([{"params": [found], "parts": 3}], lr=0.3, weight_decay=0.0)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 60)
        loss = ((found - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
