"""Pictures on their way through the encoder and the decoder."""

from collections.abc import Callable

import torch
from torch import Tensor

from providers.local.moondream2.cache import Prefix, PrefixPass
from providers.local.moondream2.crops import Crops
from providers.local.moondream2.vectors.comparison import Comparison
from providers.local.moondream2.vectors.folder import Vectors, interleaved


def trace(vectors: Vectors, step: Comparison) -> None:
    """The fourth picture's first part, and its prefix."""
    vision, text = vectors.model.vision, vectors.model.text
    name = vectors.index["images"][3]["name"]
    patches, slots = [0, 1, 2, 3, 364, 728], [0, 1, 2, 365, 729]
    seen: dict[str, Tensor] = {}
    hooks = [vision.patch_emb.register_forward_hook(_into(seen, "patch_emb"))]
    for index in (0, 13, 26):
        hooks.append(vision.blocks[index].register_forward_hook(_into(seen, f"vision_block{index:02}_out")))
    hooks.append(vision.blocks[0].attn.proj.register_forward_hook(_into(seen, "vision_block00_attn")))
    hooks.append(vision.post_ln.register_forward_hook(_into(seen, "vision_post_ln")))
    for index, block in enumerate(text.blocks):
        hooks.append(block.attn.proj.register_forward_hook(_into(seen, f"text_block{index}_attn")))
        hooks.append(block.mlp.register_forward_hook(_into(seen, f"text_block{index}_mlp")))
    try:
        pixels = torch.from_numpy(vectors.crops[name].pixels).to(vectors.model.device)
        seen["patches"] = vision.normalised(pixels, torch.float32)
        x, prefix = _prefixed(vectors, vectors.crops[name])[::2]
    finally:
        for hook in hooks:
            hook.remove()
    seen["patch_plus_pos"] = seen["patch_emb"] + vision.pos_emb
    for what, kept in seen.items():
        if not what.startswith("text"):
            vectors.close(step, f"trace.{what}_crop1", kept[1, patches], "trace")
    vectors.close(step, "trace.text_inputs", x[0, slots], "trace")
    for index in range(len(text.blocks)):
        x = x + seen[f"text_block{index}_attn"] + seen[f"text_block{index}_mlp"]
        vectors.close(step, f"trace.text_block{index}_attn", seen[f"text_block{index}_attn"][0, slots], "trace")
        vectors.close(step, f"trace.text_block{index}_mlp", seen[f"text_block{index}_mlp"][0, slots], "trace")
        vectors.close(step, f"trace.text_block{index}_out", x[0, slots], "trace")
        keys = interleaved(prefix.keys[index][:, slots], vectors.model.rotary.shape[1])
        vectors.close(step, f"trace.text_block{index}_k_cache", keys, "trace")
        vectors.close(step, f"trace.text_block{index}_v_cache", prefix.values[index][:, slots], "trace")


def _prefixed(vectors: Vectors, crops: Crops) -> tuple[Tensor, Tensor, Prefix]:
    """The slots of a picture, what the decoder makes of them, and what it keeps."""
    model = vectors.model
    embeddings = model.vision([crops])
    bos = model.text.embed(torch.tensor([[vectors.config.tokenizer.bos_id]], device=model.device))
    x = torch.cat([bos, embeddings], dim=1)
    attend = PrefixPass()
    hidden = model.text(x, model.rotary[None, : x.shape[1]], attend)
    [prefix] = attend.prefixes()
    return x, hidden, prefix


def vision(vectors: Vectors, step: Comparison) -> None:
    vision = vectors.model.vision
    for name, crops in vectors.crops.items():
        features = vision.features(crops.pixels)
        joined = vision.joined(crops, features)
        x, hidden, _ = _prefixed(vectors, crops)
        ours = {
            "vision_global": (features[0], "vision"),
            "vision_local_first": (features[0 if crops.is_whole else 1], "vision"),
            "vision_local_last": (features[-1], "vision"),
            "vision_pooled": (joined[:, joined.shape[1] // 2 :], "vision"),
            "image_embeds": (x[0, 1:], "image_embeds"),
            "prefill_hidden": (hidden[0], "prefill_hidden"),
            "prefill_last_logits": (vectors.model.text.logits(hidden[0, -1]), "token_logits"),
        }
        for what, (found, tolerance) in ours.items():
            vectors.close(step, f"img.{name}.{what}", found, tolerance)


def _into(kept: dict[str, Tensor], name: str) -> Callable[[object, object, Tensor], None]:
    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        kept[name] = output

    return keep
