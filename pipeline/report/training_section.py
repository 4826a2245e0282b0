"""The page's sections "Training" and "Retrieval after CALP": sentences, curves and recall; and the MLflow runs behind its numbers."""

from pathlib import Path

from pipeline.paper import CALM
from pipeline.report import figures
from pipeline.report.figure_style import picture
from pipeline.report.result_tables import Key, names
from pipeline.report.stage_outputs import StageOutputs
from pipeline.report.table import Table, group_starts
from pipeline.report.wording import MISSING, audio_hours, counted, duration, listed
from pipeline.settings import Settings


def training_section(settings: Settings, outputs: StageOutputs, folder: Path) -> dict | None:
    """Sentences and curves of all training; None where nothing was trained."""
    if not (outputs.calp or outputs.pretrained or outputs.heads):
        return None
    pictures = []
    for name, metrics in outputs.calp.items():
        if metrics["curve"]:  # a model that CALP does not align has none
            figure = figures.losses(metrics["curve"], {"": {"training": "loss", "validation": "validation_loss"}})
            pictures.append(picture(f"CALP, {name}: loss of equation 2", figure, f"{name}-calp", folder))
    for name, metrics in outputs.pretrained.items():
        panels = {"masked words": {"words": "mlm"}, "masked audio": {"all masked blocks": "mam", "middle blocks": "mam_middle"}}
        figure = figures.losses(metrics["curve"], panels)
        pictures.append(picture(f"Pretraining, {name}: held-out losses", figure, f"{name}-pretraining", folder))
    for name, curves in outputs.heads.items():
        heads = settings.heads[name]
        title = f"Heads on {heads.corpus}, {heads.model}: validation loss{over(curves)}"
        pictures.append(picture(title, figures.heads(curves), f"{heads.corpus}-{heads.model}-heads", folder))
    return {"sentences": training_sentences(settings, outputs), "pictures": pictures}


def over(curves: list[dict]) -> str:
    """What the curves of heads are means over, in words; "" for one of each."""
    kinds = [f"{kind}s" for kind in ("seed", "fold") if len({curve.get(kind) for curve in curves}) > 1]
    return f", mean and range of {listed(kinds)}" if kinds else ""


def training_sentences(settings: Settings, outputs: StageOutputs) -> list[str]:
    """What was trained on what, and for how long on which device where that was measured."""
    without = [name for name in settings.models if not settings.pretraining_corpora(name)]
    sentences = [f"Model {name} is not pretrained, by its settings (pretrain_on: none)." for name in without]
    for name, metrics in outputs.calp.items():
        if not metrics["curve"]:
            sentences.append(f"CALP, {name}: not trained, by its settings.")
            continue
        data = f"{audio_hours(metrics.get('hours', 0))} of {listed(metrics['corpora'])}"
        time = _time(outputs.measured.get(f"calp@{name}", {}), with_device=True)
        sentences.append(f"CALP, {name}: {counted(len(metrics['curve']), 'epoch')} on {data}{time}.")
    for name, metrics in outputs.pretrained.items():
        cut = metrics.get("cut", {}).get("utterances")
        truncated = f"{counted(cut, 'utterance')} {'was' if cut == 1 else 'were'} truncated." if cut else "No utterance was truncated."
        losses, time = metrics["validation"], _time(outputs.measured.get(f"pretrain@{name}", {}))
        sentences.append(
            f"Masked words and masked audio, {name}: {counted(len(metrics['curve']), 'epoch')}{time}; "
            f"held-out losses: words {_loss(losses, 'mlm')}, audio {_loss(losses, 'mam')}, "
            f"its middle blocks {_loss(losses, 'mam_middle')}. {truncated}"
        )
    for name, curves in outputs.heads.items():
        runs = outputs.measured.get(f"head@{name}", {}).get("heads", [])
        seconds = sum(run["seconds"] for run in runs)
        time = f"; their runs add up to {duration(seconds)}, several at once" if runs else ""
        sentences.append(f"Heads on {settings.heads[name].corpus}, {settings.heads[name].model}: {len(curves)}{time}.")
    return sentences


def _time(measured: dict, with_device: bool = False) -> str:
    if measured.get("seconds") is None:
        return ""
    return f" in {duration(measured['seconds'])}" + (f" ({measured['device']})" if with_device and measured.get("device") else "")


def _loss(losses: dict, name: str) -> str:
    return MISSING if losses.get(name) is None else f"{losses[name]:.3g}"


