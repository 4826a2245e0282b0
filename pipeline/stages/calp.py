"""CALP (4.3): train SpecTran against the frozen language model, with equation 2; then retrieve held-out texts and blocks."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from calm import storage
from calm.data.batching import PairCollator, tokenise
from calm.data.examples import Examples
from calm.evaluation.retrieval import retrieval
from calm.inference.processing import CalmProcessor
from calm.models.language_model import load_language_model, load_tokenizer, text_vectors
from calm.models.modeling import CalmForContrastivePretraining, count
from calm.storage import write_parquet
from calm.training.trainer import train
from pipeline import factory, inputs, paths, stage
from pipeline.settings import Settings
from pipeline.tracking import tracker


def run(settings: Settings, name: str) -> str:
    """Train CALP for the model `name`; writes its weights and `metrics.json`."""
    settings, given = settings.for_model(name), settings.models[name]
    out, corpora = paths.calp(name), settings.pretraining_corpora(name)
    begin = time.monotonic()
    examples = factory.examples(settings, corpora)
    language_model = load_language_model(given.language_model, given.layers).to(factory.device())
    tokenizer = load_tokenizer(given.language_model)
    collator = pairs(settings, examples, language_model, tokenizer)
    torch.manual_seed(settings.seeds[0])
    model = contrastive(settings, language_model, corpora)
    folders = [paths.features(corpus) for corpus in corpora] + [paths.texts(corpus) for corpus in corpora]
    with (
        stage.checkpoints(f"calp@{name}", settings.seeds[0], given, settings.spectran, settings.calp, *folders) as checkpoints,
        tracker.stage_run(
            settings,
            name,
            {"calp": settings.calp, "spectran": settings.spectran, "model": given, "corpora": corpora},
            factory.synthetic(settings, corpora),
            settings.seeds[0],
        ) as tracked,
        stage.whole(out) as folder,
    ):
        rows, untrained, curve, retrieved = trainable(settings, examples), embedded(model, examples, collator), [], []
        if given.aligned:
            curve = train(
                model,
                rows,
                collator,
                factory.schedule(settings.calp),
                checkpoints,
                settings.seeds[0],
                held_out=examples.rows("validation"),
                callbacks=[tracked.callback()],
                title=f"CALP {name}",
            )
            retrieved = retrieve(model, examples, collator)
            write_parquet(space(examples, untrained, embedded(model, examples, collator)), folder / "space.parquet")
        metrics = {
            "language_model": given.language_model,
            "layers": language_model.config.num_hidden_layers,
            "text_vector": settings.calp.text_vector,
            "corpora": corpora,
            "synthetic": factory.synthetic(settings, corpora),
            "seed": settings.seeds[0],
            "seconds": time.monotonic() - begin,
            "device": str(factory.device()),
            "hours": factory.hours(settings, corpora),
            "flops": factory.flops(model, collator, rows, settings.calp) if given.aligned else 0.0,
            "parameters": {"spectran": count(model.spectran), "projections": count(model, model.spectran)},
            "curve": curve,
            "retrieval": retrieved,
            "mlflow_run": tracked.id,
        }
        save(model, folder)
        CalmProcessor(inputs.extractor(settings.spectran, corpora), tokenizer).save_pretrained(folder)
        storage.write_json(metrics, folder / "metrics.json")
        for row in retrieved:
            title = f"{row['corpus']} {row['split']} {row['pair']}"
            tracked.log({f"{title} {key}": value for key, value in row.items() if isinstance(value, int | float)})
        tracked.artifact(folder)
    if not retrieved:
        return f"{name}: {len(curve)} epochs of CALP in {metrics['seconds']:.0f} s, and no held-out utterance to retrieve"
    text = next((row for row in retrieved if row["pair"] == "audio to text" and row["split"] == "test"), retrieved[0])
    return (
        f"CALP {name}: {len(curve)} epochs in {metrics['seconds']:.0f} s; held-out {text['pair']} on {text['corpus']}: "
        f"{text['recall_at_10']:.1%} in the first 10 of {text['n']} (chance {text['chance_recall_at_10']:.1%})"
    )


def contrastive(settings: Settings, language_model, corpora: list[str]) -> CalmForContrastivePretraining:
    """An untrained model of the loss; it holds the language model only where that is trained along."""
    along = language_model if settings.calp.train_language_model else None
    return CalmForContrastivePretraining(factory.config(settings, language_model, corpora), along, settings.calp.text_vector)


def pairs(settings: Settings, examples: Examples, language_model, tokenizer) -> PairCollator:
    """Batches of pairs, with T_i computed once where the language model is frozen."""
    texts, augment = list(examples.table["text"]), factory.augmentation(settings.calp.augment)
    if settings.calp.train_language_model:
        return PairCollator(examples.logmels, texts, None, tokenise(tokenizer, texts), tuple(tokenizer.all_special_ids), augment)
    vectors = text_vectors(language_model, tokenizer, texts, settings.calp.text_vector)
    return PairCollator(examples.logmels, texts, vectors, augment=augment)


def trainable(settings: Settings, examples: Examples) -> np.ndarray:
    """Rows of the training split, without those of one block where the settings drop them."""
    rows = examples.rows("train")
    return rows[examples.logmels.blocks[rows] > 1] if settings.calp.short == "drop" else rows


def save(model: CalmForContrastivePretraining, folder: Path) -> None:
    """SpecTran and projections; a language model that was trained along lies beside them."""
    if model.language_model is not None:
        model.language_model.save_pretrained(folder / "language_model")
        model.language_model = None
    model.save_pretrained(folder)


@torch.inference_mode()
def retrieve(model: CalmForContrastivePretraining, examples: Examples, collator: PairCollator, most: int = 1000) -> list[dict]:
    """Rank the texts, and the neighbour blocks, of held-out utterances by their likeness to an utterance's audio."""
    model.eval()
    rows = []
    for corpus in examples.table["corpus"].unique():
        for split in ("validation", "test"):
            chosen = np.intersect1d(np.flatnonzero(examples.table["corpus"] == corpus), examples.rows(split))[:most]
            spoken = chosen[collator.has_text[chosen].numpy()]
            if len(spoken) > 1:
                audio = utterance_vectors(model, examples, spoken)
                texts = model.embed_text(text_inputs(model, collator, spoken))
                found = retrieval(audio, texts.cpu().numpy(), groups=collator.text_index[spoken].numpy())
                rows.append({"corpus": corpus, "split": split, "pair": "audio to text", **found})
            several = chosen[examples.logmels.blocks[chosen] > 1]
            if len(several) > 1:
                anchor, neighbour = (model.embed_audio(part.to(model.device)).cpu().numpy() for part in collator.pairs(several, None))
                rows.append({"corpus": corpus, "split": split, "pair": "audio to next block", **retrieval(anchor, neighbour)})
    return rows


