"""Where every stage reads and writes. `dvc.yaml` lists the same paths; this is the only place in the code that spells them."""

from pathlib import Path

DATA = Path("data")
REPORTS = Path("reports")


def utterances(corpus: str) -> Path:
    """Table of utterances, written by `ingest`."""
    return DATA / "utterances" / corpus / "utterances.parquet"


def ingest_report(corpus: str) -> Path:
    """What `ingest` read, dropped and why."""
    return DATA / "utterances" / corpus / "report.json"


def texts(corpus: str) -> Path:
    """Folder with `texts.parquet` (one row an utterance) and `metrics.json`, written by `transcribe`."""
    return DATA / "texts" / corpus


def features(corpus: str) -> Path:
    """Folder of log-mel shards `part-00000.parquet` ... and `stats.json`, written by `features`."""
    return DATA / "features" / corpus


def calp(model: str) -> Path:
    """SpecTran and its projections after CALP, with the processor of their inputs and `metrics.json`."""
    return DATA / "calp" / model


def encoded(model: str) -> Path:
    """Encoded blocks of every corpus of a model, `<corpus>.parquet` each, written by `embed`."""
    return DATA / "encoded" / model


def pretrained(model: str) -> Path:
    """The multimodal transformer after MLM + MAM, with `metrics.json`."""
    return DATA / "pretrained" / model


def heads(corpus: str, model: str) -> Path:
    """Logits of every trained head and the released model."""
    return DATA / "heads" / corpus / model


def baselines(corpus: str) -> Path:
    """Logits of the baselines, beside those of the heads."""
    return DATA / "heads" / corpus / "baselines"


def evaluation(corpus: str) -> Path:
    """Metrics, thresholds and predictions of one corpus."""
    return DATA / "evaluation" / corpus


def transfer(name: str) -> Path:
    """Figures of a model on another corpus; beside those of `evaluation`, where no corpus can have this name."""
    return DATA / "evaluation" / "_transfer" / name


def measured(stage: str) -> Path:
    """Measurements of a stage's last run: seconds, device, host, MLflow run; outside every DVC output, as they differ between equal runs."""
    return DATA / "measured" / f"{stage}.json"


def work(stage: str) -> Path:
    """Checkpoints and partial results of a stage that was stopped; outside every DVC output, removed when the stage ends."""
    return DATA / "work" / stage.replace("@", "-")


def device_lock(device: str) -> Path:
    """Held by the flow whose stage has a GPU."""
    return servers() / f"gpu-{device}.lock"


def servers() -> Path:
    """Databases, logs and process numbers of the servers that `make up` starts."""
    return DATA / "servers"


def last_results() -> Path:
    """`metrics.json` of the last successful rebuild by a flow, to compare the next one with."""
    return DATA / "rebuilds" / "last-metrics.json"


def studies() -> Path:
    """Working copies of the project in which the flow `study` rebuilds other recipes."""
    return DATA / "studies"
