"""Writes the computed tables of `docs/scale.md`, from what `calm plan` counts.

Run `python -m pipeline.planning.scale` after a change of the models or of recipes/paper.yaml, and put the tables in the page.
"""

from pathlib import Path

from pipeline import settings
from pipeline.planning.plan import FLOAT16, duration, whisper_flops
from pipeline.planning.sizes import Size, size
from pipeline.planning.trainings import Shapes, Training, trainings
from pipeline.settings import Settings

RECIPE = Path(__file__).parents[2] / "recipes/paper.yaml"
ENCODER = {"encoder": "whisper-tiny.en", "layers": [2]}
STATES = {"frames": "encoder", "block": 25, "hop": 15, "patch": [5, 48], "stride": [5, 48]}  # half a second, as with log-mel
FLOPS = {  # a second
    "2 cores": 113e9,  # a float32 product of 2048 x 2048 by `calm plan`, two cores of an AMD EPYC
    "one H100": 989e12,  # bfloat16, dense, SXM (NVIDIA's data sheet)
    "8 V100": 8 * 125e12,  # float16, tensor cores (NVIDIA's data sheet)
}
HOURS = (1_000, 100_000, 10_000_000)
SECONDS = 8  # of an utterance


def paper(encoder: bool = False) -> tuple[Settings, dict[str, Size], list[Training]]:
    """The paper's recipe, the published sizes of its corpora, and its trainings, on log-mel or on an encoder's states."""
    loaded = settings.load(RECIPE)
    if encoder:
        values = loaded.model_dump(mode="json")
        models = {name: model | {"spectran": {}} for name, model in values["models"].items() if "x" not in name}
        heads = {name: entry for name, entry in values["heads"].items() if entry["model"] in models}
        spectran = values["spectran"] | STATES
        for entry in heads.values():
            entry["rows"] = {name: _given(row) for name, row in entry["rows"].items()}
        changes = {"features": values["features"] | ENCODER, "spectran": spectran, "models": models, "heads": heads}
        loaded = Settings.model_validate(values | changes)
    sizes = {name: size(loaded, name) for name in loaded.corpora}
    return loaded, sizes, trainings(loaded, sizes)


def _given(row: dict) -> dict:
    """A row without what networks for comparison must not set."""
    return {"network": row["network"]} if row["network"] != "calm" else row


def corpora() -> str:
    """Bytes of what is kept of each corpus."""
    loaded, sizes, _ = paper()
    rows = []
    for name, found in sizes.items():
        tiny = Shapes(loaded, f"{name}-tiny", [found])
        blocks = tiny.blocks * found.utterances
        log_mel = found.seconds / tiny.hop_seconds * tiny.channels * FLOAT16
        states = found.seconds * 50 * 384 * FLOAT16
        widths = [blocks * Shapes(loaded, f"{name}-{lm}", [found]).text.hidden_size * FLOAT16 for lm in ("tiny", "base")]
        numbers = [found.utterances, f"{found.hours:.1f}", f"{found.mean:.1f}", tiny.blocks, tiny.tokens]
        rows.append([name, *numbers, *(f"{value / 1e9:.2f}" for value in (log_mel, states, *widths))])
    columns = ["corpus", "utterances", "hours", "seconds each", "blocks each", "tokens each", "log-mel, GB", "states of a layer, GB"]
    return _table([*columns, "blocks TINY, GB", "blocks BASE, GB"], rows)


