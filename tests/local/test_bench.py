"""The measurements themselves are seen when they are made; here, that they can be."""

import re

import pytest

pytest.importorskip("torch", reason="torch is not installed (MODELS=0)")

from daemon.bench import gpu

SMALL = {
    "text": {"dim": 64, "ff_dim": 128, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "vocab_size": 512},
    "vision": {"enc_dim": 36, "enc_n_layers": 2, "enc_ff_dim": 64, "enc_n_heads": 4, "proj_out_dim": 64},
    "region": {"dim": 64, "inner_dim": 64},
}


@pytest.mark.filterwarnings("default")
def test_every_stage_is_in_the_table_with_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "STEPS", 2)
    told = gpu.measured(SMALL, [1, 2], 128).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told if line.startswith("| ")][1:]
    assert [row[:2] for row in rows] == [
        ["picture of one crop, with its prefix", "1"],
        ["picture of one crop, with its prefix", "2"],
        ["step of decoding", "1"],
        ["step of decoding", "2"],
    ]
    for row in rows:
        assert float(row[2]) > 0
        assert re.fullmatch(r"\d+%", row[5])
        assert bool(row[6]) is row[0].startswith("step")
