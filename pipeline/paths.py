"""Where every stage reads and writes. `dvc.yaml` lists the same paths; no other code spells them."""

from pathlib import Path

DATA = Path("data")
REPORTS = Path("reports")
STATE = DATA / "state"
FINGERPRINTS = DATA / "fingerprints"


def state(address: str) -> Path:
    """Settings and code of a stage ("calp@small"), written by `check`."""
    return STATE / f"{address}.json"


def fingerprint(corpus: str) -> Path:
    """Folder with `audio.json` and `other.json`: number, bytes and digest of a raw corpus's files, by `check` or `synthesise`."""
    return FINGERPRINTS / corpus


def utterances(corpus: str) -> Path:
    """Table of utterances, written by `ingest`."""
    return DATA / "utterances" / corpus / "utterances.parquet"


def segments(corpus: str) -> Path:
    """Id, audio, start, end and split of every utterance, by `ingest`: all that `features` depends on."""
    return DATA / "segments" / corpus / "segments.parquet"


def ingest_report(corpus: str) -> Path:
    """What `ingest` read, dropped and why."""
    return DATA / "ingest" / f"{corpus}.json"


def texts(corpus: str) -> Path:
    """Folder with `texts.parquet` (a row an utterance) and `metrics.json`, written by `transcribe`."""
    return DATA / "texts" / corpus


def features(corpus: str) -> Path:
    """Folder of log-mel shards `part-00000.parquet` ... and `stats.json`, and of an encoder's states below it, written by `features`."""
    return DATA / "features" / corpus


def frames(corpus: str, kind: str | None) -> Path:
    """Folder of the shards and statistics of one kind of frames, see `calm.audio.features.KINDS`; log-mel if None."""
    return features(corpus) / kind if kind == "encoder" else features(corpus)


def at_speed(speed: float) -> str:
    """Name of the folder of copies at another speed, below that of `frames`."""
    return f"speed-{speed:g}"


def speeds(corpus: str) -> list[float]:
    """Speeds of the copies of a corpus."""
    return sorted(float(folder.name.removeprefix("speed-")) for folder in frames(corpus, "encoder").glob("speed-*"))


def calp(model: str) -> Path:
    """SpecTran and its projections after CALP, with the processor of their inputs and `metrics.json`."""
    return DATA / "calp" / model


def encoded(model: str) -> Path:
    """Encoded blocks of every corpus that a model is pretrained on, `<corpus>.parquet` each, written by `embed`."""
    return DATA / "encoded" / model


def pretrained(model: str) -> Path:
    """The multimodal transformer after masked prediction, with `metrics.json`."""
    return DATA / "pretrained" / model


def heads(corpus: str, model: str) -> Path:
    """Logits and curves of every trained head, and the weights of the one that `release` takes."""
    return DATA / "heads" / corpus / model


def baselines(corpus: str) -> Path:
    """Logits of the baselines, beside those of the heads."""
    return DATA / "heads" / corpus / "baselines"


def evaluation(corpus: str) -> Path:
    """Metrics, thresholds and predictions of one corpus."""
    return DATA / "evaluation" / corpus


def model(corpus: str, model: str) -> Path:
    """A released model, written by `release`."""
    return DATA / "models" / corpus / model


def transfer(name: str) -> Path:
    """Folder with the figures of a model on another corpus."""
    return DATA / "transfer" / name


def measured(address: str) -> Path:
    """Seconds, device, host and MLflow run of the last run of a stage ("calp@small"); no output of DVC's, as equal results differ in it."""
    return DATA / "measured" / f"{address}.json"


def work(address: str) -> Path:
    """Checkpoints and finished parts of a stage that was stopped; outside of DVC's outputs, removed when the stage ends."""
    return DATA / "work" / address


def device_lock(device: str) -> Path:
    """Held by the flow whose stage has a GPU."""
    return servers() / f"gpu-{device}.lock"


def servers() -> Path:
    """Databases, logs and process numbers of the servers that `make up` starts."""
    return DATA / "servers"


def registry_key() -> Path:
    """Key by which ids and speakers of validation decisions are digested; the working copies of studies share it with the servers."""
    return servers() / "registry.key"


def forgotten(corpus: str) -> Path:
    """Digests of the speakers that `calm forget` removed, one list a corpus; never removed by a stage."""
    return DATA / "forgotten" / f"{corpus}.json"


def stage_lock(address: str) -> Path:
    """Held by the process that runs a stage."""
    return DATA / "work" / f"{address}.lock"


def last_results() -> Path:
    """`metrics.json` of the last successful rebuild by a flow, to compare the next one with."""
    return DATA / "rebuilds" / "last-metrics.json"


def studies() -> Path:
    """Working copies of the project in which the flow `study` rebuilds other recipes."""
    return DATA / "studies"
