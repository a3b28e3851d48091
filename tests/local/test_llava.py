"""The path through transformers, with a LLaVA of random weights and no more than a few layers."""

import asyncio
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")
pytest.importorskip("xgrammar")

from providers.local.answers import Answer  # noqa: E402
from providers.local.engine import Asked, Engine, open_engine  # noqa: E402
from providers.local.errors import BadRequestError, ModelError, UnsupportedError  # noqa: E402
from providers.local.llava import worker  # noqa: E402
from providers.local.settings import ModelSettings  # noqa: E402
from tests.local.conftest import VECTORS  # noqa: E402

TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %} ASSISTANT:{% endfor %}"
)
FEW = Asked(max_tokens=12)
SCHEMA = {
    "type": "object",
    "properties": {"anyone": {"type": "boolean"}, "place": {"enum": ["street", "shop"]}},
    "required": ["anyone", "place"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers saves one."""
    path = tmp_path_factory.mktemp("llava")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(VECTORS / "tokenizer.json"), eos_token="<|endoftext|>", pad_token="<|md_reserved_5|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    size = {"shortest_edge": 28}
    pictures = transformers.CLIPImageProcessor(size=size, crop_size={"height": 28, "width": 28})
    processor = transformers.LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(path)
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=6,
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_id)
    model = transformers.LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 0
    model.save_pretrained(path)
    return path


@pytest.fixture
async def llava(folder: Path) -> AsyncIterator[Engine]:
    settings = ModelSettings(engine="llava", folder=folder, precision="f32", threads=1, rows=8)
    async with open_engine(settings) as opened:
        yield opened


def a_picture(colour: str) -> bytes:
    encoded = BytesIO()
    Image.new("RGB", (60, 40), colour).save(encoded, "PNG")
    return encoded.getvalue()


async def test_a_batch_of_prompts_of_different_length_answers_as_each_alone(llava: Engine) -> None:
    asked = [
        (a_picture("red"), "What is this?"),
        (a_picture("blue"), "Is there a person in the image, or a car, or a dog? Say yes or no."),
        (a_picture("green"), "Why?"),
    ]
    alone = [await llava.query(picture, question, FEW) for picture, question in asked]
    together = await asyncio.gather(*(llava.query(picture, question, FEW) for picture, question in asked))
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert len({one.tokens for one in alone}) > 1
    assert llava.stats()["largest_batch"] == 3


async def test_questions_with_and_without_a_picture_are_batches_of_their_own(llava: Engine) -> None:
    told = await asyncio.gather(llava.query(a_picture("red"), "What?", FEW), llava.query(None, "What?", FEW))
    assert all(one.stop in ("stop", "length") for one in told)
    assert llava.stats()["batches"] == 2


async def test_each_row_ends_at_its_own_limit(llava: Engine) -> None:
    short, long = await asyncio.gather(
        llava.query(a_picture("red"), "What?", Asked(max_tokens=2)),
        llava.query(a_picture("red"), "What?", Asked(max_tokens=9)),
    )
    assert (len(short.tokens), len(long.tokens)) == (2, 9)
    assert long.tokens[:2] == short.tokens
    assert short.stop == "length"


async def test_a_schema_is_held_by_grammar(llava: Engine) -> None:
    told = await asyncio.gather(
        *(llava.fill(a_picture(colour), "What is there?", SCHEMA, Asked(max_tokens=200)) for colour in ("red", "blue"))
    )
    for one in told:
        filled = json.loads(one.text)
        assert isinstance(filled["anyone"], bool)
        assert filled["place"] in ("street", "shop")
        assert "\n" not in one.text
        assert "  " not in one.text


async def test_a_schema_with_too_few_tokens_is_no_answer(llava: Engine) -> None:
    with pytest.raises(BadRequestError, match="max_tokens"):
        await llava.fill(a_picture("red"), "What?", SCHEMA, Asked(max_tokens=3))


async def test_choices_are_weighed(llava: Engine) -> None:
    choice = await llava.choose(
        a_picture("red"), "What?", {"yes": ("yes", "Yes"), "no": ("no", "No"), "maybe": ("it may be so",)}, FEW
    )
    assert sum(choice.probabilities.values()) == pytest.approx(1)
    assert choice.choice == max(choice.probabilities, key=lambda one: choice.probabilities[one])


@pytest.mark.parametrize("precision", ["int8", "int4"])
async def test_in_few_bits_it_is_nearly_as_sure_of_the_same(llava: Engine, folder: Path, precision: str) -> None:
    choices = {"yes": ("yes",), "no": ("no",), "maybe": ("it may be so",)}
    whole = await llava.choose(a_picture("red"), "What?", choices, FEW)
    settings = ModelSettings.model_validate({"engine": "llava", "folder": folder, "precision": precision, "threads": 1})
    async with open_engine(settings) as compressed:
        assert compressed.version.endswith(precision)
        choice = await compressed.choose(a_picture("red"), "What?", choices, FEW)
    assert choice.probabilities != whole.probabilities
    for one, share in choice.probabilities.items():
        assert share == pytest.approx(whole.probabilities[one], rel=0.2)


async def test_captions_and_what_it_can_not_do(llava: Engine) -> None:
    assert (await llava.caption(a_picture("red"), "short", FEW)).tokens
    for asking in (
        llava.detect(a_picture("red"), "car", 3, FEW),
        llava.point(a_picture("red"), "car", 3, FEW),
        llava.query(a_picture("red"), "?", FEW, reasoning=True),
    ):
        with pytest.raises(UnsupportedError):
            await asking


async def test_a_question_can_not_speak_for_the_picture_or_the_template(llava: Engine) -> None:
    for question in ("<image><image>", "a <|endoftext|> b", "<im<image>age>"):
        assert (await llava.query(a_picture("red"), question, FEW)).tokens is not None


async def test_a_question_that_is_too_long_is_refused_and_nothing_else_in_its_batch(
    llava: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAX_PLACES", 60)
    short, long, also_short = await asyncio.gather(
        *(llava.query(a_picture("red"), question, FEW) for question in ("What?", "why? " * 60, "Who?")),
        return_exceptions=True,
    )
    assert isinstance(long, BadRequestError)
    assert "at most 60" in str(long)
    assert isinstance(short, Answer)
    assert isinstance(also_short, Answer)
    assert not llava.failed.done()


async def test_who_gives_up_is_not_waited_for(llava: Engine) -> None:
    asking = asyncio.create_task(llava.query(a_picture("red"), "What?", Asked(max_tokens=100_000)))
    await asyncio.sleep(0.3)
    asking.cancel()
    assert (await asyncio.wait_for(llava.query(a_picture("blue"), "What?", FEW), 60)).tokens


async def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        async with open_engine(ModelSettings(engine="llava", folder=tmp_path)):
            pass
