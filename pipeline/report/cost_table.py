"""Table 4: what pretraining takes, ours and the paper's. Imports nothing heavy."""

from collections.abc import Iterable

from pipeline import paper
from pipeline.report.table import Table
from pipeline.report.wording import MISSING, duration, listed


def cost_table(calp: dict[str, dict], pretrained: dict[str, dict], measured: dict[str, dict], lm: dict[str, str]) -> Table | None:
    """One row for each model.

    Args:
        calp, pretrained: metrics of the stages by model.
        measured: measurements of the stages by the stage's name, such as "calp@small".
        lm: model -> name of its language model in the tables.
    """
    names = list(dict.fromkeys([*calp, *pretrained]))
    if not names:
        return None
    columns = ["pretraining", "language model", "hours of audio", "language model's parameters", "CALM's own parameters", "device", "time"]
    columns += ["of which CALP", "FLOPs"]
    cells = [_cells(name, calp.get(name), pretrained.get(name), measured, lm) for name in names]
    for row in paper.COSTS:
        sizes = [row.hours, row.language_model.parameters, row.language_model.calm_parameters]
        cells.append([f"paper: {row.corpora}", row.language_model.title, *sizes, "8 V100", row.time, None, None])
    note = (
        "Wall-clock time of CALP and masked prediction together; hours of audio are those of the training split. CALM's own parameters: "
        "SpecTran, CALP's projections and the heads of masked prediction, as far as a model has them. The paper's rows are quoted from "
        "its table 4."
    )
    return Table("study-table-4", "Table 4: what pretraining takes", columns, cells, 2, rules={len(names)}, note=note)


def _cells(name: str, calp: dict | None, pretrained: dict | None, measured: dict[str, dict], lm: dict[str, str]) -> list:
    stages = {stage: metrics for stage, metrics in ((f"calp@{name}", calp), (f"pretrain@{name}", pretrained)) if metrics}
    hours = next((metrics["hours"] for metrics in stages.values() if metrics.get("hours")), None)
    sizes = (pretrained or {}).get("parameters", {})
    besides = sizes.get("calm_besides_language_model", 0) + projection_parameters(calp)
    if not pretrained:
        besides += (calp.get("parameters") or {}).get("spectran", 0)
    seconds = [measured.get(stage, {}).get("seconds") for stage in stages]
    devices = list(dict.fromkeys(device for stage in stages if (device := measured.get(stage, {}).get("device"))))
    has_calp = calp and calp.get("curve", True)  # a model that CALP does not align has no epochs of it
    corpora = listed(next(iter(stages.values())).get("corpora", [])) or MISSING
    return [
        f"{name}: {corpora}",
        lm.get(name, name),
        f"{hours:.1f}" if hours else None,
        f"{sizes['language_model']:,}" if sizes.get("language_model") else None,
        f"{besides:,}" if besides else None,
        listed(devices) or MISSING,
        duration(None if None in seconds else sum(seconds)),
        duration(measured.get(f"calp@{name}", {}).get("seconds")) if has_calp else MISSING,
        flops_text(metrics.get("flops") for metrics in stages.values()),
    ]


def projection_parameters(calp: dict | None) -> int:
    """Parameters of CALP's projections, which the multimodal transformer does not keep."""
    return (calp or {}).get("parameters", {}).get("projections", 0)


def flops_text(counts: Iterable[float | None]) -> str | None:
    """The sum as a power of ten; None where one of the counts is not known."""
    counts = list(counts)
    return None if None in counts else f"{sum(counts):.1e}"