@torch.inference_mode()
def embedded(model: CalmForContrastivePretraining, examples: Examples, collator: PairCollator, most: int = 400) -> pa.Table:
    """Vectors of held-out utterances in the shared space: row, audio and text (null where there is no text), each (projection,)."""
    model.eval()
    held_out = np.flatnonzero(examples.table["split"].isin(("validation", "test")))
    chosen = held_out[np.unique(np.linspace(0, len(held_out) - 1, min(most, len(held_out))).round().astype(int))]
    audio, texts = utterance_vectors(model, examples, chosen), model.embed_text(text_inputs(model, collator, chosen)).cpu().numpy()
    said = [text if has else None for text, has in zip(texts.astype(np.float16), collator.has_text[chosen].tolist(), strict=True)]
    half = pa.list_(pa.float16())
    return pa.table({"row": chosen, "audio": pa.array(list(audio.astype(np.float16)), half), "text": pa.array(said, half)})


def space(examples: Examples, before: pa.Table, after: pa.Table) -> pa.Table:
    """What CALP made of the shared space: id, corpus, split, and audio_before, text_before, audio_after, text_after."""
    about = examples.table[["id", "corpus", "split"]].iloc[before["row"].to_numpy()].reset_index(drop=True)
    table = pa.Table.from_pandas(about, preserve_index=False)
    for name, of in (("before", before), ("after", after)):
        for modality in ("audio", "text"):
            table = table.append_column(f"{modality}_{name}", of[modality])
    return table


def text_inputs(model: CalmForContrastivePretraining, collator: PairCollator, rows: np.ndarray) -> torch.Tensor:
    """T_i of the rows, from the language model where it was trained along."""
    if model.language_model is None:
        return collator.text_vectors[rows].to(model.device)
    from calm.models.language_model import pool_text

    batch = collator(rows)
    inputs = {key: batch[key].to(model.device) for key in ("input_ids", "attention_mask")}
    return pool_text(model.language_model, inputs, batch["words"].to(model.device), model.text_pooling)


def utterance_vectors(model: CalmForContrastivePretraining, examples: Examples, rows: np.ndarray) -> np.ndarray:
    """Mean of the normalised vectors of an utterance's blocks in the shared space, (rows, projection)."""
    vectors = []
    for row in rows:
        blocks = torch.from_numpy(examples.logmels.blocks_of(row)).to(model.device)
        vectors.append(torch.nn.functional.normalize(model.embed_audio(blocks), dim=-1).mean(0).cpu().numpy())
    return np.stack(vectors)


if __name__ == "__main__":
    stage.start(run, devices="calp", model=lambda settings: settings.models)
