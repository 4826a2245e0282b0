"""`python -m benchmarks`: what its rows say, that the peers compute the same, and every row once with small sizes."""

import json

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import measuring, stages, training_rows
from benchmarks.measuring import Options, Result
from calm.models.configuration import CalmConfig
from calm.models.spectran import SpecTran


def test_aims_are_reached_from_below_or_above():
    assert Result("a", "", "", 5.0, 5.0).met and not Result("a", "", "", 4.9, 5.0).met
    assert Result("a", "", "", 1.0, 1.05, most=True).met and not Result("a", "", "", 1.06, 1.05, most=True).met
    assert Result("a", "", "", 1.0).met is None


def test_the_table_says_what_is_below_its_aim():
    lines = command.markdown([Result("a", "1 s", "3 s", 3, 5), Result("b", "1", "2", 1.2, 1.05, "", True), Result("c", "1", "2", 2)])
    assert [line.split(" | ")[4] for line in lines.splitlines()[2:]] == ["at least 5: NO", "at most 1.05: NO", "none"]


def test_the_ratio_is_how_much_longer_the_other_takes(tmp_path, monkeypatch):
    """By a clock of CPU time that the calls themselves move on; of three turns the first, a warm-up, is not counted."""
    spent, ours = [0.0], iter([9.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(measuring.time, "process_time", lambda: spent[0])
    calls = {"ours": lambda: spent.append(spent.pop() + next(ours)), "theirs": lambda: spent.append(spent.pop() + 6)}
    (result,) = measuring.compared("clock", calls, Options(True, 3, tmp_path), 2.0)
    assert (result.number, result.ours, result.other, result.met) == (3, "ours: 2 s", "theirs: 6 s", True)


def test_exponents():
    """3 s x size^1.5."""
    assert stages.exponent([1, 4, 16], [3, 24, 192]) == pytest.approx(1.5)
    assert stages.exponent([20, 80, 320], [7, 7, 7]) == pytest.approx(0)


def test_the_peer_of_spectran_computes_the_same():
    """With the same weights, and without positions, as it counts its patches in another order."""
    config = CalmConfig(training_rows.TEXT)
    ours, theirs = SpecTran(config).eval(), training_rows.Unfolded(config).eval()
    state = {"patches.weight": ours.patches.convolution.weight.flatten(1), "patches.bias": ours.patches.convolution.bias}
    names = {"self_attn.in_proj": "qkv", "self_attn.out_proj": "output", "linear1": "expand", "linear2": "contract"}
    names |= {"norm1": "norm_attention", "norm2": "norm_mlp"}
    for layer in range(config.spectran_layers):
        for their_name, our_name in names.items():
            for part in ("weight", "bias"):
                joint = "_" if their_name.endswith("in_proj") else "."
                state[f"layers.layers.{layer}.{their_name}{joint}{part}"] = getattr(ours.layers[layer].get_submodule(our_name), part)
    torch.nn.init.normal_(ours.cls)
    torch.nn.init.zeros_(ours.positions)
    theirs.load_state_dict(state | {"cls": ours.cls, "positions": ours.positions})
    blocks = torch.randn(3, 50, 64)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(blocks), ours.encode(blocks), atol=1e-4, rtol=1e-4)


@pytest.mark.timeout(290)
@pytest.mark.parametrize("row", command.ROWS)
def test_every_one_is_measured(row, tmp_path, monkeypatch):
    if row not in ("asr", "start"):  # these hear packaged models, on real speech where it is
        monkeypatch.delenv("CALM_CORPORA", raising=False)
    before = torch.get_num_threads()
    try:
        results = command.main(["--quick", "--only", row, "--out", str(tmp_path / "out.json")])
    finally:
        torch.set_num_threads(before)
        measuring.speech.cache_clear()
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["rows"]) == len(results) > 0 and written["product"] > 1e9
    assert all(np.isfinite(own["number"]) for own in written["rows"])
    assert row != "asr" or all("WER" in own.note for own in results)