def stages() -> str:
    """Operations of each stage of one model: its pretraining and the heads of its own entry."""
    rows = []
    for encoder, frames in ((False, "log-mel"), (True, "states")):
        loaded, sizes, found = paper(encoder)
        for corpus in sizes:
            for lm in ("tiny", "base"):
                name = f"{corpus}-{lm}"
                calp, pretrain = (_one(found, stage, name) for stage in ("calp", "pretrain"))
                shapes = Shapes(loaded, name, [sizes[corpus]])
                embed = calp.row_flops / 6 * shapes.blocks * sizes[corpus].utterances
                heads = [training for training in found if training.stage == "head" and training.name.startswith(f"{name}: ")]
                calm = next(training for training in heads if training.name.endswith("calm, both"))
                numbers = [calp.flops, embed, pretrain.flops, calm.flops / calm.runs, sum(training.flops for training in heads)]
                spectran = sum(weight.numel() for weight in calp.build(1)[0].spectran.parameters()) / 1e6
                count = sum(training.runs for training in heads)
                rows.append([f"{corpus} {lm.upper()}", frames, f"{spectran:.2f}", *(f"{n / 1e12:,.0f}" for n in numbers), count])
    columns = ["", "frames", "SpecTran, million", "CALP", "embed", "pretrain", "one head", "all heads of the entry", "heads"]
    return _table(columns, rows)


def _one(found: list[Training], stage: str, name: str) -> Training:
    return next(training for training in found if training.stage == stage and training.name == name)


def floors() -> str:
    """Least time of the whole recipe at a device's peak."""
    loaded, sizes, found = paper()
    parts = {}
    for lm in ("tiny", "base"):
        own = [training for training in found if lm in training.name.partition(":")[0]]
        parts[f"CALP, {lm.upper()}"] = sum(training.flops for training in own if training.stage == "calp")
        parts[f"masked pretraining, {lm.upper()}"] = sum(training.flops for training in own if training.stage == "pretrain")
        parts[f"heads, {lm.upper()}"] = sum(training.flops for training in own if training.stage == "head")
    parts["Whisper large-v3 on MSP-Podcast, 5 beams"] = sum(whisper_flops(loaded, found) for found in sizes.values() if found.without_text)
    parts["all"] = sum(parts.values())
    rows = [[name, f"{flops / 1e15:,.1f}", *(duration(flops / peak) for peak in FLOPS.values())] for name, flops in parts.items()]
    return _table(["part", "PFLOP", *FLOPS], rows)


def hours() -> str:
    """Bytes and operations by hours of speech in utterances of 8 s, for the recipe's BASE model."""
    loaded, _, _ = paper()
    rows: dict[str, list[str]] = {}
    for hours in HOURS:
        utterances = hours * 3600 // SECONDS
        made = Size(utterances, utterances, SECONDS * utterances, 0, 0, "made")
        shapes = Shapes(loaded, "mosei-base", [made])
        found = trainings(loaded, dict.fromkeys(loaded.corpora, made))
        calp, pretrain = (_one(found, stage, "mosei-base") for stage in ("calp", "pretrain"))
        embed = calp.row_flops / 6 * shapes.blocks * utterances
        flops = calp.flops + pretrain.flops + embed
        values = {
            "utterances": f"{utterances:,}",
            "log-mel in float16, TB": f"{hours * 360_000 * 64 * FLOAT16 / 1e12:,.2f}",
            "encoded blocks of BASE, TB": f"{utterances * shapes.blocks * 768 * FLOAT16 / 1e12:,.2f}",
            "shards of 512 utterances": f"{-(-utterances // 512):,}",
            "an epoch of CALP, PFLOP": f"{calp.flops / calp.epochs / 1e15:,.1f}",
            "an epoch of masked pretraining, PFLOP": f"{pretrain.flops / pretrain.epochs / 1e15:,.1f}",
            "one pass of embed, PFLOP": f"{embed / 1e15:,.1f}",
            "all pretraining (50 and 20 epochs), one H100 at its peak": duration(flops / FLOPS["one H100"]),
        }
        for name, value in values.items():
            rows.setdefault(name, [name]).append(value)
    return _table(["", *(f"{hours:,} hours" for hours in HOURS)], list(rows.values()))


def _table(columns: list[str], rows: list[list]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    print("\n\n".join(table() for table in (corpora, stages, floors, hours)))