def retrieval_section(settings: Settings, outputs: StageOutputs, folder: Path) -> dict | None:
    """Retrieval of every model; None where there is none."""
    rows = [{"model": name, **row} for name, metrics in outputs.calp.items() for row in metrics["retrieval"]]
    if not rows:
        return None
    rows.sort(key=lambda row: (row["pair"] != "audio to text", row["model"], row["corpus"], row["split"]))
    table, shown = retrieval_table(rows), main_models(settings, names(rows, "model"))
    rows = [row for row in rows if row["model"] in shown]
    figure = figures.retrieval([row for row in rows if row["split"] == "test"] or rows)
    probes = probe_table([{"model": name, **row} for name, metrics in outputs.calp.items() for row in metrics.get("probes", [])])
    pictures = [picture("Test split", figure, "retrieval", folder)]
    return {"sentences": retrieval_sentences(rows), "table": table, "probes": probes, "pictures": pictures}


def main_models(settings: Settings, models: list[str]) -> list[str]:
    """Models for a figure: all, or, of more than four, those whose heads fill the row CALM."""
    chosen = {heads.model for heads in settings.heads.values() if CALM.name in heads.rows}
    return [name for name in models if len(models) <= 4 or name in chosen] or models


def retrieval_table(rows: list[dict]) -> Table:
    """Recall of the right text, or of the next block, beside what chance gives. `rows` have a `model` each."""
    several_models = len({row["model"] for row in rows}) > 1
    columns = ["pair", *(["model"] if several_models else []), "corpus", "split", "n"]
    columns += [name for rank in (1, 5, 10) for name in (f"recall at {rank}", f"chance at {rank}")]
    columns += ["median rank", "chance rank"]
    cells = [
        [row["pair"], *([row["model"]] if several_models else []), row["corpus"], row["split"], str(row["n"])]
        + [f"{100 * row[f'{kind}recall_at_{rank}']:.1f}" for rank in (1, 5, 10) for kind in ("", "chance_")]
        + [f"{row['median_rank']:.1f}", f"{row['chance_median_rank']:.1f}"]
        for row in rows
    ]
    rules = group_starts([row["pair"] for row in rows])
    title, note = "Retrieval among held-out utterances", "Recall in percent."
    return Table("retrieval", title, columns, cells, 3 + several_models, rules=rules, note=note)


def probe_table(rows: list[dict]) -> Table:
    """What a linear probe reads from the tokens before and after CALP, beside chance. `rows` have a `model` each."""
    read = {}
    for row in rows:
        read.setdefault((row["model"], row["corpus"], row["of"]), {})[row["when"]] = row
    cells = [
        [*key, str(known["n"]), str(known["classes"])]
        + [f"{100 * when[name]['balanced_accuracy']:.1f}" if name in when else MISSING for name in ("before", "after")]
        + [f"{100 * known['chance']:.1f}"]
        for key, when in read.items()
        for known in [next(iter(when.values()))]
    ]
    columns = ["model", "corpus", "what is read", "n", "classes", "before CALP", "after CALP", "chance"]
    note = (
        "Balanced accuracy in percent of logistic regression on mean and deviation of an utterance's tokens. Speakers: tested on other "
        "utterances of the same speakers. Labels: trained on the training split, tested on the held-out splits. Before CALP, SpecTran's "
        "weights are random. MOSEI names no speakers: there a speaker is a recording."
    )
    return Table("probes", "What can be read from the tokens", columns, cells, 3, rules=group_starts([row[0] for row in cells]), note=note)


def retrieval_sentences(rows: list[dict]) -> list[str]:
    """How far above chance the text of a test utterance is found."""
    return [
        f"Given the audio of a test utterance of {row['corpus']}, its text is among the first 10 of {row['n']} in "
        f"{100 * row['recall_at_10']:.1f} % of cases; chance gives {100 * row['chance_recall_at_10']:.1f} % "
        f"({row['recall_at_10'] / row['chance_recall_at_10']:.1f} times chance; model {row['model']})."
        for row in rows
        if row["pair"] == "audio to text" and row["split"] == "test" and row["chance_recall_at_10"]
    ]


def run_table(settings: Settings, outputs: StageOutputs) -> Table:
    """One row for each run of a stage, of a head or of a baseline, as far as MLflow runs are known."""
    cells = []
    for stage, measured in outputs.measured.items():
        kind, _, name = stage.partition("@")
        experiment = f"calm/{settings.heads[name].corpus if kind == 'head' else name}"
        for head in measured.get("heads", [{"mlflow_run": measured.get("mlflow_run")}]):
            if head.get("mlflow_run"):
                cells.append([stage, experiment, _run_title(head), head["mlflow_run"]])
    return Table("runs", "MLflow runs", ["stage", "experiment", "head", "run"], cells, 4, rules=group_starts([row[0] for row in cells]))


def _run_title(head: dict) -> str:
    """Of a head or baseline; "" for a stage."""
    if "variant" not in head:
        return ""
    key = Key(head["variant"], "", head["modality"])
    return f"{key.title}, {key.input}, seed {head['seed']}" + (f", fold {head['fold']}" if "fold" in head else "")
